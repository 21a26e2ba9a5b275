"""Predict how often a verdict shows a gain, from the numbers of items and fresh runs, before anything is trained.

The prediction is for the test that the verdict uses (`paired.compare`). Its parts, for a true gain g, S runs of the
winner, R of the reference, and n items with weights w (1 / n_eff = sum w^2); `variation` explains the terms:

    gain ~ N(g, I + A)                       I = (gamma + epsilon_w / S + epsilon_r / R) / n_eff,   A = sum alpha / S
    items ~ I chi2(n - 1) / (n - 1)          the estimates on which the test relies (`variance`), independent of the
    runs[c] ~ (alpha + epsilon / n_eff) / S chi2(S - 1) / (S - 1)                          gain if errors are normal

The verdict says BETTER if the gain exceeds both the critical value of Behrens and Fisher for these estimates and that
of the sign flips, sqrt(items) z / sqrt(1 - z^2 / n). The probability of that is the mean over the estimates
(Gauss-Legendre in their quantiles) of a normal tail. The same errors of runs and items are in Miller, Adding Error Bars
to Evals (arXiv:2411.00640, 2024), whose formula for the sample size assumes that they are known and single runs.

Two cases are not normal. With one run of each side and answers that are right or wrong, McNemar's exact test has an
exact power, a sum over the number of items that differ (Duffy 1984; Connor 1987 approximates it). With few items,
`few` draws answers and applies the test to them.

In the fixed order of baselines, the winner must beat those before too. The tests share the winner's runs: the estimate
of their variance, and their mean, which is a common factor of all gains. Given both, the tests are independent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import scipy

from partune.verdict import few
from partune.verdict.behrens_fisher import critical_values
from partune.verdict.paired import level
from partune.verdict.variation import Terms, Variation

LIKELY = 0.8  # the probability with which "the smallest gain that can be shown" is shown
CLOSE = 2e-3  # the precision of a smallest gain, relative to a gain that is shown more often
DRAWN = 20  # with fewer items that differ than this, answers are drawn instead of taken to be normal
SKEWED = 60  # with fewer items than this, losses are drawn, because a few large ones decide
SMALL = 14  # with fewer items than this, numbers are drawn, because sign flips have few possible p-values
NODES_RUNS, NODES_ITEMS = 6, 3  # nodes of the quadrature over the estimated variances
TINY = 1e-100  # the smallest variance of runs, whose square is not 0
ONE = (np.ones(1), np.ones(1))  # the "distribution" of what is not estimated
MANY = 200  # with so many degrees of freedom, an estimated variance is the true one
FACTOR, FACTOR_SHARES = np.polynomial.hermite_e.hermegauss(40)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Design:
    """The items and runs of a verdict.

    Attributes:
        weights: (n,), the weights of the verdict items in the score; they sum to 1.
        seeds: The number of fresh runs; 0 if one adapter of each side is compared.
        look: The number of the look at the study, from 1.
    """

    weights: Array
    seeds: int
    look: int = 1

    @classmethod
    def equal(cls, items: int, seeds: int) -> Self:
        """Return the design of a verdict on items that count equally.

        Args:
            items: The number of verdict items.
            seeds: The number of fresh runs; 0 if one adapter of each side is compared.
        """
        return cls(np.full(items, 1 / items), seeds)

    def with_items(self, items: int) -> Self:
        """Return the design with another number of items, whose weights are as unequal as these."""
        ranks = (np.arange(items) + 0.5) / items
        weights = np.interp(ranks, (np.arange(self.items) + 0.5) / self.items, np.sort(self.weights))
        return replace(self, weights=weights / weights.sum())

    @property
    def items(self) -> int:
        """The number of verdict items."""
        return len(self.weights)

    @property
    def effective(self) -> float:
        """The number of items with equal weights that would have the same error, 1 / sum w^2."""
        return 1 / float(self.weights @ self.weights)

    @property
    def level(self) -> float:
        """The significance level of the look."""
        return level(self.look)

    def runs(self, trained: bool) -> tuple[int, int]:
        """Return the numbers of runs of the winner and of a reference: a trained baseline, or else the base model."""
        return (self.seeds or 1), (self.seeds + 1 if trained and self.seeds else 1)


def chance(gain: float, design: Design, variation: Variation, trained: bool) -> float:
    """Return the probability that the verdict shows a gain over one reference.

    Args:
        gain: The true gain of the winner, in units of the score.
        design: The items and runs of the verdict.
        variation: How scores vary.
        trained: Whether the reference is a trained baseline, not the base model.
    """
    if 0.5**design.items > design.level:  # even a gain on every item is not significant
        return 0.0
    if gain > variation.most:
        return 0.0  # there is no such gain
    conditional, shares = _chances(gain, design, variation, trained)
    return float(conditional @ shares)


def _chances(gain: float, design: Design, variation: Variation, trained: bool) -> tuple[Array, Array]:
    """Return the power given some estimates of the variance of the winner's runs, and the shares of these estimates."""
    found = variation.terms(gain, trained)
    if _is_exact(design, variation):
        return np.array([_mcnemar(gain, design, found)]), np.ones(1)
    if _is_few(design, found, variation):
        drawn = few.shown(gain, design.weights, design.runs(trained), design.level, variation, int(trained))
        return np.array([drawn.mean()]), np.ones(1)
    return _normal(gain, design, found, trained)


def _is_exact(design: Design, variation: Variation) -> bool:
    """Return whether the verdict is McNemar's exact test."""
    return not design.seeds and variation.answers and float(np.ptp(design.weights)) <= 1e-12


def _is_few(design: Design, found: Terms, variation: Variation) -> bool:
    """Return whether errors are not normal, because few items differ or a few of them have most of the weight."""
    if variation.answers:
        return design.items * found.pair < DRAWN and design.items * max(1, design.seeds) <= few.MOST
    return design.effective < (SKEWED if variation.shape == "losses" else SMALL)


def _mcnemar(gain: float, design: Design, found: Terms) -> float:
    """Return the exact power of McNemar's exact test (Duffy 1984), one-sided."""
    differ = min(1.0, max(found.pair + gain**2, abs(gain)))
    counts = np.arange(design.items + 1)
    shares = scipy.stats.binom.pmf(counts, design.items, differ)
    counts, shares = counts[shares > 1e-9], shares[shares > 1e-9]
    # The fewest wins among the items that differ with which p is at most the level.
    least = scipy.stats.binom.isf(design.level, counts, 0.5) + 1
    won = (1 + gain / differ) / 2 if differ else 0.5
    return float(shares @ scipy.stats.binom.sf(least - 1, counts, min(1.0, max(0.0, won))))


def _normal(gain: float, design: Design, found: Terms, trained: bool) -> tuple[Array, Array]:
    """Return the power if the errors of items and runs are normal, given estimates of the winner's runs."""
    critical, shares = _critical(design, found, trained)
    deviation = math.sqrt(_variance(design, found, trained))
    if not deviation:
        return np.array([float(gain > 0)]), np.ones(1)
    of_winner = shares.sum(axis=(0, 2))
    return (scipy.special.ndtr((gain - critical) / deviation) * shares).sum(axis=(0, 2)) / of_winner, of_winner


def _variance(design: Design, found: Terms, trained: bool) -> float:
    """Return the variance of the gain. That of two single adapters does not include other seeds."""
    s, r = design.runs(trained)
    items = (found.gamma + found.winner / s + found.reference / r) / design.effective
    return items + (found.seeds / s + found.seeds_reference / r if design.seeds else 0.0)


def _critical(design: Design, found: Terms, trained: bool) -> tuple[Array, Array]:
    """Return the gains from which on the verdict says BETTER, for some estimates of the errors, and their shares.

    Both are arrays whose axes are the estimates from the items, from the winner's runs and from the reference's runs.
    """
    s, r = design.runs(trained)
    n, df = design.effective, design.items - 1.0
    factors = [_chi2(df, NODES_ITEMS), *(_chi2(runs - 1.0, NODES_RUNS) if runs > 1 else ONE for runs in (s, r))]
    grid = np.meshgrid(*(values for values, _ in factors), indexing="ij")
    shares = functools.reduce(np.multiply.outer, (share for _, share in factors))
    items = (found.gamma + found.winner / s + found.reference / r) / n * grid[0]
    z = -float(scipy.special.ndtri(design.level))
    flips = np.sqrt(items * df / design.items) * z / math.sqrt(max(1e-6, 1 - z**2 / n))
    if s == r == 1:
        return flips, shares
    runs, squares, rest = np.zeros(flips.shape), np.zeros(flips.shape), 0.0
    sides = ((found.seeds, found.winner, s), (found.seeds_reference, found.reference, r))
    for (seeds, noise, count), factor in zip(sides, grid[1:], strict=True):
        if count > 1:
            part = np.maximum((seeds + noise / n) / count, TINY) * factor
            runs, squares, rest = runs + part, squares + part**2 / (count - 1), rest + noise / n / count
    left = np.maximum(0.0, items - rest).ravel()
    df_runs = (runs / np.sqrt(squares)).ravel() ** 2
    known = (left, runs.ravel()), (np.full_like(left, df), df_runs)
    return np.maximum(flips, critical_values(design.level, *known).reshape(flips.shape)), shares


@functools.cache
def _chi2(df: float, count: int) -> tuple[Array, Array]:
    """Return nodes and shares of the distribution of chi2(df) / df, which is 1 for many degrees of freedom."""
    nodes, shares = np.polynomial.legendre.leggauss(count if df < MANY else 1)
    return scipy.stats.chi2.ppf((nodes + 1) / 2, df) / df, shares / 2


def chance_in_order(gain: float, design: Design, variation: Variation, baselines: int) -> float:
    """Return the probability that the verdict says BETTER than the base model and than the first few baselines.

    All of them are taken to be equally good, which is the hardest case: the gain over each is the same.

    Args:
        gain: The true gain of the winner.
        design: The items and runs of the verdict.
        variation: How scores vary.
        baselines: The number of trained baselines that the winner must beat, after the base model.
    """
    if 0.5**design.items > design.level or gain > variation.most:
        return 0.0
    tests = [False, *([True] * baselines)]
    found = [variation.terms(gain, trained) for trained in tests[:2]]
    if not _is_exact(design, variation) and any(_is_few(design, terms, variation) for terms in found):
        drawn = [
            few.shown(gain, design.weights, design.runs(trained), design.level, variation, number)
            for number, trained in enumerate(tests)
        ]
        return float(np.logical_and.reduce(drawn).mean())
    # The tests share the estimate of the winner's runs and, given that, the winner's scores.
    by_test = {trained: _chances(gain, design, variation, trained) for trained in set(tests)}
    loads = {trained: _share_of_winner(gain, design, variation, trained) for trained in set(tests)}
    shares = by_test[False][1]
    return sum(
        float(share) * joint([float(by_test[trained][0][node]) for trained in tests], [loads[t] for t in tests])
        for node, share in enumerate(shares)
    )


def _share_of_winner(gain: float, design: Design, variation: Variation, trained: bool) -> float:
    """Return the share of a gain's variance that is due to the winner's runs, which all comparisons have in common."""
    s, _ = design.runs(trained)
    # The winner and a trained baseline have equal parts in gamma. That of the base model contains more of its own.
    own = variation.terms(gain, True)
    of_winner = (own.gamma / 2 + own.winner / s) / design.effective + (own.seeds / s if design.seeds else 0.0)
    whole = _variance(design, variation.terms(gain, trained), trained)
    return min(1.0, of_winner / whole) if whole else 0.0


def joint(chances: Sequence[float], shares: Sequence[float]) -> float:
    """Return the probability of several events with one common normal factor.

    Args:
        chances: The probability of each event.
        shares: The share of the variance behind each event that is due to the common factor, from 0 to 1.
    """
    if min(chances) <= 0:
        return 0.0
    product = np.ones_like(FACTOR)
    for probability, share in zip(chances, shares, strict=True):
        limit = scipy.special.ndtri(min(probability, 1 - 1e-12))
        share = min(share, 0.999)
        product = product * scipy.special.ndtr((limit + math.sqrt(share) * FACTOR) / math.sqrt(1 - share))
    return float(FACTOR_SHARES @ product / FACTOR_SHARES.sum())


def smallest(design: Design, variation: Variation, baselines: int | None = None) -> float | None:
    """Return the smallest gain that the verdict shows with probability LIKELY; None if it can show none.

    Args:
        design: The items and runs of the verdict.
        variation: How scores vary.
        baselines: The number of trained baselines that the winner must beat after the base model; None for the first
            of them alone, whatever the base model is worth.
    """
    if baselines is None:
        return _smallest(lambda gain: chance(gain, design, variation, True), design, variation)
    return _smallest(lambda gain: chance_in_order(gain, design, variation, baselines), design, variation)


def _smallest(shown: Callable[[float], float], design: Design, variation: Variation) -> float | None:
    """Return the smallest gain that is shown with probability LIKELY."""
    if 0.5**design.items > design.level:
        return None
    most = variation.most
    high = min(most, 2 * (0.5 if variation.answers else variation.spread) / math.sqrt(design.effective))
    while shown(high) < LIKELY:
        if high >= most:
            return None
        high = min(most, 2 * high)
    return float(scipy.optimize.brentq(lambda gain: shown(gain) - LIKELY, 0.0, high, xtol=CLOSE * high))
