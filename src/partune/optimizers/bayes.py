"""Bayesian optimisation with a Gaussian process.

This is EGO (Jones, Schonlau and Welch 1998) with logEI instead of EI (Ament et al. 2023). The Kriging Believer
(Ginsbourger, Le Riche and Carraro 2010) handles pending proposals. See Algorithm 3.1 in the report of the study of
2025 that partune goes back to (docs/experiment.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import scipy

from partune.errors import UserError
from partune.optimizers.acquisition import Acquisition, Points, acquisition, around, leaders
from partune.optimizers.sampling import Hypercubes, Stream, check_design
from partune.optimizers.surrogate import MOST, Surrogate, subset
from partune.runtime.threads import one_blas_thread
from partune.space import Space
from partune.trial import Point

# `look` is limited because its points take memory. `rounds` is limited because each round halves the step, which is
# nearly zero after 1000 rounds.
MOST_LOOKED, MOST_ROUNDS = 2**16, 1000


class GPBO(Stream):
    """Bayesian optimisation: a Latin hypercube of n_init points, then maxima of logEI under a Gaussian process.

    While there is no finite score, further hypercubes follow.

    Args:
        space: The search space.
        seed: The seed of the hypercubes and of the search for the acquisition's maximum.
        n_init: The number of points of the initial design.
        look: The number of points at which the acquisition function is first computed, a power of two.
        rounds: The number of rounds that refine the best points; each round halves the step.
    """

    def __init__(self, space: Space, seed: int = 0, n_init: int = 10, look: int = 2048, rounds: int = 8) -> None:
        check_design("n_init", n_init)
        if not 2 <= look <= MOST_LOOKED or look & (look - 1):
            raise UserError(f"look must be a power of two, at most {MOST_LOOKED}, got look={look}")
        if rounds < 0:
            raise UserError(f"rounds >= 0 must hold, got rounds={rounds}")
        if rounds > MOST_ROUNDS:
            raise UserError(f"rounds <= {MOST_ROUNDS} must hold, got rounds={rounds}")
        super().__init__(space, seed, Hypercubes(space.dimension, seed, n_init))
        self.n_init = n_init
        self.look = look
        self.rounds = rounds
        self._fitted: tuple[int, Surrogate] | None = None  # the number of results, and the process fitted to them

    @property
    def cheap(self) -> bool:
        """Whether the next point comes from a hypercube, which needs no fit."""
        return len(self.proposals) < self.n_init or self.best_score == -math.inf

    @one_blas_thread()
    def next_point(self) -> Point | None:
        """Return the new point with the best acquisition found, or the next point of a hypercube."""
        if self.cheap:
            return super().next_point()
        rng = np.random.default_rng([self.seed, len(self.proposals), 2])
        pending = [self.space.encode(proposal.config) for proposal in self.pending[-MOST:]]
        surrogate = self._surrogate().believing(pending)
        points = self._new(self._best(acquisition(surrogate), leaders(surrogate), rng))
        return next(points, None) or super().next_point()

    def _surrogate(self) -> Surrogate:
        # Each fit starts from the priors' modes, not from the previous fit. The history is then the only state, so a
        # resumed study proposes the same points as one that was never interrupted.
        results = len(self.scores)
        if self._fitted is None or self._fitted[0] != results:
            self._fitted = results, Surrogate(self.space, *subset(*self.history, self.errors))
        return self._fitted[1]

    def _best(self, log_ei: Acquisition, leaders: Points, rng: np.random.Generator) -> Points:
        """Return points, (m, d), the best acquisition first; each is snapped to the point that would be evaluated."""
        d = self.space.dimension
        # Steps range from tiny to a third of the cube, because the peak near a leader narrows as scores arrive.
        near = around(leaders, rng, 64, np.exp(rng.uniform(np.log(0.003), np.log(0.3), (64 * len(leaders), 1))))
        points = self.space.snap(np.concatenate([scipy.stats.qmc.Sobol(d, rng=rng).random(self.look), near]))
        value = log_ei(points)
        for k in range(self.rounds):
            best = np.argsort(-value, kind="stable")[:8]
            moved = self.space.snap(around(points[best], rng, 32, np.full((32 * len(best), 1), 0.1 * 0.5**k)))
            points, value = np.concatenate([points, moved]), np.concatenate([value, log_ei(moved)])
        return points[np.argsort(-value, kind="stable")]

    def _new(self, points: Points) -> Iterator[Point]:
        """Yield the canonical point of each given point whose configuration was never proposed."""
        for point in points:
            canonical = self.canonical(tuple(point.tolist()))
            if not self.proposed(canonical):
                yield canonical
