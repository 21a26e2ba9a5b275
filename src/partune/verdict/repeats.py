"""Test whether algorithms differ, over repeats: studies that differ only in their seed.

The result of a study is one random sample of what its algorithm finds, so the sample size is the number of repeats, not
of trials. Tests are two-sided, because nobody says beforehand which algorithm is better. Holm's correction (1979) is
over all pairs of algorithms.

If both algorithms ran with the same seeds, their repeats form pairs, because a seed decides the split of the items and
the initial design. Pairs allow Wilcoxon's signed-rank test (1945), but this test needs more repeats than the rank-sum
test of Mann and Whitney (1947): five pairs cannot have a p below 1/16. So Wilcoxon's test is used only if there are
enough pairs for a significant result after the correction. Otherwise the rank-sum test is used on all repeats; a
positive correlation within pairs only makes it more conservative. The choice of the test depends on the numbers of
repeats and algorithms, never on the scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from partune.verdict.paired import LEVEL

Array = NDArray[np.float64]
Results = Mapping[int, float]  # the result of each study, by its seed


@dataclass(frozen=True)
class Difference:
    """The difference between the results of two algorithms, and its test.

    Attributes:
        first: The name of the first algorithm.
        second: The name of the second algorithm.
        gain: The mean of the first minus the mean of the second, in units of the score.
        repeats: The numbers of repeats of the two algorithms.
        test: The name of the test.
        p: The two-sided p-value.
        corrected: The p-value after Holm's correction.
        least: The smallest p-value that is possible with these numbers of repeats.
        shows: Whether these numbers of repeats can show a difference at all: whether `least` is at most LEVEL even
            after the correction.
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
        results: For each algorithm, the finite results of its repeats by seed.
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
    """Test a pair of algorithms; return the name of the test, its p-value, and its smallest possible p-value."""
    paired = 2.0 ** (1 - len(first))
    if first.keys() == second.keys() and paired * pairs <= LEVEL:
        return "Wilcoxon, paired by seed", signed_rank([first[seed] - second[seed] for seed in first]), paired
    p = rank_sum([*first.values()], [*second.values()])
    return "Mann-Whitney", p, least_of_ranks(len(first), len(second))


def fewest(pairs: int) -> int:
    """Return the smallest number of repeats per algorithm with which the rank-sum test can be significant.

    Args:
        pairs: The number of pairs of algorithms, for the correction.
    """
    return next(n for n in itertools.count(2) if least_of_ranks(n, n) * pairs <= LEVEL)


def least_of_ranks(n: int, m: int) -> float:
    """Return the smallest possible two-sided p-value of a rank-sum test without ties.

    It occurs if all values of one side are above all of the other.

    Args:
        n: The number of values of the first side.
        m: The number of values of the second side.
    """
    return 2 / math.comb(n + m, n)


def signed_rank(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; differences of 0 count for neither side."""
    if not any(differences):
        return 1.0
    return float(scipy.stats.wilcoxon(differences).pvalue)


def rank_sum(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of Mann and Whitney's test.

    Args:
        first: The values of the first side.
        second: The values of the second side.
    """
    # SciPy's exact distribution does not allow ties. With ties, SciPy permutes the labels: in all ways if there are few
    # ways, otherwise at random.
    if len({*first, *second}) == len(first) + len(second):
        return float(scipy.stats.mannwhitneyu(first, second, method="exact").pvalue)
    method = scipy.stats.PermutationMethod(rng=np.random.default_rng(0))
    return float(scipy.stats.mannwhitneyu(first, second, method=method).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, A Simple Sequentially Rejective Test, 1979); keep their order."""
    corrected = [0.0] * len(ps)
    most = 0.0
    for k, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        most = corrected[i] = max(most, min(1.0, (len(ps) - k) * ps[i]))
    return corrected


def interval(values: Array) -> tuple[Array, Array]:
    """Return the bounds of the 95 % confidence interval of the mean of each column, by Student's t.

    Args:
        values: (repeats, n).

    Returns:
        The lower and upper bounds, each (n,); NaN for a single row.
    """
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = scipy.stats.t.ppf(1 - LEVEL / 2, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return mean - half, mean + half
