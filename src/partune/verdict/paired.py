"""Is the winner better, or lucky? Tests on the verdict items, which no optimiser has seen.

A claim about hyperparameters needs more than one adapter of each configuration: another seed gives another adapter. So
the winner and the defaults run again with fresh seeds, and the error of a gain has two sources that are crossed, as
every run answers every item:

    y[c, s, i] = mu[c] + alpha[c, s] + beta[i] + gamma[c, i] + epsilon[c, s, i]
                         run           item      item by c     what is left

Notation: c a configuration, s one of its S[c] runs, i one of n items with weights w[i] that sum to 1.

    gain = sum_i w[i] d[i]         d[i] = mean_s y[winner, s, i] - mean_s y[reference, s, i]
    Var(gain) = items + sum_c max(0, runs[c] - rest[c])
    items     = sum_i w[i]^2 (d[i] - mean d)^2 n / (n - 1)       within strata; holds gamma / n and epsilon / (S n)
    runs[c]   = Var_s(sum_i w[i] y[c, s, i]) / S[c]              holds alpha / S and epsilon / (S n)
    rest[c]   = epsilon / (S n), from the residuals, as the two above both have it

The degrees of freedom are Satterthwaite's (1946), of each stratum's items and of each side's runs. With one run of
each, only the items are left, and the claim is about these two adapters.

The winner is compared with the base first and, only if it beats that, with the field's defaults (a fixed sequence:
Maurer, Hothorn and Lehmacher 1995), so that the chance of any false "better" stays at the level without a correction.
Whoever looks again after a longer search tests again: `level` spends the level over the looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy import stats

from partune.runtime import rounding

LEVEL = 0.05  # of all looks at a study together
SPENT = 0.75  # of what is left of the level, by each look
EXACT = 13  # items that differ, up to which all sign flips are counted
FLIPS = 9_999  # random sign flips beyond that
TINY = float(np.finfo(float).tiny)
ALIKE = 0.8  # correlation of an item's scores before and after tuning, where nothing is known of it
POWER = 0.8

Array = np.ndarray[Any, Any]
Items = Mapping[str, Array]
Relation = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Runs:
    """What the runs of one configuration scored on the same items.

    Attributes:
        values: (S, n), score of each run on each item; nan where an item has none.
        weights: (n,), how much an item counts in the score; they sum to 1.
        strata: (n,), which items are draws of one kind: a task's, or a group's leaf's.
    """

    values: Array
    weights: Array
    strata: Array

    @classmethod
    def of(cls, runs: Sequence[Items], weights: Items | None = None, leaves: Items | None = None) -> Self:
        """Join the tasks of some runs, each of which counts the same.

        Args:
            runs: Per run: task -> per-item scores, (n,).
            weights: Task -> (n,), each item's share of the task's score; by default all count the same.
            leaves: Task -> (n,), number of the leaf that an item of a group belongs to; by default one leaf.

        Raises:
            ValueError: The runs do not have the same items.
        """
        if not runs or not runs[0]:
            raise ValueError("a comparison needs at least one run and one task")
        tasks = sorted(runs[0])
        if any(run.keys() != runs[0].keys() or any(len(run[t]) != len(runs[0][t]) for t in tasks) for run in runs):
            raise ValueError("a comparison needs the same items in all runs")
        sizes = [len(runs[0][task]) for task in tasks]
        share = [
            np.asarray((weights or {}).get(task, np.full(size, 1.0)), float)
            for task, size in zip(tasks, sizes, strict=True)
        ]
        share = [weight / weight.sum() / len(tasks) for weight in share]
        kinds = [np.asarray((leaves or {}).get(t, np.zeros(size, int))) for t, size in zip(tasks, sizes, strict=True)]
        places = np.stack([np.repeat(np.arange(len(tasks)), sizes), np.concatenate(kinds)])  # (2, n)
        strata = np.unique(places, axis=1, return_inverse=True)[1].reshape(-1)
        values = np.stack([np.concatenate([np.asarray(run[task], float) for task in tasks]) for run in runs])
        return cls(values, np.concatenate(share), strata)

    def __len__(self) -> int:
        return len(self.values)

    def among(self, known: Array) -> Self:
        """Return the runs on some of the items; known: (n,) of bool."""
        weights = self.weights[known]
        return type(self)(self.values[:, known], weights / weights.sum(), self.strata[known])


@dataclass(frozen=True)
class Variance:
    """The variance of a gain, by where it comes from.

    Attributes:
        items: What the items bring in.
        runs: What the runs of both sides add to it.
        df: Degrees of freedom.
    """

    items: float
    runs: float
    df: float

    @classmethod
    def of(cls, winner: Runs, reference: Runs) -> Self:
        """Return the variance of a gain on items that all runs have a score on; nan for a single item.

        Args:
            winner: The winner's runs.
            reference: The other side's, on the same items.
        """
        strata = joined_small(winner.strata)
        groups, sizes = np.unique(strata, return_counts=True)
        freedom = len(strata) - len(groups)
        if freedom == 0:
            return cls(math.nan, 0.0, math.inf)
        differences = winner.values.mean(axis=0) - reference.values.mean(axis=0)  # (n,)
        variances = spread(differences[None], winner.weights, strata)[0]
        by_stratum = np.array([variances[strata == group].sum() for group in groups])
        sides = [_of_runs(side, strata) for side in (winner, reference) if len(side) > 1]
        items, runs = float(variances.sum()), sum(variance for variance, _ in sides)
        denominator = float((by_stratum**2 / (sizes - 1)).sum()) + sum(square for _, square in sides)
        return cls(items, runs, (items + runs) ** 2 / denominator if denominator > 0 else float(freedom))

    @property
    def stderr(self) -> float:
        """Standard error of the gain."""
        return math.sqrt(self.items + self.runs)


def _of_runs(runs: Runs, strata: Array) -> tuple[float, float]:
    """Return what some runs add to the variance of their mean, and to Satterthwaite's denominator."""
    count = len(runs)
    between = float((runs.values @ runs.weights).var(ddof=1)) / count
    residuals = runs.values - runs.values.mean(axis=0)  # (S, n)
    rest = float(spread(residuals, runs.weights, strata).sum()) / (count - 1) / count
    return (between - rest, between**2 / (count - 1)) if between > rest else (0.0, 0.0)


@dataclass(frozen=True)
class Comparison:
    """Winner minus reference on the same items.

    Attributes:
        gain: Difference of the mean scores, in their units.
        variance: Variance of the gain, from the items and, of a side that ran more than once, from its runs.
        p: One-sided, the chance of so large a gain where there is none.
        p_worse: One-sided, the chance of so large a loss where there is none.
        items: Number of items that both have a score on.
        runs: Number of runs of the winner and of the reference.
        test: What was computed, in words.
        level: What p is held against.
    """

    gain: float
    variance: Variance
    p: float
    p_worse: float
    items: int
    runs: tuple[int, int] = (1, 1)
    test: str = ""
    level: float = LEVEL

    @property
    def stderr(self) -> float:
        """Standard error of the gain; its square is the sum of the squares of its parts, `by_items` and `by_seeds`."""
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
    def df(self) -> float:
        """Degrees of freedom of the standard error."""
        return self.variance.df

    @property
    def relation(self) -> Relation:
        """What is shown of the winner, at the level: better, worse, or neither."""
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
    def chance(self) -> float:
        """The p of what is claimed: of a loss where one is shown, else of a gain."""
        return self.p_worse if self.worse else self.p

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the gain, two-sided, by Student's t."""
        half = float(stats.t.ppf(0.975, self.df)) * self.stderr if math.isfinite(self.stderr) else math.nan
        return self.gain - half, self.gain + half


@dataclass(frozen=True)
class Verdict:
    """The answer to "is it really better?".

    Attributes:
        over_base: The winner against the untouched base.
        over_defaults: The winner against the field's defaults; None where these have no score.
        defaults_over_base: The defaults against the base.
        seeds: Fresh runs of the winner that count; 0 where the claim is about the adapters.
        failed: Fresh runs of the winner that failed.
        look: Which look at the study this is, from 1.
    """

    over_base: Comparison
    over_defaults: Comparison | None
    defaults_over_base: Comparison | None = None
    seeds: int = 0
    failed: int = 0
    look: int = 1

    @property
    def better_than(self) -> tuple[str, ...]:
        """What the winner is shown to beat, in the fixed sequence: (), ("base",) or ("base", "defaults")."""
        if not self.over_base.better or self.failed:
            return ()
        if self.over_defaults is None or not self.over_defaults.better:
            return ("base",)
        return ("base", "defaults")

    @property
    def worse_than(self) -> tuple[str, ...]:
        """What is shown to beat the winner."""
        named = {"base": self.over_base, "defaults": self.over_defaults}
        return tuple(name for name, comparison in named.items() if comparison is not None and comparison.worse)

    @property
    def use_defaults(self) -> bool:
        """Whether the defaults are shown better than the winner and than the base."""
        over = self.defaults_over_base
        return "defaults" in self.worse_than and over is not None and over.better

    @property
    def sentence(self) -> str:
        """The verdict in one sentence, and what it is about where that is not the hyperparameters."""
        base, defaults = self.over_base, self.over_defaults
        text = f"{self._than(base, self.failed > 0)} the untouched base model ({_words(base)})"
        if self.failed:
            text += f": {self.failed} of {self.failed + self.seeds} fresh runs of the winner failed"
            if defaults is not None and "defaults" in self.worse_than:
                text += f"; {self._than(defaults)} the defaults ({_words(defaults)})"
        elif defaults is not None and (base.better or "defaults" in self.worse_than):
            joint = " and than" if base.relation == defaults.relation else f", but {self._than(defaults)}"
            text += f"{joint} the defaults ({_words(defaults)})"
        return f"{text}." if self.seeds else f"{text}. One adapter of each: other seeds would give others."

    @staticmethod
    def _than(comparison: Comparison, open_anyway: bool = False) -> str:
        relation = "open" if open_anyway and comparison.better else comparison.relation
        return {"better": "BETTER than", "worse": "SHOWN WORSE than", "open": "NOT SHOWN BETTER than"}[relation]


def level(look: int) -> float:
    """Return what the p-values of a study's first, second, ... look are held against.

    Each look spends three quarters of what the looks before left of LEVEL, so that the chance of any false "better"
    stays below LEVEL however often a study is continued and looked at again.
    """
    return LEVEL * SPENT * (1 - SPENT) ** (look - 1)


def verdict(
    winner: Runs, base: Runs, defaults: Runs | None = None, *, seeds: int = 0, failed: int = 0, look: int = 1
) -> Verdict:
    """Compare a winner with the base and with the defaults, all on the same items.

    Args:
        winner: Fresh runs of the winner, or its one adapter.
        base: The base's one run.
        defaults: Runs of the defaults.
        seeds: Fresh runs of the winner; 0 where `winner` is the adapter that the search chose.
        failed: Further fresh runs that failed.
        look: Which look at the study this is, from 1.

    Raises:
        ValueError: They do not have the same items.
    """
    at = level(look)
    return Verdict(
        compare(winner, base, at),
        None if defaults is None else compare(winner, defaults, at),
        None if defaults is None else compare(defaults, base, at),
        seeds,
        failed,
        look,
    )


def compare(winner: Runs, reference: Runs, at: float = LEVEL) -> Comparison:
    """Test the mean difference of two configurations' scores, over the runs and items at hand.

    With one run on both sides: sign flips of the items' differences, within tasks. With more: Student's t, whose error
    has runs and items in it, and sign flips as well; the larger p counts, as t trusts a few items too much.

    Items that lack a score in any run are left out.

    Args:
        winner: The winner's runs.
        reference: The other side's.
        at: The level that p is held against.

    Raises:
        ValueError: The two do not have the same items, or no item has a score in all runs.
    """
    if winner.values.shape[1] != reference.values.shape[1] or not (winner.strata == reference.strata).all():
        raise ValueError("a comparison needs the same items on both sides")
    known: Array = ~np.isnan(np.concatenate([winner.values, reference.values])).any(axis=0)
    if not known.any():
        raise ValueError("a comparison needs an item that all runs have a score on")
    winner, reference = winner.among(known), reference.among(known)
    weights = winner.weights
    differences = winner.values.mean(axis=0) - reference.values.mean(axis=0)  # (n,)
    gain = float(weights @ differences)
    variance = Variance.of(winner, reference)
    flips, flips_worse = sign_flips(weights * differences)

    def comparison(p: float, p_worse: float, test: str) -> Comparison:
        """Return the comparison with what a test says."""
        return Comparison(gain, variance, p, p_worse, len(differences), (len(winner), len(reference)), test, at)

    if math.isnan(variance.items):
        return comparison(flips, flips_worse, "sign flips of one item")
    if len(winner) == len(reference) == 1:
        test = "McNemar's exact test" if _is_mcnemar(weights, differences) else "sign flips of the items' differences"
        return comparison(flips, flips_worse, f"{test}, one-sided")
    stderr, df = variance.stderr, variance.df
    t = gain / stderr if stderr > 0 else math.copysign(math.inf, gain) if gain else 0.0
    upper, lower = float(stats.t.sf(t, df)), float(stats.t.cdf(t, df))
    test = f"Student's t over runs and items ({df:.0f} degrees of freedom) and sign flips, one-sided"
    return comparison(max(upper, flips), max(lower, flips_worse), test)


def spread(values: Array, weights: Array, strata: Array) -> Array:
    """Return what each item adds to the variance of a weighted mean, by its deviation from its stratum's mean.

    Args:
        values: (S, n).
        weights: (n,).
        strata: (n,).

    Returns:
        (S, n): weight^2 (value - mean)^2 g / (g - 1) in a stratum of g items; 0 in one of a single item.
    """
    squares = np.zeros(values.shape)
    for kind in np.unique(strata):
        members = strata == kind
        if (size := int(members.sum())) > 1:
            part = values[:, members]
            squares[:, members] = (part - part.mean(axis=1, keepdims=True)) ** 2 * size / (size - 1)
    return weights**2 * squares


def joined_small(strata: Array) -> Array:
    """Join all strata of a single item into one, as one item says nothing of its stratum's spread."""
    kinds, sizes = np.unique(strata, return_counts=True)
    single = kinds[sizes == 1]
    if len(single) == 1 and len(kinds) > 1:  # its only neighbour is the smallest of the others
        return np.where(strata == single[0], kinds[sizes > 1][sizes[sizes > 1].argmin()], strata)
    return np.where(np.isin(strata, single), -1, strata)


def sign_flips(effects: Array) -> tuple[float, float]:
    """Return the chance, under random signs, of a sum as large as that of the effects, and of one as small.

    Where nothing is there, an item's difference is as likely to be positive as negative (Fisher's randomisation test).
    Effects of one size have a binomial sum: McNemar's exact test. A few are enumerated; of many, FLIPS are drawn and
    what was observed counts as one of them (Phipson and Smyth 2010), so that p is never 0.

    Args:
        effects: (n,), weighted differences of the items.
    """
    sizes = np.abs(effects[np.abs(effects) > 1e-12 * np.abs(effects).max(initial=0.0)])
    if not len(sizes):
        return 1.0, 1.0
    observed = float(effects.sum())
    close = 1e-6 * float(sizes.sum())  # equal sums may differ by rounding
    if np.ptp(sizes) <= 1e-9 * sizes[0]:
        won = int((effects >= sizes.min()).sum())
        fair = stats.binom(len(sizes), 0.5)
        return max(TINY, float(fair.sf(won - 1))), max(TINY, float(fair.cdf(won)))
    if len(sizes) <= EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1)
        sums = signs @ sizes
        return float((sums >= observed - close).mean()), float((sums <= observed + close).mean())
    rng = np.random.default_rng(0)
    above = below = 1
    for start in range(0, FLIPS, block := max(1, 4_000_000 // len(sizes))):
        count = min(block, FLIPS - start)
        coins = rng.integers(0, 256, (count, -(-len(sizes) // 8)), dtype=np.uint8)
        up = np.unpackbits(coins, axis=1, count=len(sizes)).astype(np.float32)  # (count, n)
        sums = 2.0 * (up @ sizes.astype(np.float32)).astype(float) - sizes.sum()
        above += int((sums >= observed - close).sum())
        below += int((sums <= observed + close).sum())
    return above / (1 + FLIPS), below / (1 + FLIPS)


@dataclass(frozen=True)
class Limits:
    """What a number of verdict items can show, known before anything is trained.

    Attributes:
        items: Number of verdict items.
        gain: The gain over the base that one adapter's scores show four times in five; None where no gain can be shown.
    """

    items: int
    gain: float | None

    @classmethod
    def of(cls, base: Runs) -> Self:
        """Return the limits of the items that the base was scored on.

        An item's scores before and after tuning are taken to correlate at ALIKE: for an accuracy of one half, one
        answer in ten changes. Of right-or-wrong answers some have to be won in any case, however alike the base's are.
        """
        known = np.asarray(~np.isnan(base.values).any(axis=0))
        base, at = base.among(known), level(1)
        items = base.values.shape[1]
        if 0.5**items > at:
            return cls(items, None)
        least = math.ceil(-math.log2(at)) / items if np.isin(base.values, (0.0, 1.0)).all() else 0.0
        variance = float(spread(base.values, base.weights, joined_small(base.strata)).sum())
        error = math.sqrt(2 * (1 - ALIKE) * variance)
        return cls(items, max(least, float(stats.norm.isf(at) + stats.norm.ppf(POWER)) * error))

    @property
    def sentence(self) -> str:
        """What the items can show, in one sentence."""
        if self.gain is None:
            return (
                f"{self.items} held-out items cannot show a gain, however large: all are won by chance with p = "
                f"{0.5**self.items:.2g}. Give more items (--limit, --verdict-share)."
            )
        return (
            f"{self.items} held-out items show a gain of {rounding.number(self.gain, 2)} four times in five, if one "
            "answer in ten or so changes; a smaller gain more rarely."
        )


def _is_mcnemar(weights: Array, differences: Array) -> bool:
    return bool(np.ptp(weights) <= 1e-12 and np.isin(differences, (-1.0, 0.0, 1.0)).all())


def _words(comparison: Comparison) -> str:
    gain = rounding.difference(comparison.gain, comparison.stderr)
    return f"gain {gain}, {rounding.chance(comparison.chance)}"
