"""Compute the distribution of an error whose variance is the sum of two estimates with different degrees of freedom.

Satterthwaite's method (1946) takes Student's t with degrees of freedom between those of the two estimates. It is too
optimistic if one estimate is from very few observations: two training runs with similar scores by chance hide the
variance of the runs, and many items then supply many degrees of freedom. The distribution of Behrens (1929) and Fisher
(1935) gives each estimate its own Student's t, so that few observations always count as few:

    error = sqrt(variance[0]) t[0] + sqrt(variance[1]) t[1]         t[k]: Student's t with df[k] degrees of freedom

Tests with it keep their level or are conservative (Robinson 1976). If one variance is 0, it is Student's t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

Array = np.ndarray[Any, Any]

NODES, SHARES = np.polynomial.legendre.leggauss(100)  # probabilities are wrong by less than 1e-4
NORMAL = 1e9  # more degrees of freedom than this make no difference
TINY = 1e-300
STEPS = 12  # steps to a critical value, which is then known to four digits or more


@dataclass(frozen=True)
class BehrensFisher:
    """The distribution of the sum of two independent, scaled Student's t variables. It is symmetric around 0.

    Attributes:
        variances: The squared scales of the two variables.
        dfs: Their degrees of freedom.
    """

    variances: tuple[float, float]
    dfs: tuple[float, float]

    def sf(self, x: float) -> float:
        """Return the probability that the sum is larger than x.

        If both variances are 0, so that the sum is always 0, it is 0, 1/2 or 1 for a positive, zero or negative x.
        """
        (large, large_df), (small, small_df) = sorted(zip(self.variances, self.dfs, strict=True), reverse=True)
        if not large:
            return 0.5 - 0.5 * float(np.sign(x))
        if not small:
            return float(scipy.stats.t.sf(x / math.sqrt(large), large_df))
        # The convolution of the two: the smaller variable takes its quantiles, and the larger one has to make up the
        # rest. In this order the integrand is smooth.
        values = math.sqrt(small) * scipy.stats.t.ppf((NODES + 1) / 2, small_df)
        return float(SHARES / 2 @ scipy.stats.t.sf((x - values) / math.sqrt(large), large_df))

    def quantile(self, p: float) -> float:
        """Return the value that the sum exceeds with probability 1 - p.

        Args:
            p: A probability above one half and below 1.
        """
        each = [
            math.sqrt(v) * float(scipy.stats.t.ppf(p, df)) for v, df in zip(self.variances, self.dfs, strict=True) if v
        ]
        if len(each) < 2:
            return sum(each)
        high = 2 * sum(each)
        # SciPy's absolute tolerance of 2e-12 would be too coarse for errors of 1e-6 and less.
        return float(scipy.optimize.brentq(lambda x: self.sf(x) - (1 - p), 0.0, high, xtol=1e-10 * high, rtol=1e-9))


def tails(x: Array, variances: tuple[Array, Array], dfs: tuple[Array, Array]) -> Array:
    """Return the probabilities that several such sums are larger than given numbers, (m,); at once for all of them.

    Args:
        x: (m,), the numbers.
        variances: The squared scales of the two variables of each sum, each (m,), at least one of them positive.
        dfs: Their degrees of freedom, each (m,).
    """
    return _tails(x, *_convolved(variances, dfs))


def critical_values(level: float, variances: tuple[Array, Array], dfs: tuple[Array, Array]) -> Array:
    """Return the numbers that several such sums exceed with a small probability, (m,).

    Args:
        level: The probability, below one half.
        variances: The squared scales of the two variables of each sum, each (m,), at least one of them positive.
        dfs: Their degrees of freedom, each (m,).
    """
    parts = _convolved(variances, dfs)
    bounds = [
        np.sqrt(v) * -scipy.special.stdtrit(np.minimum(df, NORMAL), level) for v, df in zip(variances, dfs, strict=True)
    ]
    low, high = np.zeros(len(bounds[0])), bounds[0] + bounds[1]

    def excess(x: Array) -> Array:
        """Return the logarithm of the probability at x less that of the level, which is close to linear in x."""
        return np.asarray(np.log(np.maximum(_tails(x, *parts), TINY) / level))

    at_low, at_high = np.full(len(low), math.log(0.5 / level)), excess(high)
    for _ in range(STEPS):  # regula falsi in Illinois form (Dowell and Jarratt 1971)
        x = (low * at_high - high * at_low) / (at_high - at_low)
        at_x = excess(x)
        above = at_x > 0
        at_high, at_low = np.where(above, at_high / 2, at_high), np.where(above, at_low, at_low / 2)
        low, at_low = np.where(above, x, low), np.where(above, at_x, at_low)
        high, at_high = np.where(above, high, x), np.where(above, at_high, at_x)
    return np.asarray(x)


def _convolved(variances: tuple[Array, Array], dfs: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Return the quantiles of the smaller variable, (m, nodes), and the scale and degrees of freedom of the larger."""
    first = variances[0] >= variances[1]
    large, large_df = np.where(first, variances[0], variances[1]), np.where(first, dfs[0], dfs[1])
    small, small_df = np.where(first, variances[1], variances[0]), np.where(first, dfs[1], dfs[0])
    # SciPy's functions do not accept infinite degrees of freedom.
    values = np.sqrt(small)[:, None] * scipy.special.stdtrit(np.minimum(small_df, NORMAL)[:, None], (NODES + 1) / 2)
    return values, np.sqrt(large)[:, None], np.minimum(large_df, NORMAL)[:, None]


def _tails(x: Array, values: Array, scale: Array, df: Array) -> Array:
    return np.asarray(scipy.special.stdtr(df, (values - x[:, None]) / scale) @ SHARES / 2)
