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
    not improve on it, or if it has no new neighbour. Over these neighbours, the standard deviation of a move shrinks
    from `step` to FINE `step`. The first climb begins at the best of n_init points. A leap to a failure is repeated.

    Args:
        space: The search space.
        seed: The seed of the hypercube and the moves.
        n_init: The number of points of the initial hypercube.
        patience: The number of neighbours without an improvement after which a point counts as a local optimum.
        step: The standard deviation of a climb's first moves, in units of the cube's side.
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
        # For each proposal that is a perturbation: the number of the local optimum that it leaves.
        self.leaves: dict[int, int] = {}

    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        """Yield neighbours of the current point, unless it is a local optimum, and then leaps from the best optimum."""
        best, current, stalls = self.walk()
        if stalls < self.patience:
            step = self.step * FINE ** (stalls / self.patience)
            # `next_point` looks at MOVES moves. The second half are leaps, which are needed if no neighbour is new.
            for _ in range(MOVES // 2):
                yield self.neighbour(current.point, step, rng)
        self.leaves[len(self.proposals)] = current.number
        while True:
            yield self.neighbour(best.point, self.leap, rng)

    def walk(self) -> tuple[Result, Result, int]:
        """Return the best local optimum (s*), the climb's current point, and the number of failed improvements on it.

        If several leaps from one optimum were asked for together, the first begins a climb, and the others count as
        neighbours in that climb.
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
