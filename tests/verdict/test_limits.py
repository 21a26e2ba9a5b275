"""What verdict items can show, in sentences. `test_power` tests the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from partune.verdict.assumed import Yardstick
from partune.verdict.limits import Limits, assumption
from partune.verdict.power import Design, chance, chance_in_order
from partune.verdict.runs import Runs

CHOICES = Yardstick("acc", False)
LOSS = Yardstick("loss", True)


def limits(values: np.ndarray, seeds: int = 0, yardstick: Yardstick = CHOICES) -> Limits:
    """Return the limits for one run's scores on the items of a task."""
    return Limits.of(Runs.of([{"task": values}]), seeds, yardstick)


def test_too_few_items_are_said_to_show_nothing() -> None:
    found = limits(np.array([0.0, 1, 0, 1]))
    assert found.hopeless
    assert found.gain is None
    assert found.sentence.startswith("4 held-out items cannot show a gain, however large: even a gain on all of them")


def test_equal_scores_of_the_base_say_nothing_about_gains() -> None:
    found = limits(np.full(12, 0.5))
    assert (found.gain, found.variation) == (None, None)
    assert found.sentence.startswith("The base model has the same score on all 12 held-out items. If no item's score ")


def test_the_sentence_has_the_gains_of_the_prediction() -> None:
    found = limits(np.tile([0.0, 1.0, 1.0, 1.0], 100), 4)
    assert found.variation is not None
    over_both = found.gain_over(1)
    assert found.gain is not None
    assert over_both is not None
    assert chance(found.gain, Design.equal(400, 4), found.variation, False) == pytest.approx(0.8, abs=0.01)
    assert chance_in_order(over_both, Design.equal(400, 4), found.variation, 1) == pytest.approx(0.8, abs=0.01)
    assert found.sentence.startswith("400 held-out items and 4 fresh runs show a gain of 0.0")
    assert "in four studies out of five, and of 0.0" in found.sentence
    assert "over the defaults too (if tuning changes 1" in found.sentence


def test_items_without_a_score_and_items_that_all_are_wrong() -> None:
    assert limits(np.array([0.0, 1, 0, 1, 1, np.nan])).items == 5
    found = limits(np.zeros(200))
    assert found.gain is not None
    assert 5 / 200 <= found.gain < 0.1  # 2^-5 is the first below the first look's level


def test_a_model_that_is_nearly_perfect_cannot_be_shown_better() -> None:
    found = limits(np.concatenate([np.zeros(1), np.ones(99)]))
    assert found.gain is None
    assert found.sentence.endswith("show even the largest possible gain in fewer than four studies out of five.")


def test_losses_are_assumed_to_be_correlated() -> None:
    found = limits(-np.exp(np.random.default_rng(0).normal(0.0, 0.5, 200)), 0, LOSS)
    assert found.gain is not None
    assert found.variation is not None
    assert assumption(found.variation) == (
        "an item's scores before and after tuning have a correlation of 0.48, and those of two adapters of 0.67"
    )
    assert "with one adapter of each side, show a gain of" in found.sentence
