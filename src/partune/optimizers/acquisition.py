"""The acquisition function, which is the logarithm of the expected improvement, and starting points to maximise it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

from partune.optimizers.surrogate import Surrogate

Points = NDArray[np.float64]

Acquisition = Callable[[Points], Points]  # (m, d) to (m,)


def acquisition(surrogate: Surrogate) -> Acquisition:
    """Return a function that takes points and returns log E[max(f - f*, 0)] at each of them; Ament et al. 2023.

    f* is the highest posterior mean at an evaluated or pending point.
    """
    # The highest score is not used as f*, because the highest of several noisy scores is partly due to chance. Without
    # noise, the highest score and f* agree.
    best = float(surrogate.posterior(surrogate.X)[0].max())

    def log_ei(points: Points) -> Points:
        mean, std = surrogate.posterior(points)
        return np.log(std) + log_h((mean - best) / std)

    return log_ei


def log_h(z: Points) -> Points:
    """Return log(phi(z) + z Phi(z)) without cancellation; Ament et al. 2023, eq. 9; z: any shape."""
    # NumPy computes every branch for all z, so a branch may overflow at a z whose result comes from another branch.
    with np.errstate(all="ignore"):
        near = np.log(np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) + z * ndtr(z))
        log_ratio = np.log(-z * erfcx(-z / np.sqrt(2))) + 0.5 * np.log(np.pi / 2)  # log(-z Phi(z) / phi(z))
        tail = np.where(z > -1e6, np.log(-np.expm1(np.minimum(log_ratio, -1e-16))), -2 * np.log(-z))
        result: Points = np.where(z > -1, near, -0.5 * z * z - 0.5 * np.log(2 * np.pi) + tail)
    return result


def leaders(surrogate: Surrogate, count: int = 4) -> Points:
    """Return the evaluated or pending points of highest posterior mean.

    Args:
        surrogate: The fitted Gaussian process, which holds the points.
        count: The largest number of points to return.

    Returns:
        The points, (count, d) or fewer, the highest mean first.
    """
    mean, _ = surrogate.posterior(surrogate.X)
    return surrogate.X[np.argsort(-mean, kind="stable")[:count]]


def around(points: Points, rng: np.random.Generator, copies: int, step: Points) -> Points:
    """Return random points near the given ones.

    Each axis moves with probability 1/2. In every fourth point, one random axis gets a uniform value.

    Args:
        points: The points to start from, (n, d).
        rng: The random generator.
        copies: The number of points to draw near each starting point.
        step: For each random point, the standard deviation of its moves, (n * copies, 1), in units of the cube's side.

    Returns:
        The random points, (n * copies, d).
    """
    start = points.repeat(copies, axis=0)
    moved = np.clip(start + step * rng.standard_normal(start.shape) * (rng.random(start.shape) < 0.5), 0, 1)
    # On the axis of a choice, a small step stays within the share of one option. A uniform coordinate can be in any.
    rows = np.arange(0, len(moved), 4)
    moved[rows, rng.integers(moved.shape[1], size=len(rows))] = rng.random(len(rows))
    return moved
