"""The courses of trainings: which runs have one, and how losses are smoothed."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.report.analysis.courses import SHOWN, Course, courses
from partune.trial import Observation, Trial
from partune.trial.names import Baseline, FurtherBaseline

LOSSES = np.linspace(3.0, 1.0, 8, dtype=np.float32)
POINTS = np.array([[4.0, -2.0], [8.0, -1.5]])


def record(*further: str, **shelves: dict[int, dict[str, Any]]) -> Any:
    defaults = Trial(2, {}).finished(Observation({"score": 0.5}), 0)
    named = {FurtherBaseline(name): dataclasses.replace(defaults, number=3 + k) for k, name in enumerate(further)}
    return SimpleNamespace(
        anchors=lambda: {Baseline.DEFAULTS: defaults, **named},
        items=lambda shelf, number: shelves.get(shelf, {}).get(number, {}),
    )


def test_defaults_and_winner_have_courses() -> None:
    winner = Trial(7, {}).finished(Observation({"score": 0.7, "selected": 4.0}), 1)
    kept = record(anchors={2: {"training_loss": LOSSES}}, search={7: {"training_loss": LOSSES, "points": POINTS}})
    found = courses(kept, winner)
    assert list(found) == ["defaults", "best"]
    assert (found["defaults"].selected, found["defaults"].points.shape) == (None, (0, 2))
    assert (found["best"].selected, found["best"].points.tolist()) == (4, POINTS.tolist())


def test_every_baseline_has_a_course() -> None:
    items = {number: {"training_loss": LOSSES + number} for number in (2, 3, 4)}
    found = courses(record("peft", "mine", anchors=items), None)
    assert list(found) == ["defaults", "peft", "mine"]
    assert found["mine"].losses.tolist() == (LOSSES + 4).tolist()


@pytest.mark.parametrize("items", [{}, {"training_loss": np.empty(0)}, {"verdict/t/acc": np.ones(3)}])
def test_records_without_losses_have_no_courses(items: dict[str, Any]) -> None:
    winner = Trial(7, {}).finished(Observation({"score": 0.7}), 1)
    assert courses(record(anchors={2: items}, search={7: items}), winner) == {}
    assert courses(record(), None) == {}


@pytest.mark.parametrize("steps", [1, 7, SHOWN, SHOWN + 1, 1234])
def test_smoothed_losses_are_means_of_stretches(steps: int) -> None:
    losses = np.random.default_rng(0).random(steps)
    ends, means = Course(losses, np.empty((0, 2)), None).smoothed
    assert len(ends) <= SHOWN
    assert ends[-1] == steps
    starts = [0, *ends[:-1].astype(int)]
    expected = [losses[start : int(end)].mean() for start, end in zip(starts, ends, strict=True)]
    np.testing.assert_allclose(means, expected)


def test_a_report_can_do_without_a_course() -> None:
    def missing(shelf: str, number: int) -> dict[str, Any]:
        raise UserError("a file is missing")

    kept = record()
    kept.items = missing
    assert courses(kept, Trial(7, {}).finished(Observation({"score": 0.7}), 1)) == {}
