"""The Gaussian process that models the objective.

    f ~ GP(c, s k),  z = f(x) + e,  e ~ N(0, v w(x))
    k(x, x') = (1 + a + a^2 / 3) exp(-a),  a = sqrt(5) r,  r^2 = sum_i D_i(x, x') / l_i^2     Matern-5/2
    D_i = (x_i - x'_i)^2 for numbers; D_i = 1 for different options of a choice, 0 for equal ones
    log l_i ~ N(log(sqrt(d) / 4), 1),  log s ~ N(0, 1/4),  log v ~ N(log 0.02, 4)              weak priors

    X   (n, d)  evaluated points (after rounding), in the unit cube
    z   (n,)    standardised scores, with their lower tail on a log scale (`tamed`)
    w   (n,)    relative variances of the observations, from their standard errors; all 1 if none is known
    c           estimated by generalised least squares
    l, s, v     estimated by maximising the posterior density of their logarithms (MAP)

The prior of the length scales, which grows with sqrt(d), is from Hvarfner, Hellsten and Nardi (2024). The marginal
likelihood and its gradient are from Rasmussen and Williams (2006), eq. 2.30 and 5.9. Both have a closed form, so a fit
at n = 100 takes 10 ms. Trials that are scored on the same items share much of their error. Standard errors therefore
only set the relative variances w, and their common factor v is estimated.

No random numbers are drawn, so a fit depends only on the data.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, lapack, solve_triangular
from scipy.optimize import Bounds, minimize

from partune.space import Choice, Space
from partune.trial import Point

Array = NDArray[np.float64]

# Bounds of l, in units of the cube's side, and of s and v, in units of the scores' variance. JITTER is added to the
# diagonal, so that the Cholesky factor exists for nearly equal points.
LENGTHS, SIGNALS, NOISES, JITTER = (1e-3, 1e3), (1e-2, 1e2), (1e-8, 10.0), 1e-8
# The largest number of observations in a search's fit, and of pending points that are added to it. A fit takes O(n^3)
# time and O(n^2) memory. With this limit, an ask takes less than a second for any length of history.
MOST = 400


class Surrogate:
    """A Gaussian process fitted to scores.

    The posterior is in units of the score, except in the lower tail, which has a log scale (`tamed`). A failure counts
    as the worst finite score. Scores are not scaled if they are all equal or if there is only one.

    Args:
        space: The search space, which defines which axes are choices.
        points: The evaluated points, (n, d), n >= 1.
        scores: The scores of the points, (n,), at least one of them finite; -inf for a failure.
        errors: The standard errors of the scores, (n,), NaN if unknown; None if all are unknown.
    """

    def __init__(
        self, space: Space, points: Sequence[Point], scores: Sequence[float], errors: Sequence[float] | None = None
    ) -> None:
        y = tamed(imputed(scores))
        self.shift, self.scale = spread(y)
        self.X = np.array(points, dtype=np.float64)
        self.z = (y - self.shift) / self.scale
        parameters = space.hyperparameters.values()
        self.choices = np.array([isinstance(parameter, Choice) for parameter in parameters])
        self.options = [
            np.unique([0.5, *map(parameter.encode, parameter.options if isinstance(parameter, Choice) else ())])
            for parameter in parameters
        ]
        self.weights, known = relative_variances(errors, len(y))
        self.lengths, self.signal, self.noise = self._fit(None if known is None else known / self.scale**2)
        self._condition()

    @property
    def n(self) -> int:
        """The number of points, including the pending points that `believing` adds."""
        return len(self.z)

    def posterior(self, points: Sequence[Point] | Array) -> tuple[Array, Array]:
        """Return the posterior mean and standard deviation of f, (m,) each, without the observations' noise.

        Args:
            points: The points, (m, d).
        """
        K = self.signal * matern(self._distances(np.asarray(points, dtype=np.float64)))  # (m, n)
        mean = self.shift + self.scale * (self.constant + K @ self._alpha)
        V = solve_triangular(self._L, K.T, lower=True, check_finite=False)  # (n, m)
        variance = self.signal - np.einsum("nm,nm->m", V, V)
        # At an observed point the difference may round to less than zero.
        return mean, self.scale * np.sqrt(np.maximum(variance, 1e-12 * self.signal))

    def believing(self, points: Sequence[Point]) -> Surrogate:
        """Return a copy of this process that has its own posterior mean as the score at each of `points`, (m, d).

        This is the Kriging Believer for pending points (Ginsbourger, Le Riche and Carraro 2010). The process keeps its
        hyperparameters.
        """
        if not points:
            return self
        believer = copy.copy(self)
        believer.X = np.concatenate([self.X, np.array(points)])
        believer.z = np.concatenate([self.z, (self.posterior(points)[0] - self.shift) / self.scale])
        believer.weights = np.concatenate([self.weights, np.ones(len(points))])
        believer._condition()
        return believer

    # ----- the fit

    def _fit(self, known: float | None) -> tuple[Array, float, float]:
        """Return l (d,), s and v at the mode of their posterior, which L-BFGS-B finds from the mode of their prior.

        known: The mean variance of the observations, in units of z^2; None if no error is known.
        """
        d = self.X.shape[1]
        means = np.array([math.log(math.sqrt(d) / 4)] * d + [0.0, math.log(0.02 if known is None else known + 1e-4)])
        precisions = np.array([1.0] * d + [4.0, 0.25 if known is None else 1.0])
        D = squares(self.X, self.X, self.choices).reshape(d, -1)  # (d, n n)

        def loss(theta: Array) -> tuple[float, Array]:
            value, gradient = self._marginal(theta, D)
            off = theta - means
            return 0.5 * float(off @ (precisions * off)) - value, precisions * off - gradient

        low, high = np.log([LENGTHS] * d + [SIGNALS, NOISES]).T
        mode = minimize(loss, means.clip(low, high), jac=True, method="L-BFGS-B", bounds=Bounds(low, high)).x
        return np.exp(mode[:d]), float(np.exp(mode[d])), float(np.exp(mode[d + 1]))

    def _marginal(self, theta: Array, D: Array) -> tuple[float, Array]:
        """Return log p(z | X, theta) without its constant, and its gradient, (d + 2,); D: (d, n n)."""
        n, d = self.n, len(D)
        inverse_squares = np.exp(-2 * theta[:d])  # 1 / l^2
        signal, noise = np.exp(theta[d:])
        a = np.sqrt(5 * (inverse_squares @ D)).reshape(n, n)
        decay = np.exp(-a)
        K = signal * (1 + a + a * a / 3) * decay
        V = K.copy()
        V.flat[:: n + 1] += noise * self.weights
        L, failed = lapack.dpotrf(V, lower=True, clean=True, overwrite_a=True)
        # V is not positive definite in double precision. The very low value makes the line search turn back.
        if failed:
            return -1e25, np.zeros(d + 2)
        inverse, _ = lapack.dpotri(L, lower=True)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        ones = inverse.sum(axis=1)
        residual = self.z - (ones @ self.z) / ones.sum()  # c by generalised least squares
        alpha = inverse @ residual
        value = -0.5 * float(residual @ alpha) - float(np.log(np.diag(L)).sum())
        W = np.outer(alpha, alpha) - inverse  # dL/dtheta = tr(W dV/dtheta) / 2
        slope = (W * (5 / 3 * signal) * (1 + a) * decay).ravel()  # dk / d(log l_i) = 5/3 (1 + a) exp(-a) D_i / l_i^2
        gradient = np.concatenate(
            [0.5 * inverse_squares * (D @ slope), [0.5 * (W * K).sum(), 0.5 * noise * (np.diag(W) @ self.weights)]]
        )
        return value, gradient

    def _condition(self) -> None:
        """Compute what `posterior` needs (the Cholesky factor, c and the coefficients of the mean) from l, s and v."""
        K = self.signal * matern(self._distances(self.X))
        K.flat[:: self.n + 1] += self.noise * self.weights + JITTER
        self._L, _ = cho_factor(K, lower=True, check_finite=False)
        ones = cho_solve((self._L, True), np.ones(self.n), check_finite=False)
        self.constant = float(ones @ self.z / ones.sum())
        self._alpha = cho_solve((self._L, True), self.z - self.constant, check_finite=False)

    def _distances(self, points: Array) -> Array:
        """Return r^2 between points (m, d) and X, (m, n)."""
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a b needs one matrix product and no (m, n, d) array, but may round below zero.
        A, B = self._scaled(points), self._scaled(self.X)
        r_squared: Array = np.maximum((A * A).sum(axis=1)[:, None] + (B * B).sum(axis=1) - 2 * (A @ B.T), 0.0)
        return r_squared

    def _scaled(self, points: Array) -> Array:
        """Return points in units of the length scales, (m, features); choices become indicators divided by sqrt(2)."""
        # With these indicators, two different options are 1 apart, and all distances are Euclidean.
        columns = [points[:, ~self.choices] / self.lengths[~self.choices]]
        for axis in np.flatnonzero(self.choices):
            columns.append((points[:, [axis]] == self.options[axis]) / (np.sqrt(2) * self.lengths[axis]))
        return np.concatenate(columns, axis=1)


def subset(
    points: Sequence[Point], scores: Sequence[float], errors: Sequence[float], most: int = MOST
) -> tuple[list[Point], list[float], list[float]]:
    """Return the observations, at most `most`, to which a search fits its Gaussian process.

    If there are more, one half of `most` are the best observations, which show where the optimum is. The other half
    are evenly spaced among the ranks of the rest, and show where it is not. A process fitted only to the best would
    treat the rest of the space as unexplored.

    Args:
        points: The n points of the observations, each (d,).
        scores: The scores, (n,); -inf for a failure.
        errors: The standard errors of the scores, (n,).
        most: The largest number of observations to return, at least 2.

    Returns:
        The points, scores and errors of the selected observations, in their original order.
    """
    n, best = len(scores), most // 2
    selected: Sequence[int] = range(n)
    if n > most:
        ranks = sorted(range(n), key=lambda k: (-scores[k], k))
        others, count = ranks[best:], most - best
        selected = sorted([*ranks[:best], *(others[i * len(others) // count] for i in range(count))])
    return [points[k] for k in selected], [scores[k] for k in selected], [errors[k] for k in selected]


def imputed(scores: Sequence[float]) -> Array:
    """Return scores, (n,), with failures (-inf) replaced by the worst finite score.

    Raises:
        ValueError: No score is finite.
    """
    y = np.array(scores, dtype=np.float64)
    finite = np.isfinite(y)
    if not finite.any():
        raise ValueError("a surrogate needs a finite score")
    return np.where(finite, y, y[finite].min())


def tamed(y: Array) -> Array:
    """Return scores, (n,), with their lower tail on a log scale.

    Let h be the best score minus the median, and t = median - h. A score y < t becomes t - h log(1 + (t - y) / h), and
    other scores stay the same. This map is increasing, and smooth at t. If h = 0, all scores stay the same.
    """
    # The process must distinguish good scores from better ones, but a few very bad scores would dominate its scale.
    median = float(np.median(y))
    h = float(y.max()) - median
    if not h > 0:
        return y
    below = np.maximum(median - h - y, 0.0)
    return np.where(below > 0, median - h - h * np.log1p(below / h), y)


def untamed(v: Array, y: Array) -> Array:
    """Return tamed values in units of the score, by the inverse of `tamed`.

    Args:
        v: Tamed values, of any shape.
        y: The scores to which `tamed` was applied, (n,); they determine where the tail begins.
    """
    median = float(np.median(y))
    h = float(y.max()) - median
    if not h > 0:
        return v
    below = np.maximum(median - h - v, 0.0)
    return np.where(below > 0, median - h - h * np.expm1(np.minimum(below / h, 700.0)), v)


def spread(y: Array) -> tuple[float, float]:
    """Return the mean and the standard deviation of scores; the deviation is 1 if all scores are equal."""
    # The scores are first divided by the largest one, because the squares of scores near 1e200 would overflow.
    size = float(np.abs(y).max())
    if not size > 0:
        return 0.0, 1.0
    mean = float((y / size).mean())
    deviation = float((y / size).std(ddof=1)) if len(y) > 1 else 0.0
    return size * mean, size * deviation if deviation > 1e-12 else 1.0


def relative_variances(errors: Sequence[float] | None, n: int) -> tuple[Array, float | None]:
    """Return the observations' variances relative to their mean, (n,), and the mean variance.

    If no error is known, all relative variances are 1, and the mean is None. An unknown variance counts as the mean of
    the known ones. A relative variance is at least a tenth.

    Args:
        errors: Standard errors, (n,), NaN if unknown; None if all are unknown.
        n: The number of observations.
    """
    # The minimum is needed because an accuracy of 0 or 1 has an estimated error of 0, which would force the process
    # through that score.
    variances = np.full(n, np.nan) if errors is None else np.square(np.array(errors, dtype=np.float64))
    if not np.nansum(variances) > 0:
        return np.ones(n), None
    mean = float(np.nanmean(variances))
    return np.maximum(np.where(np.isnan(variances), mean, variances) / mean, 0.1), mean


def matern(r_squared: Array) -> Array:
    """Return the Matern-5/2 kernel of squared distances r^2; Rasmussen and Williams 2006, eq. 4.17."""
    a = np.sqrt(5 * r_squared)
    return (1 + a + a * a / 3) * np.exp(-a)


def squares(A: Array, B: Array, choices: NDArray[np.bool_]) -> Array:
    """Return the squared differences D_i between points on each axis.

    Args:
        A: Points, (m, d).
        B: Points, (n, d).
        choices: Which axes are choices, (d,).

    Returns:
        D_i, (d, m, n).
    """
    difference = A.T[:, :, None] - B.T[:, None, :]
    return np.where(choices[:, None, None], difference != 0, difference**2)
