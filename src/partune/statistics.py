"""Is the winner better, or lucky? Paired tests on the verdict items, which no optimiser has seen.

The items that chose the winner would call luck a gain; so would two tests at full level each. The winner is compared
with the base first and, only if it beats that, with the field's defaults (a fixed sequence: Maurer, Hothorn & Lehmacher
1995), so that the chance of any false "better" stays at the level without a correction.

Left out: the variance over training seeds. Confirmation with fresh seeds (`partune.winner`) looks at it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

LEVEL = 0.05
RESAMPLES = 10_000

Items = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Comparison:
    """Winner minus reference on the same items.

    gain: mean difference, in the units of the score; stderr: of that mean, from the paired differences.
    p: one-sided, probability of so large a gain where there is none.
    """

    gain: float
    stderr: float
    p: float
    items: int
    test: str

    @property
    def better(self) -> bool:
        return self.p <= LEVEL and self.gain > 0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the gain, by the normal approximation."""
        return self.gain - 1.96 * self.stderr, self.gain + 1.96 * self.stderr


@dataclass(frozen=True)
class Verdict:
    """The answer to "is it really better?"; `over_defaults` is None where there are no defaults to compare with."""

    over_base: Comparison
    over_defaults: Comparison | None

    @property
    def better_than(self) -> tuple[str, ...]:
        """What the winner is shown to beat, in the fixed sequence: (), ("base",) or ("base", "defaults")."""
        if not self.over_base.better:
            return ()
        if self.over_defaults is None or not self.over_defaults.better:
            return ("base",)
        return ("base", "defaults")

    @property
    def sentence(self) -> str:
        base, defaults = self.over_base, self.over_defaults
        if not self.better_than:
            return f"NOT SHOWN BETTER than the untouched base model ({_words(base)})."
        if defaults is None:
            return f"BETTER than the untouched base model ({_words(base)})."
        if self.better_than == ("base",):
            return (
                f"BETTER than the untouched base model ({_words(base)}), "
                f"but NOT SHOWN BETTER than the defaults ({_words(defaults)})."
            )
        return f"BETTER than the untouched base model ({_words(base)}) and than the defaults ({_words(defaults)})."


def verdict(winner: Items, base: Items, defaults: Items | None) -> Verdict:
    """Each argument: task -> per-item scores on the verdict items, (n,), in the same order for all."""
    return Verdict(compare(winner, base), None if defaults is None else compare(winner, defaults))


def compare(winner: Items, reference: Items) -> Comparison:
    """One-sided paired test of the mean over tasks of the mean difference over items.

    One task of right-or-wrong items: McNemar's exact test. Otherwise: the paired bootstrap, within tasks.
    """
    if winner.keys() != reference.keys() or any(len(winner[task]) != len(reference[task]) for task in winner):
        raise ValueError("a paired comparison needs the same items on both sides")
    differences = [np.asarray(winner[task], float) - np.asarray(reference[task], float) for task in sorted(winner)]
    if any(len(d) < 2 for d in differences) or not differences:
        raise ValueError("a paired comparison needs two items a task at least")
    gain = float(np.mean([d.mean() for d in differences]))
    stderr = math.sqrt(sum(d.var(ddof=1) / len(d) for d in differences)) / len(differences)
    items = sum(len(d) for d in differences)
    if len(differences) == 1 and set(np.unique(differences[0])) <= {-1.0, 0.0, 1.0}:
        return Comparison(gain, stderr, mcnemar(differences[0]), items, "McNemar, exact, one-sided")
    return Comparison(gain, stderr, bootstrap(differences), items, "paired bootstrap, one-sided")


def mcnemar(differences: np.ndarray[Any, Any]) -> float:
    """Exact one-sided p of McNemar's test (1947): the gains among the items that changed are Binomial(n, 1/2).

    differences: (n,) of -1 (lost), 0 (the same) and 1 (won).
    """
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(won, won + lost, 0.5, alternative="greater").pvalue) if won + lost else 1.0


def bootstrap(differences: list[np.ndarray[Any, Any]], resamples: int = RESAMPLES) -> float:
    """One-sided p by Student's bootstrap (Hall 1988) of the mean over tasks; differences: one (n,) a task.

    The statistic is mean / stderr, so that tails and unequal variances are told apart from a shift.
    """
    rng = np.random.default_rng(0)
    mean = np.mean([d.mean() for d in differences])
    spread = math.sqrt(sum(d.var(ddof=1) / len(d) for d in differences))
    if spread == 0:
        return 0.0 if mean > 0 else 1.0
    observed = mean / spread
    means, variances = np.zeros(resamples), np.zeros(resamples)
    for d in differences:
        for start in range(0, resamples, block := max(1, 2_000_000 // len(d))):
            drawn = rng.choice(d - d.mean(), size=(min(block, resamples - start), len(d)))  # (resamples, items)
            means[start : start + block] += drawn.mean(axis=1) / len(differences)
            variances[start : start + block] += drawn.var(axis=1, ddof=1) / len(d)
    null = np.divide(means, np.sqrt(variances), out=np.zeros(resamples), where=variances > 0)
    return float((1 + (null >= observed).sum()) / (1 + resamples))


def _words(comparison: Comparison) -> str:
    p = f"p = {comparison.p:.2g}" if comparison.p >= 0.001 else "p < 0.001"
    return f"gain {comparison.gain:+.4f} ± {comparison.stderr:.4f}, {p}"
