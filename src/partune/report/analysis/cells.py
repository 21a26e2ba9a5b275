"""What a search of the partition family has cut the space into: its tree, regrown from its record."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from partune.optimizers.base import Optimizer
from partune.trial import Point, Trial


@dataclass(frozen=True)
class Region:
    """A part of the unit cube: a box, or the ball within it.

    Attributes:
        lower: Its lowest corner, (d,).
        upper: Its highest corner, (d,).
        depth: The cuts from the root down to it.
        score: What it is ranked by; NaN until it is known, and for balls.
        inferred: Whether its score is the lower bound of a Gaussian process, and nothing was evaluated there.
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
        regions: Parents before their parts.
        round: Whether they are balls.
        depths: How deep the search was: (number of the trial, depth of its cell).
        inferred: The depths of cells that only a Gaussian process scored, by the trial that came next.
    """

    regions: Sequence[Region]
    round: bool
    depths: Sequence[tuple[int, int]]
    inferred: Sequence[tuple[int, int]]


def partition(optimizer: Optimizer, trials: Sequence[Trial]) -> Partition | None:
    """Return what a search has cut the space into; None where it is not of the partition family.

    Args:
        optimizer: The search's optimiser, fresh; it is replayed here.
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
    # Integers and choices decode many points to one configuration, so cells are matched by the point it encodes to.
    canonical = functools.cache(lambda point: optimizer.space.encode(optimizer.space.decode(point)))
    first: dict[Point, int] = {}  # the depth of the first cell with a configuration at its centre
    regions = []
    for cell in optimizer.tree.cells:
        first.setdefault(canonical(cell.point), cell.depth)
        score = optimizer.known(cell.point)
        inferred = score is None and math.isfinite(cell.score)
        regions.append(Region(cell.lower, cell.upper, cell.depth, cell.score if score is None else score, inferred))
    asked = [(trial.number, optimizer.space.encode(trial.config)) for trial in trials]
    noted = [(trial.number, canonical(tuple(note["point"]))) for trial in trials for note in trial.notes]
    return Partition(regions, False, *([(n, first[u]) for n, u in points if u in first] for points in (asked, noted)))
