"""Draw the picture of a comparison as SVG: the best scores over trials and over time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from partune.report.figures import dashed, floor, hue
from partune.report.plain_data import Summary
from partune.report.svg.frame import LINE, Axis, Key, arranged, keyed, sheet, text
from partune.report.svg.panels import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Curve, Panel, drawn


def picture(compared: Summary) -> str:
    """Draw the best score so far over trials and, if all studies have timed curves, over seconds.

    Bands are 95 % intervals of the mean over repeats.

    Returns:
        The picture as SVG.
    """
    algorithms = compared["algorithms"]
    panels = [_panel(algorithms, "by_trial", "trials")]
    if all(algorithm["by_seconds"] for algorithm in algorithms):
        panels.append(_panel(algorithms, "by_seconds", "seconds"))
    room = WIDTH if len(panels) > 1 else 2 * WIDTH  # width of a panel's axes
    width = len(panels) * (LEFT + room + RIGHT)
    legend = [
        Key(_stroke(k), 20, f"{algorithm['algorithm']} ({len(algorithm['seeds'])})")
        for k, algorithm in enumerate(algorithms)
    ]
    top = 60 + LINE * max(line for _, line, _ in arranged(legend, width)) + 42
    several = any(len(algorithm["seeds"]) > 1 for algorithm in algorithms)
    note = "higher is better; mean over repeats (number of repeats in brackets)"
    note += "; bands: 95 % intervals of the mean" if several else ""
    lines = [text(10, 20, "Best score so far", 'font-size="14"'), text(10, 38, note, 'fill="#666"')]
    lines += keyed(legend, width)
    for i, panel in enumerate(panels):
        lines += drawn(panel, LEFT + i * (LEFT + room + RIGHT), top, room)
    return sheet(width, top + HEIGHT + BOTTOM, lines)


def _panel(algorithms: Sequence[Summary], which: str, unit: str) -> Panel:
    """Return a panel of step curves.

    Scores below `floor` are drawn at the lower edge, so that a bad start does not compress the rest of the scale.

    Args:
        algorithms: The comparison's algorithms.
        which: The curves to draw: "by_trial" or "by_seconds".
        unit: The key of a point's x coordinate, which also labels the x axis.
    """
    low = floor([point["mean"] for algorithm in algorithms for point in algorithm[which]])
    ends = [value for algorithm in algorithms for point in algorithm[which] for value in _reach(point) if value >= low]
    up = Axis.rounded(min(ends), max(ends))

    def clipped(value: float) -> float:
        return min(max(value, up.low), up.high)

    curves = []
    for k, algorithm in enumerate(algorithms):
        points = list(_steps([(point[unit], clipped(point["mean"])) for point in algorithm[which]]))
        banded = [point for point in algorithm[which] if point["low"] is not None]
        lower = _steps([(point[unit], clipped(point["low"])) for point in banded])
        upper = _steps([(point[unit], clipped(point["high"])) for point in banded])
        band = [(x, a, b) for (x, a), (_, b) in zip(lower, upper, strict=True)]
        curves.append(Curve(points, hue(k), dashed(k), band))
    across = Axis.rounded(0, max(x for curve in curves for x, _ in curve.points))
    return Panel("", unit, curves[::-1], x=(across.low, across.high), y=(up.low, up.high))  # the best on top


def _reach(point: Mapping[str, float | None]) -> list[float]:
    return [value for value in (point["mean"], point["low"], point["high"]) if value is not None]


def _steps(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the corners of a step curve through points: a best score holds until there is a better one."""
    yield from points[:1]
    for (_, before), (x, y) in itertools.pairwise(points):
        yield x, before
        yield x, y


def _stroke(k: int) -> str:
    dash = ' stroke-dasharray="6 4"' if dashed(k) else ""
    return f'<path d="M-9,0h18" fill="none" stroke="{hue(k)}" stroke-width="3"{dash}/>'
