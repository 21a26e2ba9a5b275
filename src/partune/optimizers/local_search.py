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
    """A climb by random neighbours, the first better one taken; from a local optimum it leaps and climbs again.

    Ours: a local optimum is a point that `patience` neighbours in a row did not improve, or that has no new ones. The
    neighbours come closer one after another, from `step` to FINE `step`. The first climb begins at the best of n_init
    points. After a leap to a failure another leap is made.

    Args:
        space: The search space.
        seed: The seed of the hypercube and the moves.
        n_init: The points of the initial hypercube.
        patience: The neighbours of a point without an improvement after which it counts as a local optimum.
        step: The standard deviation of a climb's moves, in units of the cube's side.
        leap: The standard deviation of a perturbation, in the same units.
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
        # The proposals that are perturbations, with the number of the local optimum that each leaves.
        self.leaves: dict[int, int] = {}

    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        """Yield neighbours of the current point, and leaps from the best local optimum once it is one itself."""
        best, current, stalls = self.walk()
        if stalls < self.patience:
            step = self.step * FINE ** (stalls / self.patience)
            # Half of the moves that `next_point` looks at: a leap must be among them if no neighbour is new.
            for _ in range(MOVES // 2):
                yield self.neighbour(current.point, step, rng)
        self.leaves[len(self.proposals)] = current.number
        while True:
            yield self.neighbour(best.point, self.leap, rng)

    def walk(self) -> tuple[Result, Result, int]:
        """Return the best local optimum (s*), where the climb stands, and how many neighbours have not improved it.

        If several leaps from one optimum were asked for together, the first begins a climb and the others are its
        candidates.
        """
        # A fold over the results in order of number, so that the order in which they came changes nothing.
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
