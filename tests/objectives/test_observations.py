"""An engine's outcome as what a study is told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partune.errors import UserError
from partune.finetune.engines import Outcome
from partune.finetune.scoring.scores import Scores
from partune.finetune.training import DivergedError
from partune.objectives.observations import observation_of
from partune.trial import Status

COST = {"seconds": 3.0, "tokens": 7.0}
ITEMS = {"search/choices/acc": np.array([1.0, 0.0])}


def test_scores_are_named_and_keep_their_items() -> None:
    scores = Scores({"search/choices/acc": 0.5}, ITEMS, 0.5, 0.1)
    done = observation_of(Outcome(scores, COST, rungs=(0.2, 0.4)), 0.25)
    assert (done.status, done.score, done.stderr, done.fidelity) == (Status.DONE, 0.5, 0.1, 0.25)
    assert done.scores == {"score": 0.5, "search/choices/acc": 0.5, "rung/0": 0.2, "rung/1": 0.4}
    assert (done.cost, done.items) == (COST, ITEMS)


def test_a_stopped_trial_has_its_last_rungs_score() -> None:
    stopped = observation_of(Outcome(Scores({}, {}), COST, rungs=(0.2, 0.4), stopped=0.5))
    assert (stopped.status, stopped.fidelity) == (Status.STOPPED, 0.5)
    assert stopped.scores == {"score": 0.4, "rung/0": 0.2, "rung/1": 0.4}


def test_a_failure_says_why_and_what_it_cost() -> None:
    failed = observation_of(Outcome(DivergedError(3), COST))
    assert (failed.status, failed.error, failed.cost) == (Status.FAILED, "loss diverged at step 3", COST)


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_a_score_that_is_no_number_is_a_failure(score: float | None) -> None:
    failed = observation_of(Outcome(Scores({}, ITEMS, score), COST))
    assert (failed.status, failed.error) == (Status.FAILED, f"the score is {score}")


def test_what_is_the_users_to_correct_is_raised() -> None:
    with pytest.raises(UserError, match="correct this"):
        observation_of(Outcome(UserError("correct this"), COST))
