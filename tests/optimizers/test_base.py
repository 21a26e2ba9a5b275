"""What ask, tell and the constructor refuse, and what a stopped trial counts as."""

from math import inf, nan
from typing import Any

import pytest

from partune.errors import UserError
from partune.optimizers import optimizer
from partune.space import Float, Space
from partune.trial import Observation, Status

SPACE = Space(x=Float(0, 1))


@pytest.mark.parametrize("n", [0, -1, 2.5, True, 10**9, nan, "3", None])
def test_an_ask_is_for_a_number_that_can_be_answered(n: Any) -> None:
    with pytest.raises(UserError, match="an ask is for 1 to 100000 proposals"):
        optimizer("random", SPACE).ask(n)


def test_a_result_is_told_of_a_proposal() -> None:
    with pytest.raises(UserError, match=r"tell\(\) takes a Proposal"):
        optimizer("random", SPACE).tell(0, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_is_a_natural_number(seed: int) -> None:
    with pytest.raises(UserError, match="a seed is an integer >= 0"):
        optimizer("random", SPACE, seed=seed)


def stopped(score: float, *rungs: float) -> Observation:
    scores = {"score": score, **{f"rung/{k}": value for k, value in enumerate(rungs)}}
    return Observation(scores, status=Status.STOPPED, fidelity=0.3)


def done(score: float, *rungs: float) -> Observation:
    return Observation({"score": score, **{f"rung/{k}": value for k, value in enumerate(rungs)}})


def test_a_stopped_trial_counts_as_its_rung_and_the_gain_that_others_made_after_it() -> None:
    space = Space(x=Float(0, 1))
    observations = [
        stopped(0.4, 0.4),  # nobody is done: as it is
        done(0.8, 0.5, 0.7),
        done(0.9, 0.6, 0.8),
        stopped(0.45, 0.45),  # those done gained .3 after rung 0
        stopped(0.6, 0.5, 0.6),  # and .1 after rung 1
        stopped(0.85, 0.7, 0.85),  # no more than the best that is done
        done(0.7, 0.6, 0.7),  # what was told stays
    ]
    found = optimizer("random", space)
    for proposal, observation in zip(found.ask(len(observations)), observations, strict=True):
        found.tell(proposal, observation)
    assert found.history[1] == pytest.approx([0.4, 0.8, 0.9, 0.75, 0.7, 0.9, 0.7])
    without = Observation({}, status=Status.STOPPED)
    (proposal,) = found.ask()
    found.tell(proposal, without)
    assert found.history[1][-1] == -inf
