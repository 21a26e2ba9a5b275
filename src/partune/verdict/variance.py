"""Estimate the variance of a gain from runs and items, and the distribution of its error.

A claim about hyperparameters needs more than one adapter per configuration, because another seed gives another adapter.
So the winner and the defaults run again with fresh seeds. The error of the gain then has two sources, runs and items,
which are crossed because every run answers every item:

    y[c, s, i] = mu[c] + alpha[c, s] + beta[i] + gamma[c, i] + epsilon[c, s, i]
                         run           item      item by c     residual

Notation: c is a configuration, s one of its S[c] runs, i one of n items with weights w[i] that sum to 1.

    gain = sum_i w[i] d[i]         d[i] = mean_s y[winner, s, i] - mean_s y[reference, s, i]
    Var(gain) = max(0, items - sum_c rest[c]) + sum_c runs[c]
    items     = sum_i w[i]^2 (d[i] - mean d)^2 n / (n - 1)       within strata; contains gamma / n and epsilon / (S n)
    runs[c]   = Var_s(sum_i w[i] y[c, s, i]) / S[c]              contains alpha / S and epsilon / (S n)
    rest[c]   = epsilon / (S n), estimated from the residuals; subtracted once, because both terms above contain it

The variance of the items has Satterthwaite's degrees of freedom (1946) from the items of each stratum (a task, or
a subtask of a group), and that of the runs has them from the runs of each side (Welch 1947). The two are not merged:
the distribution of the gain is that of Behrens and Fisher (see `behrens_fisher`). With one run on each side, only the
variance of the items remains, and the claim is about these two adapters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from partune.verdict.behrens_fisher import BehrensFisher
from partune.verdict.runs import Runs

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Variance:
    """The variance of a gain, split by its sources.

    Attributes:
        items: The variance due to the choice of items; nan if it is not known.
        items_df: Its degrees of freedom.
        runs: The variance due to the runs of both sides, as far as a side has several.
        runs_df: Its degrees of freedom.
    """

    items: float
    items_df: float
    runs: float = 0.0
    runs_df: float = math.inf

    @classmethod
    def of(cls, winner: Runs, reference: Runs, trained: bool = False) -> Self:
        """Estimate the variance of a gain on items that have a score in all runs; nan for a single item.

        Args:
            winner: The runs of the winner.
            reference: The runs of the configuration or model to compare with, on the same items.
            trained: Whether the reference was trained, so that its runs differ by their seeds. If one side has a single
                run because its others failed, its variance is taken to be that of a run of the other side.
        """
        strata = joined_small(winner.strata)
        groups, sizes = np.unique(strata, return_counts=True)
        if len(strata) == len(groups):
            return cls(math.nan, math.inf)
        differences = winner.values.mean(axis=0) - reference.values.mean(axis=0)  # (n,)
        variances = spread(differences[None], winner.weights, strata)[0]
        by_stratum = np.array([variances[strata == group].sum() for group in groups])
        items, items_df = satterthwaite(zip(by_stratum, sizes - 1, strict=True))
        several = [side for side in (winner, reference) if len(side) > 1]
        scale = 1 + len(several[0]) if trained and len(several) == 1 else 1
        runs, runs_df = satterthwaite((scale * _of_runs(side), len(side) - 1) for side in several)
        rest = scale * sum(_of_residuals(side, strata) for side in several)
        return cls(max(0.0, items - rest), items_df, runs, runs_df)

    @property
    def stderr(self) -> float:
        """The standard error of the gain."""
        return math.sqrt(self.items + self.runs)

    @property
    def error(self) -> BehrensFisher:
        """The distribution of the gain around the true one."""
        return BehrensFisher((self.items, self.runs), (self.items_df, self.runs_df))


def satterthwaite(estimates: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the sum of independent estimates of variances and its degrees of freedom (Satterthwaite 1946).

    Args:
        estimates: Pairs of a variance and its degrees of freedom.
    """
    pairs = [(float(variance), float(df)) for variance, df in estimates if variance > 0]
    total = sum(variance for variance, _ in pairs)
    # Shares of the total, because the square of a variance such as 1e-170 would be 0.
    return total, 1 / sum((variance / total) ** 2 / df for variance, df in pairs) if pairs else math.inf


def _of_runs(runs: Runs) -> float:
    """Return the variance of the mean score of several runs, estimated from their scores."""
    return float((runs.values @ runs.weights).var(ddof=1)) / len(runs)


def _of_residuals(runs: Runs, strata: Array) -> float:
    """Return the part of this variance that comes from what runs answer differently to each item."""
    residuals = runs.values - runs.values.mean(axis=0)  # (S, n)
    return float(spread(residuals, runs.weights, strata).sum()) / (len(runs) - 1) / len(runs)


def spread(values: Array, weights: Array, strata: Array) -> Array:
    """Return each item's term in the variance of a weighted mean.

    The term is computed from the deviation of the item's value from the mean of its stratum.

    Args:
        values: (S, n), the values of S runs.
        weights: (n,), the weights of the items.
        strata: (n,), the stratum of each item.

    Returns:
        (S, n): weight^2 (value - mean)^2 g / (g - 1) in a stratum of g items; 0 in a stratum of a single item.
    """
    squares = np.zeros(values.shape)
    for kind in np.unique(strata):
        members = strata == kind
        if (size := int(members.sum())) > 1:
            part = values[:, members]
            squares[:, members] = (part - part.mean(axis=1, keepdims=True)) ** 2 * size / (size - 1)
    return weights**2 * squares


def joined_small(strata: Array) -> Array:
    """Join all one-item strata into one stratum, because a single item does not show the spread of its stratum."""
    kinds, sizes = np.unique(strata, return_counts=True)
    single = kinds[sizes == 1]
    if len(single) == 1 and len(kinds) > 1:  # there is no other single item: join it with the smallest other stratum
        return np.where(strata == single[0], kinds[sizes > 1][sizes[sizes > 1].argmin()], strata)
    return np.where(np.isin(strata, single), -1, strata)
