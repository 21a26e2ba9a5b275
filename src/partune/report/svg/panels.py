"""Line charts side by side, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from partune.report.svg.frame import Axis, Frame, sheet, text

WIDTH, HEIGHT = 270, 210  # of a panel's axes, in pixels
LEFT, TOP, RIGHT, BOTTOM = 62, 84, 18, 52  # around them


class Curve(NamedTuple):
    """Points (x, y) joined by lines. band: (x, low, high) of what they are uncertain by, shaded."""

    points: Sequence[tuple[float, float]]
    colour: str
    broken: bool = False
    band: Sequence[tuple[float, float, float]] = ()


class Panel(NamedTuple):
    """A chart. x, y: the ends of its axes; by default those of the curves. A logarithmic axis shows no value <= 0."""

    title: str
    label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False
    y: tuple[float, float] | None = None
    x: tuple[float, float] | None = None


def picture(title: str, note: str, panels: Sequence[Panel], legend: Sequence[tuple[str, str]]) -> str:
    """Panels from left to right; legend: texts with their colours."""
    width, height = len(panels) * (LEFT + WIDTH + RIGHT), TOP + HEIGHT + BOTTOM
    lines = [text(10, 20, title, 'font-size="14"'), text(10, 38, note, 'fill="#666"')]
    for i, (name, colour) in enumerate(legend):
        x = width - 80 * (len(legend) - i)
        lines.append(f'<line x1="{x}" y1="16" x2="{x + 18}" y2="16" stroke="{colour}" stroke-width="3"/>')
        lines.append(text(x + 23, 20, name))
    for i, panel in enumerate(panels):
        lines += drawn(panel, LEFT + i * (LEFT + WIDTH + RIGHT))
    return sheet(width, height, lines)


def drawn(panel: Panel, left: float, top: float = TOP, width: float = WIDTH) -> Iterator[str]:
    """A panel whose axes begin at `left` and `top` pixels, and are so wide."""
    points = [point for curve in panel.curves for point in curve.points]
    across = Axis.over([x for x, _ in points] if panel.x is None else panel.x, panel.log_x)
    up = Axis.over([y for _, y in points] if panel.y is None else panel.y, panel.log_y)
    frame = Frame(left, top, width, HEIGHT, across, up)
    yield text(left, top - 12, panel.title, 'font-weight="bold"')
    yield from frame.axes(panel.label)
    for curve in panel.curves:
        edge = frame.places([(x, low) for x, low, _ in curve.band] + [(x, high) for x, _, high in curve.band[::-1]])
        if edge:
            outline = " ".join(f"{x},{y}" for x, y in edge)
            yield f'<polygon points="{outline}" fill="{curve.colour}" fill-opacity="0.18"/>'
    for curve in panel.curves:
        dash = ' stroke-dasharray="6 4"' if curve.broken else ""
        yield frame.line(curve.points, f'stroke="{curve.colour}" stroke-width="2"{dash}')
