"""Test on the verdict items, which no optimiser has seen, whether the winner is better or was only lucky.

A claim about hyperparameters needs more than one adapter per configuration, because another seed gives another adapter.
So the winner and the defaults run again with fresh seeds, and the error of the gain includes runs and items
(see `variance`). With one run on each side, the claim is about these two adapters.

The winner is compared with the base model first. Only a winner that is better than the base model can be called better
than the field's defaults, or than the first recipe that the user named; only then can it be called better than the next
recipe, and so on. In this fixed sequence (Maurer, Hothorn and Lehmacher 1995), the chance of any false "better" stays
at the significance level without a correction. Every look at a study, such as the one after a longer search, is
a further test. The function `level` divides the significance level among the looks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from partune.runtime import rounding
from partune.verdict.flips import sign_flips
from partune.verdict.runs import Runs
from partune.verdict.variance import Variance

LEVEL = 0.05  # the significance level of all looks at a study together
ALIKE = 1e-12  # mean scores that differ by no more than this, relative to the largest, are equal
SPENT = 0.75  # the share of the remaining level that each look spends

Array = np.ndarray[Any, Any]
Relation = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Comparison:
    """The comparison of a winner with a reference on the same items.

    Attributes:
        gain: The winner's mean score minus the reference's, in units of the score.
        variance: The variance of the gain, from the items and from the runs of each side that ran more than once.
        p: The one-sided p-value of a gain: the chance of a gain this large if there is no difference.
        p_worse: The one-sided p-value of a loss: the chance of a loss this large if there is no difference.
        items: The number of items that have a score in all runs.
        runs: The numbers of runs of the winner and of the reference.
        test: The name of the test that was used.
        level: The significance level with which p is compared.
        equal: Whether no item has different mean scores, so that nothing can be shown.
    """

    gain: float
    variance: Variance
    p: float
    p_worse: float
    items: int
    runs: tuple[int, int] = (1, 1)
    test: str = ""
    level: float = LEVEL
    equal: bool = False

    @property
    def stderr(self) -> float:
        """The standard error of the gain, which is the root of `by_items`^2 + `by_seeds`^2."""
        return self.variance.stderr

    @property
    def by_items(self) -> float:
        """The part of the standard error that comes from the choice of items."""
        return math.sqrt(self.variance.items)

    @property
    def by_seeds(self) -> float:
        """The part of the standard error that comes from the seeds of the runs."""
        return math.sqrt(self.variance.runs)

    @property
    def relation(self) -> Relation:
        """Whether the winner is shown better ("better"), shown worse ("worse"), or neither ("open"), at the level."""
        if self.gain > 0 and self.p <= self.level:
            return "better"
        return "worse" if self.gain < 0 and self.p_worse <= self.level else "open"

    @property
    def better(self) -> bool:
        """Whether the winner is shown better."""
        return self.relation == "better"

    @property
    def worse(self) -> bool:
        """Whether the winner is shown worse."""
        return self.relation == "worse"

    @property
    def interval(self) -> tuple[float, float]:
        """The two-sided 95 % confidence interval of the gain; nan if its error is not known or is 0."""
        half = self.variance.error.quantile(0.975) if rounding.uncertain(self.stderr) else math.nan
        return self.gain - half, self.gain + half


@dataclass(frozen=True)
class Rival:
    """A second or further baseline in a verdict.

    Attributes:
        name: The name of the baseline.
        over: The comparison of the winner with the baseline.
        over_base: The comparison of the baseline with the base model.
    """

    name: str
    over: Comparison
    over_base: Comparison


@dataclass(frozen=True)
class Verdict:
    """The answer to "is it really better?".

    Attributes:
        over_base: The comparison of the winner with the untouched base model.
        over_defaults: The comparison of the winner with the field's defaults; None if these have no score.
        defaults_over_base: The comparison of the defaults with the base model; None if the defaults have no score.
        seeds, failed, look: The numbers of the winner's fresh runs that count (0 if the claim is about two adapters
            only), of those that failed, and of this look at the study, from 1.
        called: What the sentence calls the first baseline.
        others: The further baselines, in the order of the tests.
    """

    over_base: Comparison
    over_defaults: Comparison | None
    defaults_over_base: Comparison | None = None
    seeds: int = 0
    failed: int = 0
    look: int = 1
    called: str = "the defaults"
    others: tuple[Rival, ...] = ()

    @property
    def _steps(self) -> dict[str, Comparison]:
        """The comparisons of the winner in the fixed sequence, by the name of the baseline."""
        named = {"base": self.over_base, "defaults": self.over_defaults}
        named |= {rival.name: rival.over for rival in self.others}
        return {name: comparison for name, comparison in named.items() if comparison is not None}

    @property
    def better_than(self) -> tuple[str, ...]:
        """The baselines that the winner is shown to beat, such as (), ("base",) or ("base", "defaults")."""
        if self.failed:
            return ()
        return tuple(itertools.takewhile(lambda name: self._steps[name].better, self._steps))

    @property
    def worse_than(self) -> tuple[str, ...]:
        """The baselines that the winner is shown to be worse than, such as (), ("base",) or ("base", "defaults").

        The tests for a loss have no fixed sequence, because a winner that beats the base model may lose to a recipe.
        With Holm's procedure (1979), the chance of any false "worse" stays at the significance level: the smallest of
        m p-values is compared with level / m, the next one with level / (m - 1), and so on up to the first that is
        larger.
        """
        losses = sorted(self._steps, key=lambda name: self._steps[name].p_worse)
        left = zip(losses, range(len(losses), 0, -1), strict=True)
        shown = list(itertools.takewhile(lambda pair: self._is_loss(*pair), left))
        return tuple(name for name in self._steps if name in dict(shown))

    def _is_loss(self, name: str, tests: int) -> bool:
        """Return whether a comparison shows a loss at its level divided by a number of tests."""
        comparison = self._steps[name]
        return comparison.worse and comparison.p_worse <= comparison.level / tests

    def relation(self, name: str) -> Relation:
        """Return whether the winner is shown better or worse than a baseline of this verdict, or neither.

        A comparison by itself may show a loss that does not count among the several tests of a verdict.
        """
        if name in self.worse_than:
            return "worse"
        return "better" if self._steps[name].better else "open"

    @property
    def untested(self) -> tuple[str, ...]:
        """The further baselines that the sequence has not reached, unless the winner is shown to be worse than them."""
        rest = list(self._steps)[len(self.better_than) + 1 :]
        return tuple(name for name in rest if name not in ("defaults", *self.worse_than))

    @property
    def use_defaults(self) -> bool:
        """Whether the defaults are shown better than both the winner and the base model."""
        over = self.defaults_over_base
        return "defaults" in self.worse_than and over is not None and over.better

    @property
    def sentence(self) -> str:
        """The verdict in one sentence, with a second one if it is about two adapters instead of hyperparameters."""
        base, defaults = self.over_base, self.over_defaults
        text = f"{self._than('base', self.failed > 0)} the untouched base model ({self._words('base')})"
        if self.failed:
            text += f": {self.failed} of {self.failed + self.seeds} fresh runs of the winner failed"
            if defaults is not None and "defaults" in self.worse_than:
                text += f"; {self._than('defaults')} {self.called} ({self._words('defaults')})"
        elif defaults is not None and (base.better or "defaults" in self.worse_than):
            is_same = self.relation("base") == self.relation("defaults")
            joint = " and than" if is_same else f", but {self._than('defaults')}"
            text += f"{joint} {self.called} ({self._words('defaults')})"
        text += self._further_words()
        return (
            f"{text}."
            if self.seeds
            else f"{text}. This compares one adapter of each; other seeds would give other adapters."
        )

    def _further_words(self) -> str:
        """Return the part of the sentence about the second and further baselines."""
        tested = [rival for rival in self.others if rival.name not in self.untested]
        names = [rival.name for rival in tested]
        text = "".join(f"; {self._than(name)} the baseline {name} ({self._words(name)})" for name in names)
        # The sequence ends before the untested ones, so even a small p would not show that the winner is better.
        untested = [f"the baseline {name}" for name in self.untested]
        if untested and (self.failed or not self.over_base.better) and "defaults" not in self.worse_than:
            untested.insert(0, self.called)  # the sequence ended at the base model
        return f"{text}; not tested against {' and '.join(untested)}" if untested else text

    def _words(self, name: str) -> str:
        """Return the gain over a baseline, and the p-value of the loss if a loss is shown, otherwise of the gain."""
        comparison = self._steps[name]
        if comparison.equal:
            return "no held-out item differs, so nothing can be shown"
        gain = rounding.difference(comparison.gain, comparison.stderr)
        p = comparison.p_worse if self.relation(name) == "worse" else comparison.p
        return f"gain {gain}, {rounding.chance(p)}"

    def _than(self, name: str, open_anyway: bool = False) -> str:
        relation = self.relation(name)
        relation = "open" if open_anyway and relation == "better" else relation
        return {"better": "BETTER than", "worse": "SHOWN WORSE than", "open": "NOT SHOWN BETTER than"}[relation]


def level(look: int) -> float:
    """Return the significance level for the p-values of a look at a study.

    Each look spends three quarters of the part of LEVEL that earlier looks have left. The chance of any false "better"
    stays below LEVEL, no matter how often a study is continued and looked at again.

    Args:
        look: The number of the look, from 1.
    """
    return LEVEL * SPENT * (1 - SPENT) ** (look - 1)


def verdict(
    winner: Runs,
    base: Runs,
    defaults: Runs | None = None,
    others: Mapping[str, Runs] = MappingProxyType({}),
    *,
    called: str = "the defaults",
    seeds: int = 0,
    failed: int = 0,
    look: int = 1,
) -> Verdict:
    """Compare a winner with the base model, with the defaults and with further baselines, all on the same items.

    Args:
        winner: The fresh runs of the winner, or the run of the one adapter that the search chose.
        base: The one run of the base model.
        defaults: The runs of the first baseline, such as the defaults; None if these have no score.
        others: The runs of the second and further baselines by name, in the order of the tests.
        called: What the verdict calls the first baseline.
        seeds: The number of fresh runs in `winner`; 0 if `winner` is the adapter that the search chose.
        failed: The number of fresh runs of the winner that failed; they are not in `winner`.
        look: The number of this look at the study, from 1.

    Raises:
        ValueError: The runs do not have the same items.
    """
    at = level(look)
    return Verdict(
        compare(winner, base, at),
        None if defaults is None else compare(winner, defaults, at, seeds > 0),
        None if defaults is None else compare(defaults, base, at),
        seeds,
        failed,
        look,
        called,
        tuple(
            Rival(name, compare(winner, runs, at, seeds > 0), compare(runs, base, at)) for name, runs in others.items()
        ),
    )


def compare(winner: Runs, reference: Runs, at: float = LEVEL, trained: bool = False) -> Comparison:
    """Test the difference between the mean scores of two configurations over their runs and items.

    With one run on each side, the test flips the signs of the items' differences. With more runs, there are two tests:
    that of Behrens and Fisher, whose error includes runs and items, and sign flips. The larger p of the two counts,
    because the first test is too optimistic with few items.

    Items without a score in some run are left out.

    Args:
        winner: The runs of the winner.
        reference: The runs of the configuration or model to compare with.
        at: The significance level with which p is compared.
        trained: Whether the reference was trained, so that its runs differ by their seeds as the winner's do.

    Raises:
        ValueError: The two sides do not have the same items, or no item has a score in all runs.
    """
    if winner.values.shape[1] != reference.values.shape[1] or not (winner.strata == reference.strata).all():
        raise ValueError("a comparison needs the same items on both sides")
    known: Array = ~np.isnan(np.concatenate([winner.values, reference.values])).any(axis=0)
    if not known.any():
        raise ValueError("a comparison needs at least one item that has a score in all runs")
    winner, reference = winner.among(known), reference.among(known)
    weights = winner.weights
    differences = winner.values.mean(axis=0) - reference.values.mean(axis=0)  # (n,)
    # The mean over runs of equal values may differ in its last digit.
    rounding_error = ALIKE * float(np.abs(reference.values).max())
    equal = bool((np.abs(differences) <= rounding_error).all())
    differences = np.zeros_like(differences) if equal else differences
    gain = float(weights @ differences)
    variance = Variance.of(winner, reference, trained)
    if variance.stderr <= rounding_error:
        variance = Variance(0.0, math.inf)
    flips, flips_worse = sign_flips(weights * differences)

    def comparison(p: float, p_worse: float, test: str) -> Comparison:
        """Return the comparison with the result of a test."""
        return Comparison(gain, variance, p, p_worse, len(differences), (len(winner), len(reference)), test, at, equal)

    if math.isnan(variance.items):
        return comparison(flips, flips_worse, "sign flips of one item")
    if len(winner) == len(reference) == 1:
        test = "McNemar's exact test" if _is_mcnemar(weights, differences) else "sign flips of the items' differences"
        return comparison(flips, flips_worse, f"{test}, one-sided")
    upper, lower = variance.error.sf(gain), variance.error.sf(-gain)
    test = "Behrens-Fisher test over runs and items, and sign flips, one-sided"
    return comparison(max(upper, flips), max(lower, flips_worse), test)


def _is_mcnemar(weights: Array, differences: Array) -> bool:
    return bool(np.ptp(weights) <= 1e-12 and np.isin(differences, (-1.0, 0.0, 1.0)).all())
