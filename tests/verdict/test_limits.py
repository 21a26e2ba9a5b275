"""The smallest gain that verdict items can show, against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partune.verdict.limits import ALIKE, Limits
from partune.verdict.paired import compare, level
from partune.verdict.runs import Runs


def one(values: np.ndarray) -> Runs:
    """One run's scores on the items of a task."""
    return Runs.of([{"task": values}])


@pytest.mark.slow
def test_what_items_can_show_is_known_before() -> None:
    assert Limits.of(one(np.array([0.0, 1, 0, 1]))).gain is None
    assert "cannot show a gain" in Limits.of(one(np.array([0.0, 1, 0, 1]))).sentence
    assert Limits.of(one(np.zeros(200))).gain == 5 / 200  # 2^-5 is the first below the first look's level
    assert Limits.of(one(np.array([0.0, 1, 0, 1, 1, math.nan]))).gain == 1.0
    found = Limits.of(one(np.tile([0.0, 1], 200)))
    rng = np.random.default_rng(9)
    assert found.gain is not None
    shown = 0
    for _ in range(300):
        base = (rng.random(400) < 0.5).astype(float)
        flipped = rng.random(400) < np.where(base == 0, 0.1 + found.gain, 0.1 - found.gain)
        shown += compare(one(np.where(flipped, 1 - base, base)), one(base), level(1)).better
    assert shown / 300 == pytest.approx(0.8, abs=0.09)


def test_equal_scores_of_the_base_say_nothing_about_gains() -> None:
    found = Limits.of(one(np.full(12, 0.5)))
    assert (found.gain, found.constant) == (None, True)
    assert found.sentence.startswith("The base model has the same score on all 12 held-out items. If no item's score ")


@pytest.mark.slow
def test_what_items_with_continuous_scores_can_show_is_known_before() -> None:
    rng = np.random.default_rng(3)
    bases = rng.normal(-2.0, 0.7, (300, 60))
    found = Limits.of(one(bases[0]))
    assert found.gain is not None
    assert "have a correlation of 0.8" in found.sentence
    shown = 0
    for base in bases:
        noise = rng.normal(0.0, 0.7, 60)
        tuned = -2.0 + ALIKE * (base + 2.0) + math.sqrt(1 - ALIKE**2) * noise + Limits.of(one(base)).gain
        shown += compare(one(tuned), one(base), level(1)).better
    assert shown / 300 == pytest.approx(0.8, abs=0.09)
