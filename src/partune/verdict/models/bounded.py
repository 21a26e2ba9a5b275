"""Test and bound the mean of a few bounded numbers, with no assumption on their distribution (Gaffke 2005).

The numbers are the gains of n items, and no gain can be below a known bound. Add one more number, the bound itself, and
give all n + 1 numbers random weights that sum to 1, uniform on the simplex. The p-value of "the mean is at most m" is
the chance that the weighted mean is at most m:

    p(m) = P(E_0 (bound - m) + sum_i E_i (x_i - m) <= 0)        E_0, ..., E_n independent, exponential with mean 1

If the numbers are 0 or 1, this is the p-value of the exact binomial test, and the bounds are those of Clopper and
Pearson (1934). For other numbers, it is a conjecture that the test keeps its level (Gaffke, Three Test Statistics for a
Nonparametric One-Sided Hypothesis on the Mean of a Nonnegative Variable, 2005; Learned-Miller and Thomas,
arXiv:1905.06208, 2019). No counterexample is known, and benchmarks/model_verdict_errors.py measures the level.
Student's t-test does not keep its level: if no item of a small sample differs, its standard error is 0.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import scipy

NODES = 400  # the nodes of the quadrature over the characteristic function
GROUPS = 500  # the largest number of different values; with more, close values are averaged
TINY = 1e-8  # about the error of the quadrature; no smaller p-value is reported

Array = np.ndarray[Any, Any]


def chance_at_most(mean: float, values: Array, bound: float) -> float:
    """Return the p-value of "the true mean is at most this large".

    Args:
        mean: The mean to test.
        values: (n,), the numbers, none of them below the bound.
        bound: The lower bound of all possible numbers.
    """
    sizes, counts = _grouped(values, bound)
    return _chance_below_zero(sizes - mean, counts)


def interval(values: Array, low: float, high: float, level: float) -> tuple[float, float]:
    """Return a two-sided confidence interval of the mean.

    Args:
        values: (n,), the numbers.
        low: The lower bound of all possible numbers.
        high: Their upper bound.
        level: The chance that the interval misses the mean, split equally between its two sides.
    """
    below = _lower(values, low, level / 2)
    return below, -_lower(-values, -high, level / 2)


def _lower(values: Array, bound: float, level: float) -> float:
    """Return the largest mean whose p-value is at most the level. The p-value at `bound` must be 0."""
    sizes, counts = _grouped(values, bound)
    if len(sizes) == 1:
        return bound
    top = float(sizes[-1])

    def excess(mean: float) -> float:
        return _chance_below_zero(sizes - mean, counts) - level

    return float(scipy.optimize.brentq(excess, bound, top, xtol=1e-8 * (top - bound)))


def _grouped(values: Array, bound: float) -> tuple[Array, Array]:
    """Return the different numbers among some values and their bound, and how often each occurs.

    If there are more than GROUPS different numbers, the range is divided into GROUPS equal bins, and the numbers in
    each bin are replaced by their mean.
    """
    sizes, counts = np.unique(np.append(values, bound), return_counts=True)
    if len(sizes) <= GROUPS:
        return sizes, counts
    places = np.floor((sizes - sizes[0]) / (sizes[-1] - sizes[0]) * (GROUPS - 1)).astype(int)
    grouped = np.bincount(places, counts)
    sums = np.bincount(places, counts * sizes)
    return sums[grouped > 0] / grouped[grouped > 0], grouped[grouped > 0]


def _chance_below_zero(sizes: Array, counts: Array) -> float:
    """Return the chance that a sum of sizes times independent exponential numbers is at most 0.

    It follows from the characteristic function of the sum (Gil-Pelaez 1951):

        P(X <= 0) = 1/2 - 1/pi integral_0^inf Im phi(t) / t dt        phi(t) = prod_j (1 - i a_j t)^(-c_j)

    Args:
        sizes: (k,), the different sizes a.
        counts: (k,), how often each occurs.
    """
    if sizes.max() <= 0:
        return 1.0
    if sizes.min() >= 0:
        return 0.0
    angles, weights = _quadrature()  # (nodes,)
    scaled = sizes / math.sqrt(float(counts @ sizes**2))
    t = np.tan(angles)  # (nodes,)
    products = np.outer(scaled, t)  # (k, nodes)
    size, angle = -counts @ np.log1p(products**2) / 2, counts @ np.arctan(products)  # log |phi| and arg phi
    integrand = np.exp(size) * np.sin(angle) / t / np.cos(angles) ** 2
    return min(1.0, max(TINY, 0.5 - float(weights @ integrand) / math.pi))


@functools.cache
def _quadrature() -> tuple[Array, Array]:
    """Return the points of Gauss-Legendre quadrature between 0 and pi / 2, and their weights."""
    points, weights = np.polynomial.legendre.leggauss(NODES)
    return (points + 1) * math.pi / 4, weights * math.pi / 4
