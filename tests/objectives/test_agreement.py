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
