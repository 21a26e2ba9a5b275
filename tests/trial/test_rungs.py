"""Rungs: who goes on, and what a record restores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune.trial import Observation, Status, Trial
from partune.trial.rungs import ETA, Rungs, rung_steps


@given(scores=st.lists(st.integers(0, 6).map(float), min_size=1, max_size=30))
def test_the_best_quarter_goes_on_the_first_of_equals_before_the_others(scores: list[float]) -> None:
    rungs = Rungs()
    for trial, score in enumerate(scores):
        rungs.report(trial, 0, score)
    ranked = sorted(range(len(scores)), key=lambda trial: (-scores[trial], trial))
    going = [trial for trial in range(len(scores)) if not rungs.stops(trial, 0)]
    assert going == sorted(ranked[: max(1, len(scores) // ETA)])


def test_a_rung_is_compared_with_itself_only() -> None:
    rungs = Rungs()
    for trial in range(6):
        rungs.report(trial, 0, 0.9)
    judge = rungs.judge(7)
    judge.report(1, 0.1)
    assert not judge.stops(1)  # the first there
    judge.report(0, 0.1)
    assert judge.stops(0)


def test_a_trial_below_the_median_of_those_done_is_stopped() -> None:
    rungs = Rungs()
    for trial, score in enumerate([0.9, 0.8, 0.7, *[0.1] * 9]):
        rungs.report(trial, 0, score)
    assert not rungs.stops(2, 0)  # the third of twelve
    for trial in range(3):
        rungs.end(Trial(trial, {}).finished(Observation({"score": 1.0}), told=trial))
        rungs.end(Trial(5, {}).finished(Observation({"score": 0.1}, status=Status.STOPPED), told=9))
        assert rungs.stops(2, 0) == (trial == 2)  # once three are done, and stopped ones are not
    assert not rungs.stops(1, 0)


def test_the_order_of_reports_does_not_matter() -> None:
    first, second = Rungs(), Rungs()
    scores = dict(enumerate([0.3, 0.1, 0.7, 0.4, 0.2]))
    for trial in scores:
        first.report(trial, 0, scores[trial])
    for trial in reversed(scores):
        second.report(trial, 0, scores[trial])
    assert [first.stops(trial, 0) for trial in scores] == [second.stops(trial, 0) for trial in scores]


def test_a_record_restores_the_rungs() -> None:
    def trial(number: int, scores: dict[str, float], status: Status) -> Trial:
        return Trial(number, {}).finished(Observation(scores, status=status), told=number)

    done = {"score": 0.8, "rung/0": 0.5, "rung/1": 0.6}
    trials = [trial(0, done, Status.DONE), trial(1, {"score": 0.3, "rung/0": 0.3}, Status.STOPPED)]
    rungs = Rungs()
    rungs.restore([*trials, Trial(2, {})])
    judge = rungs.judge(2)
    judge.report(0, 0.4)
    assert judge.stops(0)
    judge.report(1, 0.7)
    assert not judge.stops(1)
    assert rungs.stops(0, 1)


@pytest.mark.parametrize(
    ("steps", "expected"), [(1600, (100, 400)), (100, (6, 25)), (9, (1, 2)), (8, ()), (4, ()), (1, ())]
)
def test_rungs_stand_at_shares_of_the_trials_own_steps(steps: int, expected: tuple[int, ...]) -> None:
    assert rung_steps(steps) == expected
