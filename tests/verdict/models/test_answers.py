"""Answers about two models, against SciPy's tests, closed forms and simulation."""

from __future__ import annotations

import math
import runpy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from partune.verdict.models.answers import Answer, Question, answers, correct
from partune.verdict.models.bounded import chance_at_most
from partune.verdict.models.pairing import Measure, Paired
from partune.verdict.paired import LEVEL
from partune.verdict.repeats import holm
from tests.support import ROOT

Array = np.ndarray[Any, Any]
ACC = Measure("acc", "none", True)


def pairs(a: Array, b: Array, task: str = "t", copies: Array | None = None, prefix: str = "") -> Paired:
    """Scores, (n,) or (S, n), of two models."""
    a, b = np.atleast_2d(a).astype(float), np.atleast_2d(b).astype(float)
    n = a.shape[1]
    documents = tuple(f"{prefix or task} {number:05}" for number in range(n))
    return Paired(task, ACC, documents, np.ones(n) if copies is None else copies, a, b)


def on(*parts: Paired, name: str = "t") -> Question:
    """A question about some tasks that count equally."""
    return Question(name, "task" if len(parts) == 1 else "mean", parts, [1 / len(parts)] * len(parts))


def answer(a: Array, b: Array, margin: float | None = None) -> Answer:
    return answers([on(pairs(a, b))], margin)[0]


def right_or_wrong(won: int, lost: int, equal: int) -> tuple[Array, Array]:
    return np.repeat([1, 0, 1], [won, lost, equal]), np.repeat([0, 1, 1], [won, lost, equal])


# ----- one task


@pytest.mark.parametrize(("won", "lost", "equal"), [(14, 5, 100), (6, 0, 0), (5, 0, 90), (30, 52, 800), (0, 0, 9)])
def test_right_or_wrong_answers_are_mcnemars_two_sided_test(won: int, lost: int, equal: int) -> None:
    found = answer(*right_or_wrong(won, lost, equal))
    oracle = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert found.p == found.corrected == pytest.approx(oracle, rel=1e-9)
    assert found.test == "McNemar's exact test"
    assert (found.won, found.lost, found.items) == (won, lost, won + lost + equal)
    assert found.gain == pytest.approx((won - lost) / (won + lost + equal))
    assert found.relation == ("open" if oracle > LEVEL else "better" if won > lost else "worse")


@pytest.mark.parametrize("n", [4, 9, 13])
def test_few_other_scores_enumerate_all_signs(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.random((2, n))
    oracle = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    found = answer(a, b)
    assert found.p >= oracle * (1 - 1e-9)
    gaffke = 2 * min(chance_at_most(0.0, sign * (a - b), -1.0) for sign in (1, -1))
    assert found.p == pytest.approx(max(oracle, min(1.0, gaffke)), rel=1e-6)


@pytest.mark.slow
def test_many_items_are_students_test() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 2000))
    found, oracle = answer(a, b, 0.01), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(oracle.pvalue, abs=0.06)
    interval = oracle.confidence_interval(0.95)
    assert found.interval == pytest.approx((interval.low, interval.high), abs=0.001)
    assert found.interval[0] < interval.low < interval.high < found.interval[1]
    above = stats.ttest_1samp(a - b, -0.01, alternative="greater").pvalue
    assert found.p_margin == pytest.approx(above, abs=0.03)
    assert found.p_margin is not None
    assert found.p_margin > above


def test_rare_large_losses_are_no_gain() -> None:
    """Nine small gains in ten and a loss that outweighs them: of ten items, a third of all samples have no loss."""
    gains = np.full(10, 0.05)
    found = answer(0.5 + gains, np.full(10, 0.5))
    assert found.comparison.p == pytest.approx(2.0**-10)
    assert found.relation == "open"
    assert "Gaffke" in found.test


def test_the_margin_needs_items_that_could_have_shown_a_loss() -> None:
    for n, relation in ((5, "open"), (298, "open"), (299, "no worse"), (2000, "no worse")):
        same = np.tile([0.0, 1.0], n)[:n]
        found = answer(same, same, 0.01)
        assert found.p_margin == pytest.approx(0.99**n, abs=1e-8)
        assert found.relation == relation
        assert found.within_margin == (relation == "no worse")
        assert found.interval[0] == pytest.approx(-(1 - 0.025 ** (1 / n)), abs=1e-6)


def test_a_loss_may_be_shown_and_be_within_the_margin() -> None:
    found = answer(*right_or_wrong(2, 40, 9958), 0.01)
    assert found.relation == "worse"
    assert found.within_margin
    assert answer(*right_or_wrong(2, 40, 958), 0.01).within_margin is False


def test_scores_without_bounds_are_students_and_gaffkes_tests() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(-30, 9, 60), rng.normal(-30, 9, 60)
    b = a + rng.normal(0.3, 1, 60)
    found, oracle = answer(a, b, 1.0), stats.ttest_rel(a, b)
    low, high = oracle.confidence_interval(0.95)
    assert found.interval[0] <= low
    assert found.interval[1] >= high
    student = stats.ttest_1samp(a - b, -1.0, alternative="greater").pvalue
    assert found.p_margin is not None
    assert found.p_margin >= student
    assert "Student's t over items, and Gaffke" in found.margin_test
    same = answer(a, a, 1.0)
    assert (same.p, same.p_margin, same.relation) == (1.0, 1.0, "open")
    assert all(math.isnan(end) for end in same.interval)


def test_several_runs_are_part_of_the_error() -> None:
    """Of runs that differ as whole, the error is Welch's, however many items there are."""
    rng = np.random.default_rng(4)
    items = rng.random(400) * 0.4 + 0.3
    shifts = rng.normal(0, 0.03, (2, 4, 1))
    a, b = items + shifts[0], items + shifts[1]
    found = answer(a, b, 0.01)
    oracle = stats.ttest_ind(shifts[0, :, 0], shifts[1, :, 0], equal_var=False)
    assert found.p >= oracle.pvalue * (1 - 1e-6)
    assert found.comparison.runs == (4, 4)
    assert found.comparison.by_seeds == pytest.approx(abs(found.gain / oracle.statistic), rel=1e-3)
    one = answer(a[0], b[0])
    assert one.interval[1] - one.interval[0] < found.interval[1] - found.interval[0]
    assert "runs and items" in found.margin_test


# ----- several tasks


def test_documents_of_two_tasks_are_one_item_of_the_mean() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 2, (2, 50))
    alone = answers([on(pairs(a, b))], 0.05)[0]
    twice = answers([on(pairs(a, b), pairs(a, b, "u", prefix="t"))], 0.05)[0]
    for name in ("gain", "p", "p_margin", "interval", "items", "won", "lost", "scores"):
        assert getattr(twice, name) == pytest.approx(getattr(alone, name)), name
    apart = answers([on(pairs(a, b), pairs(a, b, "u"))], 0.05)[0]
    assert apart.items == 100
    assert apart.gain == pytest.approx(alone.gain)
    assert apart.comparison.stderr < alone.comparison.stderr


def test_copies_weigh_as_often_as_they_occur() -> None:
    a, b = np.array([1, 0, 1, 1, 0]), np.array([0, 0, 1, 0, 1])
    found = answers([on(pairs(a, b, copies=np.array([3.0, 1, 1, 1, 1])))])[0]
    assert found.gain == pytest.approx((3 + 0 + 0 + 1 - 1) / 7)
    assert found.p > stats.binomtest(4, 5).pvalue  # as if the copies were items of their own


def test_single_p_values_are_corrected_after_holm() -> None:
    ps = [0.01, 0.04, 0.03, 0.2]
    assert [each for (each,) in correct([(p,) for p in ps])] == pytest.approx(holm(ps))
    assert correct([(0.04,)]) == [(0.04,)]


def test_two_hypotheses_of_which_one_is_true_count_once() -> None:
    assert correct([(0.04, 0.03)]) == [(0.04, 0.03)]
    assert correct([(0.01, 0.2), (0.03, 0.02)]) == [(0.02, 0.2), (0.06, 0.04)]
    # After both of the first question, only the second is left.
    assert correct([(0.001, 0.01), (0.03, 0.04)]) == [(0.002, 0.02), (0.03, 0.04)]


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=2).map(tuple), min_size=1, max_size=6))
def test_a_correction_keeps_the_order_and_only_raises(questions: list[tuple[float, ...]]) -> None:
    corrected = correct(questions)
    flat = sorted((p, q) for ps, qs in zip(questions, corrected, strict=True) for p, q in zip(ps, qs, strict=True))
    assert all(p <= q <= min(1.0, p * len(questions)) or q >= p for p, q in flat)
    assert [q for _, q in flat] == sorted(q for _, q in flat)


# ----- properties

SCORES = st.one_of(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=30),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=11),
    st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=11),
)


@pytest.mark.slow
@given(SCORES, st.randoms())
def test_swapped_models_mirror_the_answer_and_the_order_is_nothing(
    scores: list[tuple[float, float]], random: Any
) -> None:
    a, b = np.array(scores).T
    found, mirrored = answer(a, b), answer(b, a)
    assert mirrored.gain == pytest.approx(-found.gain)
    assert mirrored.p == pytest.approx(found.p, rel=1e-6, abs=1e-9)
    assert (mirrored.won, mirrored.lost) == (found.lost, found.won)
    assert mirrored.relation == {"better": "worse", "worse": "better", "open": "open"}[found.relation]
    assert np.array(mirrored.interval) == pytest.approx(-np.array(found.interval)[::-1], abs=1e-6, nan_ok=True)
    random.shuffle(scores)
    again = answer(*np.array(scores).T)
    assert again.p == pytest.approx(found.p, rel=1e-6, abs=1e-9)
    assert np.array(again.interval) == pytest.approx(np.array(found.interval), abs=1e-6, nan_ok=True)


@pytest.mark.slow
@given(SCORES, st.floats(1e-3, 0.5), st.floats(1e-3, 0.4))
def test_a_wider_margin_is_easier(scores: list[tuple[float, float]], margin: float, wider: float) -> None:
    a, b = np.array(scores).T
    narrow, wide = answer(a, b, margin).p_margin, answer(a, b, margin + wider).p_margin
    assert narrow is not None
    assert wide is not None
    assert wide <= narrow + 1e-9


# ----- levels

SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "model_verdict_errors.py"))


@pytest.mark.parametrize("kind", SCRIPT["KINDS"])
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_the_benchmark_draws_models_whose_difference_is_as_said(kind: str, loss: float) -> None:
    a, b = SCRIPT["KINDS"][kind](np.random.default_rng(0), 100_000, loss)
    assert np.mean(a - b) == pytest.approx(-loss, abs=4 * float(np.std(a - b)) / math.sqrt(100_000))
    assert min(a.min(), b.min()) >= 0
    assert max(a.max(), b.max()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 60])
def test_simulated_models_keep_the_level(n: int) -> None:
    """benchmarks/model_verdict_errors.py has more; here the models are equal, or A is worse by the margin."""
    rng = np.random.default_rng(n)
    times, margin = 200, 0.05
    most = stats.binom(times, LEVEL).ppf(0.9995)
    differ = within = 0
    for _ in range(times):
        b = rng.random(n) < 0.6
        equal = np.where(rng.random(n) < 0.2, rng.random(n) < 0.6, b)
        worse = np.where(rng.random(n) < margin / 0.6, False, b)
        differ += answer(equal, b).relation != "open"
        within += answer(worse, b, margin).within_margin
    assert differ <= most
    assert within <= most
