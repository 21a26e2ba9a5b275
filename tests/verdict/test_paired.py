"""The verdict: its false alarms, its power, and the tests it stands on, against closed forms, SciPy and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from partune.verdict import flips
from partune.verdict.flips import sign_flips
from partune.verdict.paired import (
    LEVEL,
    Comparison,
    Runs,
    Variance,
    compare,
    joined_small,
    level,
    verdict,
)

Array = np.ndarray[Any, Any]


def one(*values: Array, **tasks: Array) -> Runs:
    """One run's scores on the items of a task, or of several by name."""
    return Runs.of([tasks or {"task": values[0]}])


def several(values: Array) -> Runs:
    """Runs on one task; values: (S, n)."""
    return Runs.of([{"task": row} for row in values])


@pytest.fixture
def fewer_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the random sign flips, with which the test has its level just as well, in simulations of many."""
    monkeypatch.setattr(flips, "FLIPS", 999)


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


def test_several_tasks_weigh_the_same_whatever_their_size() -> None:
    winner = one(small=np.array([1.0, 1, 1, 0]), large=np.zeros(400))
    found = compare(winner, one(small=np.zeros(4), large=np.zeros(400)))
    assert found.gain == pytest.approx(0.75 / 2)
    assert found.items == 404
    assert found.p == pytest.approx(1 / 8)  # of three items that differ, all won


def test_a_small_task_has_its_own_degrees_of_freedom() -> None:
    """Two tasks of one run each are Welch's two samples: 3 items beside 300 leave some 2 degrees, not 301."""
    rng = np.random.default_rng(10)
    small, large = rng.normal(1.0, 1, 3), rng.normal(0.5, 1, 300)
    found = compare(one(small=small, large=large), one(small=np.zeros(3), large=np.zeros(300)))
    oracle = stats.ttest_ind(small, -large, equal_var=False)
    assert found.variance.items_df == pytest.approx(oracle.df)
    assert found.interval == pytest.approx(np.array(oracle.confidence_interval(0.95)) / 2)


def test_a_group_weighs_as_its_table_does() -> None:
    """A leaf of 2 items counts as much as one of 200 where the group's score is the mean of its leaves'."""
    leaf = {"task": np.repeat([0, 1], [2, 200])}
    weights = {"task": np.repeat([1 / 4, 1 / 400], [2, 200])}
    winner = Runs.of([{"task": np.r_[np.ones(2), np.zeros(200)]}], weights, leaf)
    base = Runs.of([{"task": np.zeros(202)}], weights, leaf)
    assert compare(winner, base).gain == pytest.approx(0.5)


def test_leaves_of_one_item_share_a_stratum() -> None:
    assert len(np.unique(joined_small(np.array([0, 1, 2, 3])))) == 1
    assert joined_small(np.array([0, 0, 0, 1, 1, 2])).tolist() == [0, 0, 0, 1, 1, 1]
    assert joined_small(np.array([0])).tolist() == [-1]
    rng = np.random.default_rng(0)
    leaves = {"task": np.arange(57)}
    runs = [Runs.of([{"task": rng.random(57)}], None, leaves) for _ in range(2)]
    assert compare(*runs).stderr == pytest.approx(
        float(np.std(runs[0].values - runs[1].values, ddof=1)) / math.sqrt(57)
    )


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


def crossed(rng: np.random.Generator, runs: int, items: int, between: float, own: float, rest: float) -> Array:
    """(runs, items) of a configuration whose true score is 0. Standard deviations of runs, items and what is left."""
    return rng.normal(0, between, (runs, 1)) + rng.normal(0, own, items) + rng.normal(0, rest, (runs, items))


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_flips")
def test_the_variance_of_a_crossed_design_is_unbiased() -> None:
    """Without the clamp at 0 it would be so exactly; with runs that differ much the clamp is never met."""
    rng = np.random.default_rng(5)
    between, own, rest, n = 0.4, 0.5, 0.8, 60
    found = [
        compare(several(crossed(rng, 4, n, between, own, rest)), several(crossed(rng, 5, n, between, own, rest)))
        for _ in range(600)
    ]
    truth = between**2 * (1 / 4 + 1 / 5) + 2 * own**2 / n + rest**2 / n * (1 / 4 + 1 / 5)
    assert np.var([each.gain for each in found]) == pytest.approx(truth, rel=0.2)
    assert np.mean([each.stderr**2 for each in found]) == pytest.approx(truth, rel=0.1)
    assert all(
        each.stderr**2 == pytest.approx(each.by_items**2 + each.by_seeds**2) and each.runs == (4, 5) for each in found
    )


def test_runs_that_differ_alone_are_welchs_test() -> None:
    """Items that all runs answer alike leave the runs' means: Welch's t, whose degrees Satterthwaite's are."""
    rng = np.random.default_rng(6)
    a, b = rng.normal(2, 1, 4), rng.normal(0, 2, 6)
    found = compare(several(np.tile(a[:, None], 50)), several(np.tile(b[:, None], 50)))
    oracle = stats.ttest_ind(a, b, equal_var=False, alternative="greater")
    assert found.stderr == pytest.approx((a.mean() - b.mean()) / oracle.statistic)
    assert found.variance.runs_df == pytest.approx(oracle.df)
    assert found.p == pytest.approx(max(oracle.pvalue, 0.5**50))


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


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_flips")
def test_two_fresh_runs_keep_the_level_against_a_base_model() -> None:
    """One degree of freedom of the runs beside 399 of the items: merged by Satterthwaite, 8 to 9 % say "better"."""
    rng = np.random.default_rng(9)
    studies = 400
    said = 0
    for _ in range(studies):
        items = rng.normal(0.5, 0.2, 400)
        runs = items + rng.normal(0, 0.02, (2, 1)) + rng.normal(0, 0.18, (2, 400))
        said += compare(several(runs), one(items + rng.normal(0, 0.18, 400)), level(1)).better
    assert said <= stats.binom(studies, LEVEL).ppf(0.995)


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
