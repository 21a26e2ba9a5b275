"""The variance of a gain, from runs and items that are crossed, against SciPy and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from partune.verdict.paired import LEVEL, compare, level
from partune.verdict.runs import Runs
from partune.verdict.variance import joined_small, satterthwaite
from tests.support.runs import one, several

Array = np.ndarray[Any, Any]


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


def test_a_small_task_has_its_own_degrees_of_freedom() -> None:
    """Two tasks of one run each are Welch's two samples: 3 items beside 300 leave some 2 degrees, not 301."""
    rng = np.random.default_rng(10)
    small, large = rng.normal(1.0, 1, 3), rng.normal(0.5, 1, 300)
    found = compare(one(small=small, large=large), one(small=np.zeros(3), large=np.zeros(300)))
    oracle = stats.ttest_ind(small, -large, equal_var=False)
    assert found.variance.items_df == pytest.approx(oracle.df)
    assert found.interval == pytest.approx(np.array(oracle.confidence_interval(0.95)) / 2)


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


@pytest.mark.slow
def test_what_runs_answer_differently_counts_once() -> None:
    """Without luck of seeds, the residuals are all that varies: in the items' estimate and in that of the runs."""
    rng = np.random.default_rng(10)
    found = [
        compare(several(crossed(rng, 3, 40, 0.0, 0.0, 1.0)), several(crossed(rng, 4, 40, 0.0, 0.0, 1.0)))
        for _ in range(150)
    ]
    assert np.mean([each.stderr**2 for each in found]) == pytest.approx((1 / 3 + 1 / 4) / 40, rel=0.15)


def test_degrees_of_freedom_do_not_depend_on_the_unit() -> None:
    estimates = [(2.0, 3.0), (1.0, 7.0)]
    variance, df = satterthwaite(estimates)
    assert (variance, df) == (3.0, pytest.approx(9 / (4 / 3 + 1 / 7)))
    for unit in (1e-170, 1e170):
        assert satterthwaite((unit * value, own) for value, own in estimates)[1] == pytest.approx(df)
