"""Line charts side by side, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 270, 210  # of a panel's axes, in pixels
LEFT, TOP, RIGHT, BOTTOM = 62, 84, 18, 52  # around them
TICKS = 5

Scale = Callable[[float], float]


class Curve(NamedTuple):
    """Points (x, y) joined by lines."""

    points: Sequence[tuple[float, float]]
    colour: str
    broken: bool = False


class Panel(NamedTuple):
    """A chart. y: the ends of its axis; by default those of the curves. A logarithmic axis shows no value <= 0."""

    title: str
    label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False
    y: tuple[float, float] | None = None


class Axis(NamedTuple):
    """What lies between two ends, on a scale; `place` is 0 at the low end and 1 at the high one."""

    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Sequence[float], log: bool) -> Axis:
        """From the least to the greatest that can be shown."""
        shown = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
        low, high = min(shown), max(shown)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
        return cls(low, high, log)

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def place(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """On a logarithmic axis powers of ten, or of two where there are fewer than two; else even steps."""
        if not self.log:
            return [self.low + (self.high - self.low) * i / TICKS for i in range(TICKS + 1)]
        for base in (10, 2):
            first, last = math.ceil(math.log(self.low, base) - 1e-9), math.floor(math.log(self.high, base) + 1e-9)
            if last > first:
                stride = math.ceil((last - first + 1) / 7)
                return [float(base) ** k for k in range(first, last + 1, stride)]
        return [self.low, self.high]


def picture(title: str, note: str, panels: Sequence[Panel], legend: Sequence[tuple[str, str]]) -> str:
    """Panels from left to right; legend: texts with their colours."""
    width, height = len(panels) * (LEFT + WIDTH + RIGHT), TOP + HEIGHT + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="10" y="38" fill="#666">{escape(note)}</text>',
    ]
    for i, (text, colour) in enumerate(legend):
        x = width - 80 * (len(legend) - i)
        lines.append(f'<line x1="{x}" y1="16" x2="{x + 18}" y2="16" stroke="{colour}" stroke-width="3"/>')
        lines.append(f'<text x="{x + 23}" y="20">{escape(text)}</text>')
    for i, panel in enumerate(panels):
        lines += drawn(panel, LEFT + i * (LEFT + WIDTH + RIGHT))
    return "\n".join([*lines, "</svg>"]) + "\n"


def drawn(panel: Panel, left: float) -> Iterator[str]:
    """A panel whose axes begin at `left` pixels."""
    points = [point for curve in panel.curves for point in curve.points]
    across = Axis.over([x for x, _ in points], panel.log_x)
    up = Axis.over([y for _, y in points] if panel.y is None else panel.y, panel.log_y)
    bottom = TOP + HEIGHT

    def x(value: float) -> float:
        return round(left + WIDTH * across.place(value), 1)

    def y(value: float) -> float:
        return round(bottom - HEIGHT * up.place(value), 1)

    yield f'<text x="{left}" y="{TOP - 12}" font-weight="bold">{escape(panel.title)}</text>'
    yield f'<text x="{left + WIDTH / 2}" y="{bottom + 38}" text-anchor="middle">{escape(panel.label)}</text>'
    for tick in across.ticks():
        yield f'<line x1="{x(tick)}" y1="{bottom}" x2="{x(tick)}" y2="{bottom + 4}" stroke="black"/>'
        yield f'<text x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:.3g}</text>'
    for tick in up.ticks():
        yield f'<line x1="{left}" y1="{y(tick)}" x2="{left + WIDTH}" y2="{y(tick)}" stroke="#e5e5e5"/>'
        yield f'<text x="{left - 7}" y="{y(tick) + 4}" text-anchor="end">{tick:.3g}</text>'
    yield f'<path d="M{left},{TOP} V{bottom} H{left + WIDTH}" fill="none" stroke="black"/>'
    for curve in panel.curves:
        shown = [(x(a), y(b)) for a, b in curve.points if across.shows(a) and up.shows(b)]
        dash = ' stroke-dasharray="6 4"' if curve.broken else ""
        places = " ".join(f"{a},{b}" for a, b in shown)
        yield f'<polyline points="{places}" fill="none" stroke="{curve.colour}" stroke-width="2"{dash}/>'
