"""The probe: short trainings through the engine tell how long steps and scoring take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from partune.config import Training
from partune.errors import UserError
from partune.finetune.engines import Assignment, Outcome
from partune.finetune.scoring.scores import Scores
from partune.objectives.finetune import FineTune
from partune.objectives.pace import LONG, SHORT, Pace, Speed, measure, scored_on_rung


@pytest.fixture(scope="module")
def objective() -> Iterator[FineTune]:
    training = Training(batch_size=4, targets="attention")
    with FineTune(
        "demo", "demo:labels", validation={"split": 0.1}, training=training, run={"pack": 2, "device": "cpu"}
    ) as objective:
        objective.check()
        yield objective


@pytest.mark.slow
def test_the_probe_times_steps_and_items_alone_and_together(objective: FineTune, tmp_path: Path) -> None:
    found = measure(objective)
    assert (found.alone.trials, found.together.trials) == (1, 2)
    for speed in (found.alone, found.together):
        assert 0 < speed.step < found.seconds
        assert 0 < speed.item < speed.step
    values = scored_on_rung(found.items, objective.engine.materials.scorer.metrics)["validation rows"]
    assert len(values) >= 64
    assert set(values) <= {0.0, 1.0}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_steps_are_timed_by_the_difference_of_two_trainings(
    objective: FineTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training has 7 s of its own, a step of the pack takes 3 s, and scoring the items of a rung 5 s."""
    seen: list[Assignment] = []

    def evaluate(assignment: Assignment) -> Outcome:
        seen.append(assignment)
        steps = assignment.settings.training.steps
        assert steps is not None
        cost = {"train_seconds": (7 + 3 * steps) / assignment.slots, "score_seconds": 5 / assignment.slots}
        return Outcome(Scores({}, {}), cost)

    monkeypatch.setattr(objective.engine, "evaluate", evaluate)
    found = measure(objective)
    assert found.alone.step == pytest.approx(3)
    assert found.together.step == pytest.approx(3)
    items = sum(len(part.indices) for part in objective.engine.materials.scorer.rungs)
    assert found.together.item == pytest.approx(5 / items)
    assert {assignment.settings.training.steps for assignment in seen} == {SHORT, LONG}
    assert all(assignment.adapter is None and assignment.parts == {"rung"} for assignment in seen)


@pytest.mark.slow
def test_a_training_that_fails_is_one_line(objective: FineTune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective.engine, "evaluate", lambda assignment: Outcome(ValueError("no loss"), {}))
    with pytest.raises(UserError, match="the first training, 2 steps, failed: ValueError: no loss"):
        measure(objective)


def test_speed_between_one_trial_and_a_full_pack_is_interpolated() -> None:
    pace = Pace(Speed(1, 1.0, 0.1), Speed(5, 3.0, 0.3), 0.0, {})
    assert pace.speed(1) == (1.0, 0.1)
    assert pace.speed(3) == pytest.approx((2.0, 0.2))
    assert pace.speed(5) == pytest.approx((3.0, 0.3))
    assert Pace(pace.alone, pace.alone, 0.0, {}).speed(1) == (1.0, 0.1)
