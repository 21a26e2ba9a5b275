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
from partune.optimizers.metaheuristic import MOVES, Metaheuristic, Told
from partune.space import Space
from partune.trial import Point

FINE = 0.05


class IteratedLocalSearch(Metaheuristic):
    """Climbs by random neighbours, the first better one taken; from a local optimum, leaps and climbs again.

    Ours: a local optimum is a point that `patience` neighbours in a row did not improve, or with no new ones. They come
    closer one after another, from `step` to FINE `step`. The first climb begins at the best of n_init points. A leap
    that fails leads nowhere: the next one is made.

    n_init: points of the initial hypercube.
    patience: neighbours of a point without an improvement, after which it is a local optimum.
    step, leap: standard deviations of the moves of a climb and of a perturbation, in units of the cube's side.
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
        # Which proposals are perturbations, and the number of the local optimum that each leaves.
        self.leaves: dict[int, int] = {}

    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        best, current, stalls = self.walk()
        if stalls < self.patience:
            step = self.step * FINE ** (stalls / self.patience)
            for _ in range(MOVES // 2):
                yield self.neighbour(current.point, step, rng)
        self.leaves[len(self.proposals)] = current.number
        while True:
            yield self.neighbour(best.point, self.leap, rng)

    def walk(self) -> tuple[Told, Told, int]:
        """The best local optimum (s*), where the climb stands, and for how many neighbours: a fold in order of number.

        Of several leaps from one optimum, asked together, the first begins a climb; the others are its candidates.
        """
        first, *rest = self.told
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
