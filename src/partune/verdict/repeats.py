"""Do algorithms differ? Tests over repeats: studies that differ in the seed alone.

A study is one draw of what its algorithm may find, so the repeats are the sample, not the trials. Two-sided tests, as
nobody says beforehand which is the better one; Holm's correction (1979) over all pairs of algorithms.

Where the same seeds ran both, the repeats make pairs (a seed decides the split of the items and the initial design):
Wilcoxon's signed-rank test (1945). It takes more repeats than the rank-sum test of Mann and Whitney (1947) to show
anything: five pairs cannot have a p below 1/16. So pairs are used where they are enough to be significant after the
correction, and ranks of all repeats otherwise, which positive correlation within pairs only makes more careful. The
choice follows from the numbers of repeats and of algorithms, never from the scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from partune.verdict.paired import LEVEL

Array = NDArray[np.float64]
Results = Mapping[int, float]  # a study's result by its seed


@dataclass(frozen=True)
class Difference:
    """One algorithm's results less another's.

    Attributes:
        first: The one algorithm.
        second: The other.
        gain: Difference of the means, in units of the score.
        repeats: How many repeats each has.
        test: The test's name.
        p: Two-sided.
        corrected: p after Holm's correction.
        least: The smallest p that this number of repeats can have.
        shows: Whether the test can show anything, whatever the scores: the smallest p, corrected, is at the level.
    """

    first: str
    second: str
    gain: float
    repeats: tuple[int, int]
    test: str
    p: float
    corrected: float
    least: float
    shows: bool

    @property
    def significant(self) -> bool:
        """Whether the two algorithms are shown to differ."""
        return self.corrected <= LEVEL


def differences(results: Mapping[str, Results]) -> list[Difference]:
    """Test every pair of algorithms that have at least two repeats each.

    Args:
        results: Per algorithm, the finite results of its repeats by seed.
    """
    names = [name for name, by_seed in results.items() if len(by_seed) > 1]
    pairs = list(itertools.combinations(names, 2))
    tested = [_tested(results[a], results[b], len(pairs)) for a, b in pairs]
    corrected = holm([p for _, p, _ in tested])
    return [
        Difference(
            a,
            b,
            float(np.mean([*results[a].values()]) - np.mean([*results[b].values()])),
            (len(results[a]), len(results[b])),
            test,
            p,
            adjusted,
            least,
            least * len(pairs) <= LEVEL,
        )
        for (a, b), (test, p, least), adjusted in zip(pairs, tested, corrected, strict=True)
    ]


def _tested(first: Results, second: Results, pairs: int) -> tuple[str, float, float]:
    """Return the name of a test, its p, and the smallest p that it can have."""
    paired = 2.0 ** (1 - len(first))
    if first.keys() == second.keys() and paired * pairs <= LEVEL:
        return "Wilcoxon, paired by seed", signed_rank([first[seed] - second[seed] for seed in first]), paired
    p = rank_sum([*first.values()], [*second.values()])
    return "Mann-Whitney", p, least_of_ranks(len(first), len(second))


def fewest(pairs: int) -> int:
    """Return the number of repeats from which a test can show anything, corrected for a number of pairs."""
    return next(n for n in itertools.count(2) if least_of_ranks(n, n) * pairs <= LEVEL)


def least_of_ranks(n: int, m: int) -> float:
    """Return the smallest two-sided p of a rank-sum test without ties: all values of one side are the higher ones.

    Args:
        n: Values on the one side.
        m: Values on the other.
    """
    return 2 / math.comb(n + m, n)


def signed_rank(differences: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; differences of 0 count for neither side."""
    if not any(differences):
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def rank_sum(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p of Mann and Whitney's test.

    Args:
        first: The one side's values.
        second: The other's.
    """
    # SciPy's exact distribution knows no ties: with any, labels are permuted, all ways if these are few.
    if len({*first, *second}) == len(first) + len(second):
        return float(stats.mannwhitneyu(first, second, method="exact").pvalue)
    method = stats.PermutationMethod(rng=np.random.default_rng(0))
    return float(stats.mannwhitneyu(first, second, method=method).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p values for their number, in the same order: Holm, A Simple Sequentially Rejective Test, 1979."""
    corrected = [0.0] * len(ps)
    most = 0.0
    for k, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        most = corrected[i] = max(most, min(1.0, (len(ps) - k) * ps[i]))
    return corrected


def interval(values: Array) -> tuple[Array, Array]:
    """Return the ends of each column's 95 % confidence interval of the mean, by Student's t.

    Args:
        values: (repeats, n).

    Returns:
        Low and high ends, each (n,); NaN for a single row.
    """
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf(1 - LEVEL / 2, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return mean - half, mean + half
