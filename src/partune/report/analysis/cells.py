"""Find the regions into which a partition algorithm has cut the space, by replaying its trials."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from partune.optimizers.base import Optimizer
from partune.trial import Point, Trial


@dataclass(frozen=True)
class Region:
    """A region of the unit cube: a box, or the ball inside the box.

    Attributes:
        lower: The lowest corner of the box, (d,).
        upper: The highest corner of the box, (d,).
        depth: The number of cuts from the root to the region.
        score: The score that ranks the region; NaN if it is unknown, and for balls.
        inferred: Whether the score is a Gaussian process's lower bound, because no trial was evaluated in the region.
    """

    lower: Point
    upper: Point
    depth: int
    score: float = math.nan
    inferred: bool = False


@dataclass(frozen=True)
class Partition:
    """The regions of a search.

    Attributes:
        regions: The regions, each before the parts into which it was cut.
        round: Whether the regions are balls.
        depths: The depth of each trial's cell: (number of the trial, depth).
        inferred: The depth of each cell that only a Gaussian process scored: (number of the next trial, depth).
    """

    regions: Sequence[Region]
    round: bool
    depths: Sequence[tuple[int, int]]
    inferred: Sequence[tuple[int, int]]


def partition(optimizer: Optimizer, trials: Sequence[Trial]) -> Partition | None:
    """Return the regions of a search; None if its algorithm does not cut the space into regions.

    Args:
        optimizer: The search's optimiser before its first trial. The trials are replayed on it.
        trials: The trials of the search, in order.
    """
    from partune.optimizers.fractal import FDA, Hypersphere
    from partune.optimizers.partition import Partitioned

    if not isinstance(optimizer, (Partitioned, FDA)):
        return None
    optimizer.replay(trials)
    if isinstance(optimizer, FDA):
        regions = [
            Region(tuple(u - region.r for u in region.c), tuple(u + region.r for u in region.c), region.level)
            for region in optimizer.regions
        ]
        return Partition(regions, optimizer.shape is Hypersphere, [], [])
    if optimizer.tree is None:
        return None
    # With integers and choices, many points decode to one configuration. So match cells by the encoded configuration.
    canonical = functools.cache(lambda point: optimizer.space.encode(optimizer.space.decode(point)))
    first: dict[Point, int] = {}  # by configuration, the depth of the first cell with it at the centre
    regions = []
    for cell in optimizer.tree.cells:
        first.setdefault(canonical(cell.point), cell.depth)
        score = optimizer.known(cell.point)
        inferred = score is None and math.isfinite(cell.score)
        regions.append(Region(cell.lower, cell.upper, cell.depth, cell.score if score is None else score, inferred))
    asked = [(trial.number, optimizer.space.encode(trial.config)) for trial in trials]
    noted = [(trial.number, canonical(tuple(note["point"]))) for trial in trials for note in trial.notes]
    return Partition(regions, False, *([(n, first[u]) for n, u in points if u in first] for points in (asked, noted)))
