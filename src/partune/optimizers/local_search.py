"""Iterated local search.

H. R. Lourenço, O. C. Martin and T. Stützle, Iterated Local Search, in Handbook of Metaheuristics, 2003, with their
acceptance criterion Better; Talbi 2009, section 2.6.

    s*  = LocalSearch(s_0)
    repeat: s' = Perturbation(s*);  s*' = LocalSearch(s');  s* = s*' if it is better
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from partune.errors import UserError
from partune.optimizers.metaheuristic import MOVES, Metaheuristic, Result
from partune.space import Space
from partune.trial import Point

FINE = 0.05


class IteratedLocalSearch(Metaheuristic):
    """Climb to the first better random neighbour, again and again, and leap away from each local optimum.

    The sources leave some details open. Here, a point counts as a local optimum if `patience` neighbours in a row did
    not improve on it, or if it has no new neighbour. From the first of these neighbours to the last, the standard
    deviation of a move shrinks from `step` towards FINE * `step`. The first climb begins at the best of n_init points.
    If the trial at the end of a leap fails, another leap follows.

    Args:
        space: The search space.
        seed: The seed of the initial hypercube, the moves and the leaps.
        n_init: The number of points of the initial hypercube.
        patience: The number of neighbours without an improvement after which a point counts as a local optimum.
        step: The standard deviation of the first moves from a point that the climb has reached, in units of the cube's
            side.
        leap: The standard deviation of a perturbation (a leap), in units of the cube's side.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        n_init: int = 5,
        patience: int = 10,
        step: float = 0.2,
        leap: float = 0.4,
    ) -> None:
        super().__init__(space, seed, n_init)
        if patience < 1:
            raise UserError(f"patience >= 1 must hold, got patience={patience}")
        if not 0 < step <= leap <= 1:
            raise UserError(f"0 < step <= leap <= 1 must hold, got step={step}, leap={leap}")
        self.patience = patience
        self.step = step
        self.leap = leap
        # The key is the number of a proposal made by a leap. The value is the number of the proposal at which the climb
        # before the leap ended.
        self.leaves: dict[int, int] = {}

    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        """Yield neighbours of the current point, then leaps from s*; at a local optimum, yield only leaps."""
        best, current, stalls = self.walk()
        if stalls < self.patience:
            step = self.step * FINE ** (stalls / self.patience)
            # `next_point` tries MOVES moves. The second half are leaps, which are needed if no neighbour is new.
            for _ in range(MOVES // 2):
                yield self.neighbour(current.point, step, rng)
        self.leaves[len(self.proposals)] = current.number
        while True:
            yield self.neighbour(best.point, self.leap, rng)

    def walk(self) -> tuple[Result, Result, int]:
        """Return s*, the current point, and the number of neighbours that did not improve on the current point.

        If several leaps were proposed after the same climb, the first of them begins the next climb, and the others
        count as neighbours in that climb.
        """
        # The walk is computed in order of number, so that the order in which results arrive does not matter.
        first, *rest = self.results
        best = current = first
        stalls = 0
        for candidate in rest:
            leaps = self.leaves.get(candidate.number) == current.number and math.isfinite(candidate.score)
            if candidate.score > current.score or leaps:
                current, stalls = candidate, 0
            elif candidate.number >= self.n_init:
                stalls += 1
            if current.score > best.score:
                best = current
        return best, current, stalls
