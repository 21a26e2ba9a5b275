"""Simulated annealing.

S. Kirkpatrick, C. D. Gelatt and M. P. Vecchi, Optimization by Simulated Annealing, Science 220, 1983, with the
acceptance of N. Metropolis et al., J. Chem. Phys. 21, 1953:

    P(accept) = min(1, exp((candidate - current) / T))        scores, higher is better

    T_0    median |difference| of the initial scores / log(1 / accept)
    T, s   temperature and step of proposal n: geometric from T_0 and step to COLD T_0 and FINE step over the horizon
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from partune.errors import UserError
from partune.optimizers.metaheuristic import Metaheuristic, Told
from partune.space import Space
from partune.trial import Point

COLD = 1e-3
FINE = 0.05


class Annealing(Metaheuristic):
    """A walk from the best of n_init points, that takes worse ones less and less often while its steps shrink.

    Ours: the first temperature follows from the scores, so that their unit and origin change nothing. After the
    horizon the walk restarts from the best point so far, hot again.

    n_init: points of the initial hypercube.
    horizon: proposals of one cooling; best the budget less n_init.
    accept: probability at T_0 of accepting a loss as large as the median difference of the initial scores.
    step: first standard deviation of a move, in units of the cube's side.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        n_init: int = 5,
        horizon: int = 50,
        accept: float = 0.1,
        step: float = 0.2,
    ) -> None:
        super().__init__(space, seed, n_init)
        if horizon < 1:
            raise UserError(f"horizon >= 1 must hold, got horizon={horizon}")
        if not 0 < accept < 1:
            raise UserError(f"0 < accept < 1 must hold, got accept={accept}")
        if not 0 < step <= 1:
            raise UserError(f"0 < step <= 1 must hold, got step={step}")
        self.horizon = horizon
        self.accept = accept
        self.step = step

    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        current = self.current
        step = self.step * FINE ** self.progress(len(self.proposals))
        while True:
            yield self.neighbour(current.point, step, rng)

    @property
    def current(self) -> Told:
        """Where the walk stands for the next proposal: a fold over the results in order of number."""
        told = self.told
        t_0 = self.first_temperature([each.score for each in told])
        uniform = np.random.default_rng([self.seed, 0, 3]).random(len(self.proposals))  # one for each number
        current = best = told[0]
        cycle = 0
        for candidate in told:
            n = candidate.number
            if self._cycle(n) > cycle:
                current, cycle = best, self._cycle(n)
            t = t_0 * COLD ** self.progress(n) if n >= self.n_init else 0.0  # the walk begins at the best of n_init
            if uniform[n] < metropolis(candidate.score, current.score, t):
                current = candidate
            if candidate.score > best.score:
                best = candidate
        return best if self._cycle(len(self.proposals)) > cycle else current

    def first_temperature(self, scores: Sequence[float]) -> float:
        """T_0 in units of the score, of the scores in order of number: of the first n_init that are finite.

        More, up to the first that differs, where these are all equal; 0 where all are.
        """
        finite = [score for score in scores if math.isfinite(score)]
        differs = next((i for i, score in enumerate(finite) if score != finite[0]), 0)
        initial = finite[: max(self.n_init, differs + 1)]
        differences = [abs(a - b) for a, b in itertools.combinations(initial, 2) if a != b]
        return statistics.median(differences) / math.log(1 / self.accept) if differences else 0.0

    def progress(self, n: int) -> float:
        """The share of its cooling that is over at proposal n, in [0, 1)."""
        return max(n - self.n_init, 0) % self.horizon / self.horizon

    def _cycle(self, n: int) -> int:
        return max(n - self.n_init, 0) // self.horizon


def metropolis(candidate: float, current: float, t: float) -> float:
    """The probability of moving from a score to another at temperature t >= 0; a failure (-inf) only from a failure."""
    if candidate >= current:
        return 1.0
    return math.exp((candidate - current) / t) if t > 0 else 0.0
