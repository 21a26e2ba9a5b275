"""Axes of an SVG picture: a scale between two ends, a rectangle with one across and one up, and legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from partune.runtime import rounding

TICKS = 5  # steps of an even axis
LINE = 18  # pixels from one line of a legend to the next


class Axis(NamedTuple):
    """A scale between two ends.

    Attributes:
        low: The value at its low end.
        high: The value at its high end.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], log: bool) -> Axis:
        """Return the axis from the least to the greatest value that it can show.

        Args:
            values: The values, also those that it cannot show.
            log: Whether it is logarithmic.
        """
        shown = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
        low, high = min(shown), max(shown)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
        return cls(low, high, log)

    @classmethod
    def rounded(cls, low: float, high: float) -> Axis:
        """Return the shortest even axis over two values whose ticks are round numbers.

        Args:
            low: The lower value.
            high: The higher one.
        """
        span = high - low or abs(high) or 1.0
        rough = 10.0 ** math.floor(math.log10(span / TICKS))
        for step in (rough * factor for factor in (1, 2, 2.5, 3, 4, 5, 6, 8, 10, 20)):
            start = step * math.floor(low / step + 1e-9)
            if start + TICKS * step >= high - 1e-9 * step:
                break
        return cls(start, start + TICKS * step)

    def shows(self, value: float) -> bool:
        """Return whether a value has a place on the axis."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def place(self, value: float) -> float:
        """Return the place of a value: 0 at the low end and 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return the values at the ticks: powers of ten or two on a logarithmic axis, even steps on another."""
        if not self.log:
            return [self.low + (self.high - self.low) * i / TICKS for i in range(TICKS + 1)]
        for base in (10, 2):
            first, last = math.ceil(math.log(self.low, base) - 1e-9), math.floor(math.log(self.high, base) + 1e-9)
            if last > first:
                stride = math.ceil((last - first + 1) / 7)
                return [float(base) ** k for k in range(first, last + 1, stride)]
        return [self.low, self.high]


class Key(NamedTuple):
    """What a legend says of a mark.

    Attributes:
        mark: SVG elements around (0, 0).
        width: Their width, in pixels.
        words: What they stand for.
    """

    mark: str
    width: float
    words: str


class Frame(NamedTuple):
    """A rectangle of a picture, and its axes.

    Attributes:
        left: Pixels from the left.
        top: Pixels from the top.
        width: Its width, in pixels.
        height: Its height, in pixels.
        across: The axis across.
        up: The axis up.
    """

    left: float
    top: float
    width: float
    height: float
    across: Axis
    up: Axis

    @property
    def bottom(self) -> float:
        """Pixels from the top to its lower edge."""
        return self.top + self.height

    def x(self, value: float) -> float:
        """Return the pixels from the left to a value on the axis across."""
        return round(self.left + self.width * self.across.place(value), 1)

    def y(self, value: float) -> float:
        """Return the pixels from the top to a value on the axis up."""
        return round(self.bottom - self.height * self.up.place(value), 1)

    def places(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return in pixels those of some points that the axes can show."""
        return [(self.x(a), self.y(b)) for a, b in points if self.across.shows(a) and self.up.shows(b)]

    def line(self, points: Iterable[tuple[float, float]], style: str) -> str:
        """Return points joined by lines.

        Args:
            points: The points (x, y), in the axes' values.
            style: Attributes of the SVG element.
        """
        places = " ".join(f"{x},{y}" for x, y in self.places(points))
        return f'<polyline points="{places}" fill="none" {style}/>'

    def axes(self, label: str, grid: bool = True) -> Iterator[str]:
        """Yield the two axes with their ticks, and a label below.

        Args:
            label: What the axis across shows.
            grid: Draw faint lines across at the ticks.
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
        """Return the label of the axis that goes up."""
        x, y = self.left - 42, self.top + self.height / 2
        return text(x, y, label, f'text-anchor="middle" transform="rotate(-90 {x:g} {y:g})"')


def keyed(legend: Iterable[Key], width: float, top: float = 60) -> Iterator[str]:
    """Yield a legend in as many lines as it takes.

    Args:
        legend: The keys, in their order.
        width: The picture's width, in pixels.
        top: Pixels from the top to the first line.
    """
    for x, y, (mark, size, words) in arranged(legend, width):
        yield f'<g transform="translate({x + size / 2:g},{top + LINE * y:g})">{mark}</g>'
        yield text(round(x + size + 4, 1), top + LINE * y + 4, words)


def arranged(legend: Iterable[Key], width: float) -> Iterator[tuple[float, int, Key]]:
    """Yield where each key begins, in pixels from the left and in lines from the first.

    Args:
        legend: The keys, in their order.
        width: The picture's width, in pixels.
    """
    x, y = 10.0, 0
    for key in legend:
        wide = key.width + 4 + breadth(key.words)
        if x + wide > width - 4:
            x, y = 10.0, y + 1
        yield x, y, key
        x += wide + 12


def breadth(words: str) -> float:
    """Return about how many pixels a text is wide."""
    return sum(3.2 if letter in " ,.:|fijlrt" else 6.8 for letter in words)


def digits(value: float) -> str:
    """Return the text of a tick, with a minus sign rather than a hyphen."""
    return rounding.number(value, 3).replace("-", "−")


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Return a text; its characters are escaped.

    Args:
        x: Pixels from the left.
        y: Pixels from the top.
        words: The text.
        style: Further attributes of the SVG element.
    """
    return f'<text x="{x}" y="{y}"{style and f" {style}"}>{escape(words)}</text>'


def sheet(width: float, height: float, content: Iterable[str]) -> str:
    """Return a picture on a white ground, so that it can be read on a light page and on a dark one.

    Args:
        width: Its width, in pixels.
        height: Its height, in pixels.
        content: SVG elements.
    """
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
        *content,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
