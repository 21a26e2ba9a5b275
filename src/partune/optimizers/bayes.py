"""Bayesian optimisation with a Gaussian process.

Jones, Schonlau and Welch 1998 (EGO), with logEI in place of EI (Ament et al. 2023) and, for what is pending, the
Kriging Believer (Ginsbourger, Le Riche and Carraro 2010); Algorithm 3.1 of the original study's report.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from botorch.acquisition.analytic import LogExpectedImprovement
from botorch.exceptions.warnings import NumericsWarning
from botorch.optim import optimize_acqf
from numpy.typing import NDArray
from scipy.stats import qmc

from partune.errors import UserError
from partune.optimizers.sampling import LatinHypercube
from partune.optimizers.surrogate import Surrogate, tensor
from partune.space import Space
from partune.threads import threads
from partune.trial import Point

Points = NDArray[np.float64]


class GPBO(LatinHypercube):
    """A Latin hypercube of n_init points; then, one at a time, fit the process, maximise logEI, propose.

    While no finite score is told, the sampling goes on with further hypercubes.

    n_init: points of the initial design.
    sobol: points of the acquisition's first look, a power of two.
    restarts: of its gradient ascent, from the best of that look.
    """

    def __init__(self, space: Space, seed: int = 0, n_init: int = 10, sobol: int = 256, restarts: int = 4) -> None:
        if n_init < 1:
            raise UserError(f"n_init >= 1 must hold, got n_init={n_init}")
        if sobol < 2 or sobol & (sobol - 1):
            raise UserError(f"sobol must be a power of two, got sobol={sobol}")
        if restarts < 1:
            raise UserError(f"restarts >= 1 must hold, got restarts={restarts}")
        super().__init__(space, seed, size=n_init)
        self.n_init = n_init
        self.sobol = sobol
        self.restarts = restarts
        self._fitted: tuple[int, Surrogate] | None = None

    @property
    def cheap(self) -> bool:
        return len(self.proposals) < self.n_init or not any(map(np.isfinite, self._scores.values()))

    @threads(1)
    def next_point(self) -> Point | None:
        if self.cheap:
            return super().next_point()
        rng = np.random.default_rng([self.seed, len(self.proposals), 2])
        surrogate = self._surrogate().believing([self.space.encode(each.config) for each in self.pending])
        log_ei = acquisition(surrogate)

        look = np.concatenate([self._spread(rng), self._around_the_best(surrogate, rng)])  # (m, d)
        starts = look[np.argsort(-values(log_ei, look), kind="stable")[: self.restarts]]  # (restarts, d)
        points = self._new([*climb(log_ei, starts), *look])
        if not points:
            return super().next_point()
        return points[int(np.argmax(values(log_ei, np.array(points))))]

    def _surrogate(self) -> Surrogate:
        """Fitted from the priors' modes each time, never from the fit before: the state is the history alone."""
        told = len(self._scores)
        if self._fitted is None or self._fitted[0] != told:
            self._fitted = told, Surrogate(*self.history)
        return self._fitted[1]

    def _spread(self, rng: np.random.Generator) -> Points:
        """Scrambled Sobol points, (sobol, d)."""
        return qmc.Sobol(self.space.dimension, rng=rng).random(self.sobol)

    def _around_the_best(
        self, surrogate: Surrogate, rng: np.random.Generator, leaders: int = 4, each: int = 16
    ) -> Points:
        """Points around the evaluated ones of highest posterior mean: some axes moved, one drawn anew; (m, d)."""
        points, _ = self.history
        mean, _ = surrogate.posterior(points)
        best = np.array(points)[np.argsort(-mean, kind="stable")[:leaders]].repeat(each, axis=0)  # (m, d)
        step = np.exp(rng.uniform(np.log(0.005), np.log(0.3), size=(len(best), 1)))
        moved = np.clip(best + step * rng.standard_normal(best.shape) * (rng.random(best.shape) < 0.5), 0, 1)
        rows = np.arange(0, len(moved), 2)
        moved[rows, rng.integers(moved.shape[1], size=len(rows))] = rng.random(len(rows))
        return moved

    def _new(self, points: Iterable[Points]) -> list[Point]:
        """The points that would really be evaluated, of the configurations that were never proposed; each once."""
        snapped = dict.fromkeys(self._canonical(tuple(point.tolist())) for point in points)
        return [point for point in snapped if point not in self._number]


def acquisition(surrogate: Surrogate) -> LogExpectedImprovement:
    """log E[max(f - f*, 0)] under the surrogate; Ament et al. 2023.

    f* is the highest posterior mean at an evaluated or pending point, not the highest score: the same without noise,
    and no prey to a lucky score with it.
    """
    X = surrogate.model.train_inputs[0].numpy()
    mean, _ = surrogate.posterior(X)
    return LogExpectedImprovement(surrogate.model, best_f=surrogate.standardized(float(mean.max())))


def values(log_ei: LogExpectedImprovement, points: Points) -> Points:
    """The acquisition at points (m, d), one by one; (m,)."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericsWarning)
        found: Points = log_ei(tensor(points).unsqueeze(-2)).numpy()  # (m, 1, d) -> (m,)
    return found


def climb(log_ei: LogExpectedImprovement, starts: Points) -> Points:
    """Local maxima of the acquisition by L-BFGS-B, one from each start; (r, d) to (r, d).

    The starts are given, so `optimize_acqf` draws none of its own and needs no seed.
    """
    d = starts.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line search that ends early still ends at a point worth comparing
        maxima, _ = optimize_acqf(
            log_ei,
            bounds=tensor([[0.0] * d, [1.0] * d]),
            q=1,
            num_restarts=len(starts),
            batch_initial_conditions=tensor(starts).unsqueeze(-2),  # (r, 1, d)
            options={"maxiter": 100},
            return_best_only=False,
        )
    climbed: Points = maxima.squeeze(-2).numpy().clip(0.0, 1.0)
    return climbed
