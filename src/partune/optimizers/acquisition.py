"""Where to evaluate next: the expected improvement in logarithms, and points to look for its maximum from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

from partune.optimizers.surrogate import Surrogate

Points = NDArray[np.float64]


Acquisition = Callable[[Points], Points]  # (m, d) to (m,)


def acquisition(surrogate: Surrogate) -> Acquisition:
    """log E[max(f - f*, 0)] under the surrogate; Ament et al. 2023.

    f* is the highest posterior mean at an evaluated or pending point, not the highest score: the same without noise,
    and no prey to a lucky score with it.
    """
    best = float(surrogate.posterior(surrogate.X)[0].max())

    def log_ei(points: Points) -> Points:
        mean, std = surrogate.posterior(points)
        return np.log(std) + log_h((mean - best) / std)

    return log_ei


def log_h(z: Points) -> Points:
    """log(phi(z) + z Phi(z)), without cancellation; Ament et al. 2023, eq. 9. z: any shape."""
    with np.errstate(all="ignore"):
        plain = np.log(np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) + z * ndtr(z))
        ratio = np.log(-z * erfcx(-z / np.sqrt(2))) + 0.5 * np.log(np.pi / 2)  # of -z Phi(z) to phi(z)
        tail = np.where(z > -1e6, np.log(-np.expm1(np.minimum(ratio, -1e-16))), -2 * np.log(-z))
        found: Points = np.where(z > -1, plain, -0.5 * z * z - 0.5 * np.log(2 * np.pi) + tail)
    return found


def leaders(surrogate: Surrogate, count: int = 4) -> Points:
    """The evaluated points of highest posterior mean, (count, d)."""
    mean, _ = surrogate.posterior(surrogate.X)
    return surrogate.X[np.argsort(-mean, kind="stable")[:count]]


def around(points: Points, rng: np.random.Generator, each: int, step: Points) -> Points:
    """Points around others: about half of the axes moved, at times one drawn anew; (n, d) to (n each, d)."""
    start = points.repeat(each, axis=0)
    moved = np.clip(start + step * rng.standard_normal(start.shape) * (rng.random(start.shape) < 0.5), 0, 1)
    rows = np.arange(0, len(moved), 4)
    moved[rows, rng.integers(moved.shape[1], size=len(rows))] = rng.random(len(rows))
    return moved
