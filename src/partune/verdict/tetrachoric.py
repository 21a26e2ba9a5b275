"""The tetrachoric correlation (Pearson 1900): answers are right where latent normal variables exceed thresholds.

A model that is right with probability p exceeds the threshold -t, where t is the normal quantile of p. The correlation
of the latent variables of two models stays the same when one of them gets better. The correlation of the answers does
not: models with different shares of right answers have to differ on some items.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy

NODES, SHARES = np.polynomial.legendre.leggauss(80)
CLOSEST = 0.9999  # the largest correlation, because quadrature is not exact at 1
RAREST = 1e-6  # the smallest share of right or wrong answers that is told from none


def quantile(share: float) -> float:
    """Return the normal quantile of a share of right answers; none and all are replaced by almost none and all."""
    return float(scipy.special.ndtri(min(1 - RAREST, max(RAREST, share))))


def both_right(first: float, second: float, correlation: float) -> float:
    """Return the probability that both of two models are right.

    Args:
        first: The normal quantile of the first model's share of right answers.
        second: That of the second model.
        correlation: The correlation of their latent variables, from 0 to 1.
    """
    p = float(scipy.special.ndtr(first))
    x = scipy.special.ndtri((1 - p) + p * (NODES + 1) / 2)  # quantiles of the first variable above its threshold
    correlation = min(correlation, CLOSEST)
    inner = scipy.special.ndtr((second + correlation * x) / math.sqrt(1 - correlation**2))
    return p * float(SHARES / 2 @ inner)


def covariance(first: float, second: float, correlation: float) -> float:
    """Return the covariance of the answers (1 or 0) of two models.

    Args:
        first: The normal quantile of the first model's share of right answers.
        second: That of the second model.
        correlation: The correlation of their latent variables, from 0 to 1.
    """
    return both_right(first, second, correlation) - float(scipy.special.ndtr(first) * scipy.special.ndtr(second))


@functools.lru_cache(maxsize=256)
def correlation(first: float, second: float, both: float) -> float:
    """Return the correlation of the latent variables of two models, from 0 to CLOSEST.

    Args:
        first: The normal quantile of the first model's share of right answers.
        second: That of the second model.
        both: The share of items to which both answer rightly.
    """

    def excess(rho: float) -> float:
        """Return by how much the share of items that both answer rightly exceeds the given one."""
        return both_right(first, second, rho) - both

    if excess(0.0) >= 0:
        return 0.0
    return float(scipy.optimize.brentq(excess, 0.0, CLOSEST, xtol=1e-6)) if excess(CLOSEST) > 0 else CLOSEST
