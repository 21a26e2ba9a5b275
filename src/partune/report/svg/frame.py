"""Draw the frame of an SVG picture: scales, a rectangle with an x axis and a y axis, and legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from partune.runtime import rounding

TICKS = 5  # steps between the ticks of a linear axis
LINE = 18  # the height of a line of a legend, in pixels


class Axis(NamedTuple):
    """A scale between two ends.

    Attributes:
        low: The value at the low end.
        high: The value at the high end.
        log: Whether the scale is logarithmic.
    """

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], log: bool) -> Axis:
        """Return an axis from the smallest to the largest of the values that it can show.

        Args:
            values: The values, which may include some that the axis cannot show.
            log: Whether the axis is logarithmic.
        """
        shown = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
        low, high = min(shown), max(shown)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
        return cls(low, high, log)

    @classmethod
    def rounded(cls, low: float, high: float) -> Axis:
        """Return the shortest linear axis that spans two values and has round numbers at its ticks.

        Args:
            low: The lower value.
            high: The higher value.
        """
        span = high - low or abs(high) or 1.0
        rough = 10.0 ** math.floor(math.log10(span / TICKS))
        for step in (rough * factor for factor in (1, 2, 2.5, 3, 4, 5, 6, 8, 10, 20)):
            start = step * math.floor(low / step + 1e-9)
            if start + TICKS * step >= high - 1e-9 * step:
                break
        return cls(start, start + TICKS * step)

    def shows(self, value: float) -> bool:
        """Return whether the axis can show a value."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def place(self, value: float) -> float:
        """Return the position of a value: 0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return the values at the ticks: powers of ten or two on a logarithmic axis, even steps on a linear one."""
        if not self.log:
            return [self.low + (self.high - self.low) * i / TICKS for i in range(TICKS + 1)]
        for base in (10, 2):
            first, last = math.ceil(math.log(self.low, base) - 1e-9), math.floor(math.log(self.high, base) + 1e-9)
            if last > first:
                stride = math.ceil((last - first + 1) / 7)
                return [float(base) ** k for k in range(first, last + 1, stride)]
        return [self.low, self.high]


class Key(NamedTuple):
    """An entry of a legend.

    Attributes:
        mark: The SVG elements of the mark, centred at (0, 0).
        width: The width of the mark, in pixels.
        words: The meaning of the mark.
    """

    mark: str
    width: float
    words: str


class Frame(NamedTuple):
    """A rectangle in a picture, with an x axis and a y axis.

    Attributes:
        left: The pixels from the picture's left edge to the rectangle's.
        top: The pixels from the picture's top edge to the rectangle's.
        width: The width of the rectangle, in pixels.
        height: The height of the rectangle, in pixels.
        across: The x axis.
        up: The y axis.
    """

    left: float
    top: float
    width: float
    height: float
    across: Axis
    up: Axis

    @property
    def bottom(self) -> float:
        """The pixels from the picture's top edge to the rectangle's lower edge."""
        return self.top + self.height

    def x(self, value: float) -> float:
        """Return the pixels from the picture's left edge to a value on the x axis."""
        return round(self.left + self.width * self.across.place(value), 1)

    def y(self, value: float) -> float:
        """Return the pixels from the picture's top edge to a value on the y axis."""
        return round(self.bottom - self.height * self.up.place(value), 1)

    def places(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return the positions, in pixels, of those points that the axes can show."""
        return [(self.x(a), self.y(b)) for a, b in points if self.across.shows(a) and self.up.shows(b)]

    def line(self, points: Iterable[tuple[float, float]], style: str) -> str:
        """Return an SVG line through points.

        Args:
            points: The points (x, y), as values on the axes.
            style: Further attributes of the SVG element.
        """
        places = " ".join(f"{x},{y}" for x, y in self.places(points))
        return f'<polyline points="{places}" fill="none" {style}/>'

    def axes(self, label: str, grid: bool = True) -> Iterator[str]:
        """Yield the two axes with their ticks, and the label of the x axis.

        Args:
            label: The label of the x axis.
            grid: Whether to draw faint horizontal lines at the ticks of the y axis.
        """
        yield text(self.left + self.width / 2, self.bottom + 38, label, 'text-anchor="middle"')
        for tick in self.across.ticks():
            x = self.x(tick)
            yield f'<line x1="{x}" y1="{self.bottom}" x2="{x}" y2="{self.bottom + 4}" stroke="black"/>'
            yield text(x, self.bottom + 18, digits(tick), 'text-anchor="middle"')
        for tick in self.up.ticks():
            y = self.y(tick)
            if grid:
                yield f'<line x1="{self.left}" y1="{y}" x2="{self.left + self.width}" y2="{y}" stroke="#e5e5e5"/>'
            yield text(self.left - 7, y + 4, digits(tick), 'text-anchor="end"')
        yield f'<path d="M{self.left},{self.top} V{self.bottom} H{self.left + self.width}" fill="none" stroke="black"/>'

    def upright(self, label: str) -> str:
        """Return the label of the y axis, written upwards."""
        x, y = self.left - 42, self.top + self.height / 2
        return text(x, y, label, f'text-anchor="middle" transform="rotate(-90 {x:g} {y:g})"')


def keyed(legend: Iterable[Key], width: float, top: float = 60) -> Iterator[str]:
    """Yield a legend, in as many lines as it needs.

    Args:
        legend: The entries, in their order.
        width: The width of the picture, in pixels.
        top: The pixels from the picture's top edge to the first line.
    """
    for x, y, (mark, size, words) in arranged(legend, width):
        yield f'<g transform="translate({x + size / 2:g},{top + LINE * y:g})">{mark}</g>'
        yield text(round(x + size + 4, 1), top + LINE * y + 4, words)


def arranged(legend: Iterable[Key], width: float) -> Iterator[tuple[float, int, Key]]:
    """Yield the position of each entry (pixels from the left, number of the line), and the entry.

    Args:
        legend: The entries, in their order.
        width: The width of the picture, in pixels.
    """
    x, y = 10.0, 0
    for key in legend:
        wide = key.width + 4 + breadth(key.words)
        if x + wide > width - 4:
            x, y = 10.0, y + 1
        yield x, y, key
        x += wide + 12


def breadth(words: str) -> float:
    """Return the approximate width of a text, in pixels."""
    return sum(3.2 if letter in " ,.:|fijlrt" else 6.8 for letter in words)


def digits(value: float) -> str:
    """Return the label of a tick, with a minus sign rather than a hyphen."""
    return rounding.number(value, 3).replace("-", "−")


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Return an SVG text.

    Args:
        x: The pixels from the picture's left edge.
        y: The pixels from the picture's top edge.
        words: The text, which is escaped here.
        style: Further attributes of the SVG element.
    """
    return f'<text x="{x}" y="{y}"{style and f" {style}"}>{escape(words)}</text>'


def sheet(width: float, height: float, content: Iterable[str]) -> str:
    """Return a picture on a white background, which can be read on a light page and on a dark one.

    Args:
        width: The width of the picture, in pixels.
        height: The height of the picture, in pixels.
        content: The SVG elements of the picture.
    """
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
        *content,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
