"""Simulated annealing.

S. Kirkpatrick, C. D. Gelatt and M. P. Vecchi, Optimization by Simulated Annealing, Science 220, 1983, with the
acceptance rule of N. Metropolis et al., J. Chem. Phys. 21, 1953:

    P(accept) = min(1, exp((candidate - current) / T))        scores, higher is better

    T_0    median |difference| of the initial scores / log(1 / accept)
    T      temperature at proposal n, which falls geometrically from T_0 to COLD * T_0 over the horizon
    s      step at proposal n, which falls geometrically from step to FINE * step over the horizon
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from partune.errors import UserError
from partune.optimizers.metaheuristic import Metaheuristic, Result
from partune.space import Space
from partune.trial import Point

COLD = 1e-3
FINE = 0.05


class Annealing(Metaheuristic):
    """A random walk that accepts worse points less and less often while its steps shrink.

    The walk begins at the best of n_init points. Two things are not in the papers. The first temperature is computed
    from the scores, so that their unit and origin do not matter. After `horizon` proposals, the walk restarts from the
    best point so far, hot again.

    Args:
        space: The search space.
        seed: The seed of the initial Latin hypercube, the moves and their acceptance.
        n_init: The number of points of the initial Latin hypercube.
        horizon: The number of proposals in one cooling; ideally the budget minus n_init.
        accept: The probability at T_0 of accepting a score that is worse by the median difference of initial scores.
        step: The standard deviation of the first moves, in units of the cube's side.
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
        """Yield neighbours of the current point, whose steps shrink as the walk cools."""
        current = self.current
        step = self.step * FINE ** self.progress(len(self.proposals))
        while True:
            yield self.neighbour(current.point, step, rng)

    @property
    def current(self) -> Result:
        """The result at the walk's current point, from which the next proposal is made."""
        # The walk is computed from all results in order of number. A late result is therefore used in its turn, and a
        # resumed study walks the same way.
        results = self.results
        t_0 = self.first_temperature([result.score for result in results])
        uniform = np.random.default_rng([self.seed, 0, 3]).random(len(self.proposals))  # one per proposal
        current = best = results[0]
        cycle = 0
        for candidate in results:
            n = candidate.number
            if self._cycle(n) > cycle:
                current, cycle = best, self._cycle(n)
            # For the initial points T = 0, so no worse point is accepted: the walk begins at the best of them.
            t = t_0 * COLD ** self.progress(n) if n >= self.n_init else 0.0
            if uniform[n] < metropolis(candidate.score, current.score, t):
                current = candidate
            if candidate.score > best.score:
                best = candidate
        return best if self._cycle(len(self.proposals)) > cycle else current

    def first_temperature(self, scores: Sequence[float]) -> float:
        """Return T_0, in units of the score, from the first n_init finite scores.

        If these are all equal, the scores after them are used too, up to the first that differs. If none differs, T_0
        is 0.

        Args:
            scores: The scores in order of number.
        """
        finite = [score for score in scores if math.isfinite(score)]
        differs = next((i for i, score in enumerate(finite) if score != finite[0]), 0)
        initial = finite[: max(self.n_init, differs + 1)]
        differences = [abs(a - b) for a, b in itertools.combinations(initial, 2) if a != b]
        return statistics.median(differences) / math.log(1 / self.accept) if differences else 0.0

    def progress(self, n: int) -> float:
        """Return the share of the current cooling that is over at proposal n, in [0, 1)."""
        return max(n - self.n_init, 0) % self.horizon / self.horizon

    def _cycle(self, n: int) -> int:
        return max(n - self.n_init, 0) // self.horizon


def metropolis(candidate: float, current: float, t: float) -> float:
    """Return the probability of accepting a candidate.

    A failure (-inf) is accepted only if the current point is a failure too.

    Args:
        candidate: The candidate's score.
        current: The score of the walk's current point.
        t: The temperature, in units of the score; >= 0.
    """
    if candidate >= current:
        return 1.0
    return math.exp((candidate - current) / t) if t > 0 else 0.0
