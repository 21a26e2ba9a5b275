"""Draw the cells into which a partition algorithm cut the space."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from partune.report.analysis.cells import Partition, Region
from partune.report.facts import Facts
from partune.report.figures import parts
from partune.report.figures.hyperparameters import dots
from partune.report.figures.parts import (
    BLUE,
    FAINT,
    SCALE,
    SKY,
    Figure,
    Trace,
    ends,
)


def cells(facts: Facts, partition: Partition, across: str, up: str) -> Figure:
    """Draw the cells that a plane through the winner cuts, shaded by their score.

    If the regions are balls (hyperspheres), they are projected onto the plane and are not shaded.

    Args:
        facts: The facts of the study.
        partition: The regions of the search.
        across: The name of the hyperparameter on the x axis.
        up: The name of the hyperparameter on the y axis.
    """
    axes = facts.space.names.index(across), facts.space.names.index(up)
    winner = facts.winner
    point = (0.5,) * facts.space.dimension if winner is None else facts.space.encode(winner.config)
    if partition.round:
        traces: list[Trace] = [_outlines([_circle(region, axes) for region in partition.regions])]
    else:
        cut = [region for region in partition.regions if _holds(region, point, axes)]
        boxes = [_box(region, axes) for region in cut]
        traces = [*_mosaic(facts, cut, axes), _outlines(boxes)]
    figure = parts.figure(
        [*traces, *dots(facts, across, up)], x=parts.axis(facts.space, across, 4), y=parts.axis(facts.space, up)
    )
    figure["layout"] |= {"showlegend": False}
    return figure


def _holds(region: Region, point: Sequence[float], free: tuple[int, int]) -> bool:
    """Return whether a region is cut by the plane that goes through a point along two free axes."""
    return all(
        k in free or low <= u < high or (u == high == 1)
        for k, (low, u, high) in enumerate(zip(region.lower, point, region.upper, strict=True))
    )


def _mosaic(facts: Facts, regions: Sequence[Region], axes: tuple[int, int]) -> list[Trace]:
    """Return a heat map whose grid lines are the edges of all cells. Deeper cells cover their parents."""
    if all(math.isnan(region.score) for region in regions):
        return []
    x, y = (sorted({edge for region in regions for edge in (region.lower[k], region.upper[k])}) for k in axes)
    z = np.full((len(y) - 1, len(x) - 1), np.nan)
    for region in regions:
        columns = slice(x.index(region.lower[axes[0]]), x.index(region.upper[axes[0]]))
        rows = slice(y.index(region.lower[axes[1]]), y.index(region.upper[axes[1]]))
        z[rows, columns] = region.score if math.isfinite(region.score) else np.nan
    low, high = ends([trial.score for trial in facts.done])
    return [
        {
            "type": "heatmap",
            "x": x,
            "y": y,
            "z": [[None if math.isnan(score) else parts.digits(score) for score in row] for row in z.tolist()],
            "zmin": low,
            "zmax": high,
            "colorscale": SCALE,
            "colorbar": parts.bar("score"),
            "hovertemplate": "cell's score %{z:.4g}<extra></extra>",
        }
    ]


def _box(region: Region, axes: tuple[int, int]) -> list[tuple[float, float]]:
    (left, bottom), (right, top) = ([side[k] for k in axes] for side in (region.lower, region.upper))
    return [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]


def _circle(region: Region, axes: tuple[int, int]) -> list[tuple[float, float]]:
    (left, bottom), (right, top) = ([side[k] for k in axes] for side in (region.lower, region.upper))
    angles = np.linspace(0, 2 * np.pi, 49)
    x, y, r = (left + right) / 2, (bottom + top) / 2, (right - left) / 2
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for angle in angles] if top > bottom else []


def _outlines(shapes: Iterable[Sequence[tuple[float, float]]]) -> Trace:
    x: list[float | None] = []
    y: list[float | None] = []
    for shape in dict.fromkeys(map(tuple, shapes)):
        x += [parts.digits(u) for u, _ in shape] + [None]
        y += [parts.digits(u) for _, u in shape] + [None]
    return {**parts.line(x, y, "cells", FAINT, "solid"), "line": {"color": FAINT, "width": 1}, "hoverinfo": "skip"}


def depths(partition: Partition) -> Figure:
    """Draw the depth of the search over trials."""
    traces = []
    for visits, name, colour, symbol in (
        (partition.inferred, "inferred, not evaluated", SKY, "circle-open"),
        (partition.depths, "evaluated", BLUE, "circle"),
    ):
        if visits:
            x, y = zip(*visits, strict=True)
            traces.append({**parts.points(list(x), list(y), name, colour), "marker": parts.mark(colour, symbol, 7)})
    if partition.depths:
        numbers, reached = zip(*partition.depths, strict=True)
        traces.insert(0, parts.steps(list(numbers), np.maximum.accumulate(reached).tolist(), "deepest so far"))
    whole = parts.whole(1 + max((number for number, _ in partition.depths), default=0))
    return parts.figure(traces, x={"title": "trial", **whole}, y={"title": "depth (cuts)", "rangemode": "tozero"})
