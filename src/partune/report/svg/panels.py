"""Draw line charts side by side, as an SVG picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from partune.report.svg.frame import Axis, Frame, sheet, text

WIDTH, HEIGHT = 270, 210  # the size of a panel's frame, in pixels
LEFT, TOP, RIGHT, BOTTOM = 62, 84, 18, 52  # the margins around the frame


class Curve(NamedTuple):
    """A line through points, which may have a shaded band.

    Attributes:
        points: The points (x, y).
        colour: The colour of the line and the band.
        broken: Whether the line is dashed.
        band: The points (x, low, high) of the band; empty for no band.
    """

    points: Sequence[tuple[float, float]]
    colour: str
    broken: bool = False
    band: Sequence[tuple[float, float, float]] = ()


class Panel(NamedTuple):
    """A chart.

    Attributes:
        title: The title of the chart.
        label: The label of the x axis.
        curves: The curves, of which the last is on top.
        log_x: Whether the x axis is logarithmic. Values <= 0 are then not shown.
        log_y: Whether the y axis is logarithmic. Values <= 0 are then not shown.
        y: The ends of the y axis; by default the smallest and largest y of the curves.
        x: The ends of the x axis; by default the smallest and largest x of the curves.
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
        title: The title of the picture.
        note: The line below the title.
        panels: The panels, from left to right.
        legend: The entries of the legend: (text, colour).
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
        left: The pixels from the picture's left edge to the panel's frame.
        top: The pixels from the picture's top edge to the panel's frame.
        width: The width of the panel's frame, in pixels.
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
