"""The words: what an observation must hold, what an optimiser may see, trials that never change."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from partune import Observation, Status, Trial


def test_an_observation_that_did_not_fail_has_a_finite_score() -> None:
    """Of a stopped one there may be none."""
    for scores in ({}, {"score": math.nan}, {"score": math.inf}, {"accuracy": 0.5}):
        for status in (Status.DONE, Status.STOPPED) if scores else (Status.DONE,):
            with pytest.raises(ValueError, match="needs a finite scores"):
                Observation(scores, status=status)
    assert not Observation(status=Status.STOPPED).scores
    assert Observation(status=Status.FAILED).score == -math.inf


def test_a_bare_number_is_the_score_and_nan_a_failure() -> None:
    assert Observation.of(0.5) == Observation({"score": 0.5})
    assert Observation.of(np.float64(0.5)).score == 0.5
    assert Observation.of(Observation({"score": 1.0})).score == 1.0
    assert Observation.of(math.nan).error == "the score is nan"


def test_an_optimiser_sees_score_and_error_alone() -> None:
    items = {"verdict/t/acc": np.ones(3)}
    full = Observation({"score": 0.5, "verdict": 0.9, "test/t": 0.8}, 0.01, error="x", items=items)
    assert full.blinded() == Observation({"score": 0.5}, 0.01)
    assert not full.blinded().items


def test_a_trial_is_never_changed_in_place() -> None:
    proposed = Trial(3, {"x": 1.0}, (0.5,))
    running = proposed.started()
    done = running.finished(Observation({"score": 0.5}), told=2)
    assert (proposed.status, proposed.attempts) == (Status.PROPOSED, 0)
    assert (running.status, running.attempts, running.score) == (Status.RUNNING, 1, -math.inf)
    assert (done.status, done.told, done.score) == (Status.DONE, 2, 0.5)
    assert done.proposal == proposed.proposal
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.status = Status.FAILED  # type: ignore[misc]


@pytest.mark.parametrize("status", Status)
def test_final_is_done_failed_or_stopped(status: Status) -> None:
    assert status.final == (status in {"done", "failed", "stopped"})
