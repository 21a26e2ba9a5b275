"""The verdict: its false alarms, its power, and the tests it stands on, against closed forms, SciPy and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from partune.verdict.flips import sign_flips
from partune.verdict.paired import LEVEL, Comparison, Rival, Verdict, compare, level, verdict
from partune.verdict.runs import Runs
from partune.verdict.variance import Variance
from tests.support.runs import one, several

Array = np.ndarray[Any, Any]


# ----- sign flips


def test_equal_effects_are_mcnemars_binomial_tail() -> None:
    differences = np.array([1.0] * 14 + [-1.0] * 5 + [0.0] * 100)
    tail = sum(math.comb(19, k) for k in range(14, 20)) / 2**19
    assert sign_flips(differences / 119)[0] == pytest.approx(tail, rel=1e-12)
    assert sign_flips(-differences)[1] == pytest.approx(tail, rel=1e-12)
    found = compare(one(np.maximum(differences, 0)), one(np.maximum(-differences, 0)))
    assert found.p == pytest.approx(tail, rel=1e-12)
    assert found.test.startswith("McNemar")


@pytest.mark.parametrize("n", [3, 8, 12, 40])
def test_sign_flips_are_scipys_permutation_test(n: int) -> None:
    effects = np.random.default_rng(n).normal(0.4, 1.0, n)
    for place, side in enumerate(("greater", "less")):
        oracle = stats.permutation_test(
            (effects,), np.sum, permutation_type="samples", alternative=side, n_resamples=20_000, rng=1
        ).pvalue
        exact = n <= 12
        assert sign_flips(effects)[place] == pytest.approx(
            oracle, rel=1e-12 if exact else 0.0, abs=0 if exact else 0.015
        )


def test_no_change_is_no_evidence() -> None:
    assert sign_flips(np.zeros(50)) == (1.0, 1.0)
    found = compare(one(np.ones(50)), one(np.ones(50)))
    assert (found.gain, found.p, found.p_worse, found.relation) == (0.0, 1.0, 1.0, "open")


def test_items_that_do_not_differ_show_nothing_and_have_no_interval() -> None:
    values = np.random.default_rng(0).random(12)
    found = verdict(several(np.tile(values, (3, 1))), one(values), several(np.tile(values, (2, 1))), seeds=3)
    for comparison in (found.over_base, found.over_defaults):
        assert comparison is not None
        assert comparison.equal
        assert (comparison.gain, comparison.p, comparison.relation) == (0.0, 1.0, "open")
        assert all(map(math.isnan, comparison.interval))
    assert found.sentence == (
        "NOT SHOWN BETTER than the untouched base model (no held-out item differs, so nothing can be shown)."
    )
    assert not compare(one(np.array([0.0, 1])), one(np.array([1.0, 0]))).equal


@pytest.mark.parametrize("n", [1, 2, 4, 13, 30, 2000])
def test_p_is_never_zero_and_few_items_show_nothing(n: int) -> None:
    """All of n items won by the same amount, in every run: the chance of that is 2^-n where nothing is there."""
    for runs in (1, 4):
        found = compare(several(np.ones((runs, n))), one(np.zeros(n)))
        assert found.p >= 0.5**n
        assert found.p > 0
        assert found.better == (0.5**n <= LEVEL)
        jittered = 1 + 1e-3 * np.random.default_rng(0).random((runs, n))
        assert compare(several(jittered), one(np.zeros(n))).p > 0


def test_two_won_of_a_hundred_is_a_quarter() -> None:
    won = np.zeros(100)
    won[:2] = 1.0
    for runs in (1, 4):
        assert compare(several(np.tile(won, (runs, 1))), one(np.zeros(100))).p == pytest.approx(0.25)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("items", "tasks"),
    [(2, 1), (5, 2), (2, 3), *(pytest.param(*each, marks=pytest.mark.thorough) for each in ((5, 1), (2, 2), (5, 3)))],
)
def test_few_items_keep_the_level(items: int, tasks: int) -> None:
    rng = np.random.default_rng(items)
    for draw in (lambda: rng.normal(size=items), lambda: rng.integers(0, 2, items).astype(float)):
        said = 0
        for _ in range(400):
            pair = [one(**{f"t{task}": draw() for task in range(tasks)}) for _ in range(2)]
            said += compare(*pair).better
        assert said <= LEVEL * 400 + 3.3 * math.sqrt(LEVEL * (1 - LEVEL) * 400)


# ----- items, tasks, groups


def test_one_adapter_of_each_has_the_paired_error_and_students_interval() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, 300).astype(float), rng.integers(0, 2, 300).astype(float)
    found = compare(one(a), one(b))
    assert found.gain == pytest.approx(a.mean() - b.mean())
    oracle = stats.ttest_rel(a, b)
    assert found.stderr == pytest.approx(found.gain / oracle.statistic)
    low, high = oracle.confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high))


def test_items_without_a_score_in_any_run_are_left_out() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random((3, 50)), rng.random(50)
    a[1, :5], b[5:9] = math.nan, math.nan
    found, clean = compare(several(a), one(b)), compare(several(a[:, 9:]), one(b[9:]))
    assert found.items == clean.items == 41
    for name in ("gain", "stderr", "p", "by_seeds", "interval"):
        assert getattr(found, name) == pytest.approx(getattr(clean, name))
    with pytest.raises(ValueError, match="item that has a score in all runs"):
        compare(several(a[:, :5]), one(b[:5]))


def test_the_comparison_needs_the_same_items() -> None:
    with pytest.raises(ValueError, match="same items"):
        compare(one(np.zeros(3)), one(np.zeros(4)))
    with pytest.raises(ValueError, match="same items"):
        compare(one(a=np.zeros(3), b=np.zeros(3)), one(a=np.zeros(2), b=np.zeros(4)))
    with pytest.raises(ValueError, match="same items"):
        Runs.of([{"task": np.zeros(3)}, {"task": np.zeros(4)}])


def test_one_item_has_no_error_and_shows_nothing() -> None:
    found = compare(several(np.ones((4, 1))), one(np.zeros(1)))
    assert math.isnan(found.stderr)
    assert (found.p, found.relation) == (0.5, "open")


# ----- runs and items


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_flips")
@pytest.mark.parametrize("between", [0.0, 0.01, 0.03])
def test_seeds_and_items_keep_level_and_coverage(between: float) -> None:
    """384 right-or-wrong items, 4 fresh runs against 5; docs/report.md has whole studies."""
    rng = np.random.default_rng(7)
    studies, items = 200, 384

    def answers(runs: int, rights: Array) -> Runs:
        chances = rights + rng.normal(0, between, (runs, 1))
        return several((rng.random((runs, items)) < chances).astype(float))

    found = []
    for _ in range(studies):
        rights = np.where(rng.random(items) < 0.7, 0.9, 0.1)
        found.append(compare(answers(4, rights), answers(5, rights), level(1)))
    wrong = sum(each.better for each in found)
    covered = sum(each.interval[0] <= 0 <= each.interval[1] for each in found)
    assert wrong <= stats.binom(studies, LEVEL).ppf(0.995)
    assert covered >= stats.binom(studies, 0.95).ppf(0.005)


# ----- the verdict


def test_the_level_is_spent_over_the_looks() -> None:
    spent = [level(look) for look in range(1, 30)]
    assert sum(spent) <= LEVEL
    assert spent[0] == pytest.approx(0.75 * LEVEL)
    assert spent == sorted(spent, reverse=True)


@pytest.mark.slow
def test_the_fixed_sequence_needs_no_correction() -> None:
    """Independent defaults: two chances for a false "better", still at most one study in twenty."""
    rng = np.random.default_rng(3)
    said = 0
    for _ in range(400):
        base, defaults, winner = (rng.random((3, 400)) < 0.5).astype(float)
        said += bool(verdict(one(winner), one(base), one(defaults)).better_than)
    assert said <= LEVEL * 400 + 2.6 * math.sqrt(LEVEL * (1 - LEVEL) * 400)


def test_the_sentence_says_what_was_shown() -> None:
    same = np.array([0.0, 1] * 100)
    better = np.where(np.arange(200) % 4 == 0, 1.0, same)
    assert verdict(one(same), one(same), one(same)).sentence.startswith("NOT SHOWN BETTER than the untouched")
    found = verdict(one(better), one(same), one(better))
    assert found.better_than == ("base",)
    assert "NOT SHOWN BETTER than the defaults" in found.sentence
    assert "one adapter of each" in found.sentence
    fresh = several(np.tile(better, (4, 1)))
    both = verdict(fresh, one(same), several(np.tile(same, (5, 1))), seeds=4)
    assert both.better_than == ("base", "defaults")
    assert both.sentence.startswith("BETTER than the untouched base model (gain +0.250")
    assert "adapter" not in both.sentence
    assert verdict(one(better), one(same), None).better_than == ("base",)
    several_left = verdict(one(same), one(same), one(same), {"peft": one(same)}, called="the baseline axolotl")
    assert "; not tested against the baseline axolotl and the baseline peft." in several_left.sentence
    broken = verdict(fresh, one(same), one(same), seeds=4, failed=1)
    assert broken.better_than == ()
    assert broken.sentence.startswith("NOT SHOWN BETTER")
    assert "1 of 5 fresh runs of the winner failed" in broken.sentence


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_flips")
def test_a_baseline_of_which_one_run_is_left_is_not_taken_for_a_fixed_model() -> None:
    """Four runs against one of the same distribution: the spread of the four counts for the one, too."""
    rng = np.random.default_rng(5)
    said = naive = 0
    for _ in range(400):
        skills = rng.normal(0.0, 0.05, 5)[:, None] + rng.normal(0.0, 0.3, 200)
        winner, left = several(skills[:4]), one(skills[4])
        base = one(rng.normal(-1.0, 0.3, 200))
        said += "defaults" in verdict(winner, base, left, seeds=4).better_than
        naive += compare(winner, left, level(1)).better
    assert said <= LEVEL * 400 + 2.6 * math.sqrt(LEVEL * (1 - LEVEL) * 400)
    assert naive > 2 * said


def test_a_loss_is_shown_as_one() -> None:
    rng = np.random.default_rng(8)
    winner, base = (rng.random(200) < 0.216).astype(float), (rng.random(200) < 0.76).astype(float)
    found = verdict(one(winner), one(base), one(base))
    assert found.worse_than == ("base", "defaults")
    assert " and than the defaults (gain -0." in found.sentence
    assert found.sentence.startswith("SHOWN WORSE than the untouched base model (gain -0.")
    assert "p < 0.001" in found.sentence
    assert not found.use_defaults  # which are not better than the base


def judged(*p_worse: float) -> Verdict:
    """A verdict whose comparisons with base, defaults and recipes have these p-values of a loss."""
    tests = [Comparison(-0.1, Variance(0.01, 0.0, 50.0), 1 - p, p, 100, level=level(1)) for p in p_worse]
    recipes = tuple(Rival(f"r{i}", over, over) for i, over in enumerate(tests[2:]))
    return Verdict(tests[0], tests[1], tests[1], seeds=4, others=recipes)


@pytest.mark.parametrize(
    ("p_worse", "worse"),
    [  # level(1) is .0375: Holm compares with .009375, .0125, .01875 and .0375
        ((0.0093, 0.0124, 0.0187, 0.0375), ("base", "defaults", "r0", "r1")),
        ((0.0375, 0.0187, 0.0124, 0.0093), ("base", "defaults", "r0", "r1")),
        ((0.0094, 0.0094, 0.0094, 0.0094), ()),
        ((0.0126, 0.9, 0.001, 0.0126), ("r0",)),
        ((0.9, 0.0188, 0.001, 0.0124), ("r0", "r1")),
        ((0.0187, 0.9), ("base",)),
        ((0.9, 0.0188), ()),
    ],
)
def test_losses_are_shown_by_holms_procedure(p_worse: tuple[float, ...], worse: tuple[str, ...]) -> None:
    found = judged(*p_worse)
    assert found.worse_than == worse
    names = ["base", "defaults", *(rival.name for rival in found.others)]
    assert [name for name in names if found.relation(name) == "worse"] == list(worse)
    assert found.sentence.count("SHOWN WORSE than") + found.sentence.count(" and than") == len(worse)


@pytest.mark.slow
def test_several_baselines_do_not_make_a_false_loss_more_frequent() -> None:
    """Without any effect, and with p-values that are correlated as those of one winner are."""
    rng = np.random.default_rng(3)
    counts = {"verdict": 0, "each alone": 0}
    for _ in range(4000):
        p = stats.norm.cdf(math.sqrt(0.5) * rng.normal() + math.sqrt(0.5) * rng.normal(size=4))
        counts["verdict"] += bool(judged(*p).worse_than)
        counts["each alone"] += bool((p <= level(1)).any())
    assert counts["each alone"] > 1.5 * LEVEL * 4000
    assert counts["verdict"] <= level(1) * 4000 + 2.6 * math.sqrt(level(1) * 4000)


def test_the_defaults_are_advised_where_they_are_shown_better_than_both() -> None:
    low, middle, high = (np.arange(200) % 10 < share for share in (3, 5, 8))
    assert verdict(one(middle * 1.0), one(low * 1.0), one(high * 1.0)).use_defaults
    assert not verdict(one(middle * 1.0), one(high * 1.0), one(high * 1.0)).use_defaults
    slightly = middle * 1.0
    slightly[np.flatnonzero(~middle)[:2]] = 1.0
    assert not verdict(one(middle * 1.0), one(low * 1.0), one(slightly)).use_defaults


def test_a_comparison_without_a_known_error_has_no_interval() -> None:
    found = Comparison(0.1, Variance(math.nan, math.inf), 0.5, 0.5, 1)
    assert math.isnan(found.stderr)
    assert all(math.isnan(end) for end in found.interval)
