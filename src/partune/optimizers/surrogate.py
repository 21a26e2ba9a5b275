"""The Gaussian process that stands in for the objective.

BoTorch's SingleTaskGP with the dimension-scaled priors of Hvarfner, Hellsten and Nardi 2024, its default since 0.12:

    f ~ GP(c, k),  k(x, x') = exp(-1/2 sum_i (x_i - x'_i)^2 / l_i^2),  y = f(x) + e,  e ~ N(0, v)
    l_i ~ LogNormal(sqrt(2) + log(d) / 2, sqrt(3)),  v ~ LogNormal(-4, 1)

    X   (n, d)  points really evaluated, in the unit cube
    y   (n,)    scores, standardised before the fit
    c, l, v     found by maximising the posterior density (MAP) with L-BFGS-B, from the priors' modes

Everything is float64 and draws no random number, so a fit is a function of (X, y) and of no global setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import botorch
import numpy as np
import torch
from botorch.models import SingleTaskGP
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import RBFKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from numpy.typing import NDArray

from partune.trial import Point

Array = NDArray[np.float64]

# Near BoTorch's bounds (1e-4 and 0.025), but powers of two, as GPyTorch keeps bounds in torch's default dtype.
LEAST_NOISE = 2.0**-13
LEAST_LENGTH = 2.0**-6


class Surrogate:
    """A fitted Gaussian process; its posterior is in the units of the score.

    points: (n, d), n >= 1; scores: (n,), -inf for a failure. A failure counts as the worst finite score, of which there
    must be one. Equal scores, or a single one, keep their own scale (1).
    """

    def __init__(self, points: Sequence[Point], scores: Sequence[float]) -> None:
        y = imputed(scores)
        self.shift = float(y.mean())
        deviation = float(y.std(ddof=1)) if len(y) > 1 else 0.0
        self.scale = deviation if deviation > 1e-12 * max(1.0, abs(self.shift)) else 1.0
        self.model = _model(tensor(points), tensor((y - self.shift) / self.scale))
        with botorch.settings.validate_input_scaling(False):
            fit_gpytorch_mll_scipy(ExactMarginalLogLikelihood(self.model.likelihood, self.model))
        self.model.eval()

    def posterior(self, points: Sequence[Point]) -> tuple[Array, Array]:
        """Mean and standard deviation of f, without the noise of an observation; points: (m, d), each (m,)."""
        with torch.no_grad():
            posterior = self.model.posterior(tensor(points))
            mean, variance = posterior.mean[:, 0].numpy(), posterior.variance[:, 0].numpy()
        return self.shift + self.scale * mean, self.scale * np.sqrt(variance)

    def standardized(self, score: float) -> float:
        """A score in the units of `model`."""
        return (score - self.shift) / self.scale

    def believing(self, points: Sequence[Point]) -> Surrogate:
        """The same process, as if the scores at `points` were its posterior mean there; (m, d), hyperparameters kept.

        The Kriging Believer for pending points: Ginsbourger, Le Riche and Carraro 2010.
        """
        if not points:
            return self
        X = torch.cat([self.model.train_inputs[0], tensor(points)])  # (n + m, d)
        with torch.no_grad():
            believed = self.model.posterior(tensor(points)).mean[:, 0]
        believer = object.__new__(Surrogate)
        believer.shift, believer.scale = self.shift, self.scale
        believer.model = _model(X, torch.cat([self.model.train_targets, believed]))
        believer.model.load_state_dict(self.model.state_dict())
        believer.model.eval()
        return believer


def imputed(scores: Sequence[float]) -> Array:
    """Failures (-inf) replaced by the worst finite score; (n,)."""
    y = np.array(scores, dtype=np.float64)
    finite = np.isfinite(y)
    if not finite.any():
        raise ValueError("a surrogate needs a finite score")
    return np.where(finite, y, y[finite].min())


def tensor(values: Any) -> torch.Tensor:
    """Float64, whatever torch's default is."""
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def _model(X: torch.Tensor, z: torch.Tensor) -> SingleTaskGP:
    """The process before its fit, hyperparameters at the priors' modes; X: (n, d), z: (n,).

    Written out, as BoTorch rounds its defaults to torch's default dtype.
    """
    d = X.shape[-1]
    length = LogNormalPrior(tensor(math.sqrt(2) + math.log(d) / 2), tensor(math.sqrt(3)))
    noise = LogNormalPrior(tensor(-4.0), tensor(1.0))
    with botorch.settings.validate_input_scaling(False):
        model = SingleTaskGP(
            X,
            z.unsqueeze(-1),
            likelihood=GaussianLikelihood(noise, noise_constraint=GreaterThan(LEAST_NOISE, transform=None)),
            covar_module=RBFKernel(
                ard_num_dims=d,
                lengthscale_prior=length,
                lengthscale_constraint=GreaterThan(LEAST_LENGTH, transform=None),
            ),
            outcome_transform=None,
        )
    model.covar_module.lengthscale = length.mode
    model.likelihood.noise = noise.mode
    return model
