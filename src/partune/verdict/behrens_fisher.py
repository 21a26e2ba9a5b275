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

import numpy as np
import scipy

NODES, SHARES = np.polynomial.legendre.leggauss(100)  # probabilities are wrong by less than 1e-4


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
        return float(scipy.optimize.brentq(lambda x: self.sf(x) - (1 - p), 0.0, 2 * sum(each), rtol=1e-9))
