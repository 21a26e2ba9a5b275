"""Line charts side by side, as an SVG picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from partune.report.svg.frame import Axis, Frame, sheet, text

WIDTH, HEIGHT = 270, 210  # of a panel's axes, in pixels
LEFT, TOP, RIGHT, BOTTOM = 62, 84, 18, 52  # around them


class Curve(NamedTuple):
    """Points joined by lines.

    Attributes:
        points: The points (x, y).
        colour: The colour.
        broken: Whether the line is dashed.
        band: Where the points may be, shaded: (x, low, high).
    """

    points: Sequence[tuple[float, float]]
    colour: str
    broken: bool = False
    band: Sequence[tuple[float, float, float]] = ()


class Panel(NamedTuple):
    """A chart.

    Attributes:
        title: Its title.
        label: What its axis across shows.
        curves: Its curves; the last lies on top.
        log_x: Whether the axis across is logarithmic, and shows no value <= 0.
        log_y: Whether the axis up is.
        y: The ends of the axis up; by default those of the curves.
        x: The ends of the axis across; by default those of the curves.
    """

    title: str
    label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False
    y: tuple[float, float] | None = None
    x: tuple[float, float] | None = None


def picture(title: str, note: str, panels: Sequence[Panel], legend: Sequence[tuple[str, str]]) -> str:
    """Return panels from left to right as SVG.

    Args:
        title: The picture's title.
        note: A line below it.
        panels: The panels.
        legend: Texts with their colours.
    """
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
    """Yield the SVG elements of a panel.

    Args:
        panel: The panel.
        left: Pixels from the left to its axes.
        top: Pixels from the top to its axes.
        width: The width of its axes, in pixels.
    """
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
