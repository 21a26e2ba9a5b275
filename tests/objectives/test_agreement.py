"""Whether two models give the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from partune.objectives.agreement import difference, difference_of_first
from partune.trial import Observation

NAME = "search/choices/loglikelihood"
LIKELIHOODS = np.linspace(-20.0, -5.0, 60).reshape(15, 4)
LIKELIHOODS[4, 3] = np.nan  # an item of three choices
BASE = Observation({"score": 0.5}, items={NAME: LIKELIHOODS})


def shifted(by: float, row: int = 2) -> Observation:
    array = LIKELIHOODS.copy()
    array[row, 1] += by
    return Observation({"score": 0.5}, items={NAME: array})


def test_a_difference_is_found_and_explained() -> None:
    assert difference(BASE, BASE, "fp32") is None
    assert difference(BASE, shifted(5e-5), "fp32") is None
    assert "1 of 15 items of search/choices differ" in str(difference(BASE, shifted(-0.01), "fp32"))
    assert "log-likelihood -17.7119 against -17.7219 (fp32)" in str(difference(BASE, shifted(-0.01), "fp32"))
    short = Observation({"score": 0.5}, items={NAME: LIKELIHOODS[:3]})
    assert "(3, 4) for learning rate 0" in str(difference(BASE, short, "fp32"))
    assert difference(BASE, Observation.failure("out of memory"), "fp32") == "out of memory"
    assert difference(BASE, Observation({"score": 0.0}), "fp32") == "no item was scored for both"


def test_what_is_no_number_does_not_agree() -> None:
    assert difference(BASE, shifted(float("nan")), "fp32") is not None


@pytest.mark.parametrize(("dtype", "rounding", "wrong"), [("fp32", 2e-4, 1e-3), ("bf16", 0.3, 1.0), ("fp16", 0.1, 0.2)])
def test_a_precision_has_its_own_tolerance(dtype: str, rounding: float, wrong: float) -> None:
    assert difference(BASE, shifted(rounding), dtype) is None
    assert difference(BASE, shifted(wrong), dtype) is not None


def test_the_first_items_are_compared_alone() -> None:
    assert difference_of_first(BASE, {NAME: LIKELIHOODS[:8, :3]}, "fp32") is None
    assert difference_of_first(BASE, {NAME: shifted(0.1).items[NAME][:8]}, "fp32") is not None
    assert difference_of_first(shifted(0.1, row=12), {NAME: LIKELIHOODS[:8]}, "fp32") is None


TEXTS = "search/free/answer"
LONG = "a long answer, "


def texts(*answers: str) -> Observation:
    return Observation({"score": 0.5}, items={TEXTS: np.array(answers).reshape(-1, 1)})


def diverging(early: int, late: int, of: int) -> Observation:
    """Answers of which some differ in their first word, and some only later."""
    return texts(*["Another answer"] * early, *[LONG + "later"] * late, *[LONG] * (of - early - late))


@pytest.mark.parametrize(
    ("dtype", "of", "early", "late"),
    [
        ("fp32", 8, 1, 0),
        ("fp32", 200, 4, 0),
        ("fp16", 8, 1, 1),
        ("fp16", 64, 8, 8),
        ("bf16", 8, 2, 2),
        ("bf16", 64, 16, 16),
        ("bf16", 64, 0, 32),
        ("bf16", 1, 1, 0),
    ],
)
def test_near_ties_change_some_texts_and_fewer_beginnings(dtype: str, of: int, early: int, late: int) -> None:
    base = texts(*[LONG] * of)
    assert difference(base, diverging(early, late, of), dtype) is None
    if of > 1:
        assert difference(base, diverging(early + 1, late, of), dtype) is not None
        assert late == 0 or difference(base, diverging(early, late + 1, of), dtype) is not None


def test_a_missing_adapter_shows_on_few_items() -> None:
    """Half of eight short answers are often the same for two models; more is no near tie, nor is it in bf16."""
    base = texts(*["It is dust."] * 8)
    reloaded = {TEXTS: np.array([["It is dust."]] * 5 + [["It is rust."]] * 3)}
    assert difference_of_first(base, reloaded, "bf16") == (
        "3 of 8 answers to search/free differ within their first 8 characters; the first is 'It is rust.', not "
        "'It is dust.' (bf16)"
    )


@pytest.mark.parametrize("items", [8, 60])
def test_near_ties_rarely_refuse_a_model_that_is_the_same(items: int) -> None:
    """Texts of 100 tokens, which change with a probability of 1 %; after a change, all others do too."""
    generator = np.random.default_rng(items)
    refused = 0
    for _ in range(200):
        first = generator.geometric(0.01, size=items) - 1
        answers = ["abcd" * min(100, each) + "wxyz" * max(0, 100 - each) for each in first]
        refused += difference(texts(*["abcd" * 100] * items), texts(*answers), "bf16") is not None
    assert refused <= 2


def test_the_end_of_a_long_text_counts_in_fp32() -> None:
    early, late = texts(*[LONG * 5] * 8), texts(*[LONG * 5 + "later"] * 8)
    assert "8 of 8 answers to search/free differ; the first is" in str(difference(early, late, "fp32"))
    assert difference(early, late, "bf16") is None


def test_the_difference_that_is_shown_is_the_first_one() -> None:
    base, other = texts("a", "b", "c"), texts("a", "x", "y")
    assert str(difference(base, other, "fp32")).endswith("the first is 'x', not 'b' (fp32)")


def test_values_of_a_metric_called_answer_are_no_answers() -> None:
    items = {NAME: LIKELIHOODS, "search/choices/answer": np.linspace(0, 1, 15)}
    base = Observation({"score": 0.5}, items=items)
    assert difference(base, base, "fp32") is None
    assert difference_of_first(base, {name: rows[:8] for name, rows in items.items()}, "fp32") is None
    alone = Observation({"score": 0.5}, items={"search/choices/answer": np.linspace(0, 1, 15)})
    assert difference(alone, alone, "fp32") == "no item was scored for both"
