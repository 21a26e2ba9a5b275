"""Plans of studies: the sum of their parts, and how scores varied in a study on record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from partune import config
from partune.config import Search
from partune.errors import UserError
from partune.objectives.pace import Pace, Speed
from partune.study import Study
from partune.study.loop import UNLIMITED
from partune.study.plan import Hours, Work, plan, recorded_variation, within_hours
from partune.trial.names import ItemSet
from tests.verdict.test_fresh_runs import SPACE, Seeded

WORK = Work(
    rows=120,
    examples=100,
    tokens=1000,
    trained=500,
    steps=10,
    batch=10,
    items={ItemSet.SEARCH: 20, ItemSet.VERDICT: 30, ItemSet.TEST: 50},
    baselines=("defaults", "peft"),
    slots=4,
    workers=1,
    budget=10,
)
PACE = Pace(Speed(1, 1.0, 0.1), Speed(4, 2.0, 0.2), 0.0, {})  # two of a pack take 4/3 s for a step and .1333 s an item


def test_the_parts_of_a_study_add_up() -> None:
    found = Hours.of(WORK, PACE, Search(budget=10, confirm=4, seeds=2))
    assert found.alone == pytest.approx(10 * 1 + 20 * 0.1)
    assert found.trial == pytest.approx((10 * 2 + 20 * 0.2) / 4)
    # base model on all items; 3 steps and search items; two baselines with 10 steps and all items
    assert found.baselines == pytest.approx(100 * 0.1 + 3 + 20 * 0.1 + 2 * (10 + 100 * 0.1))
    # two full packs, and one of two trials
    assert found.search == pytest.approx(2 * (20 + 20 * 0.2) + 10 * 4 / 3 + 20 * 0.4 / 3)
    # four trials, then the better two
    assert found.confirm == pytest.approx((20 + 20 * 0.2) + (10 * 4 / 3 + 20 * 0.4 / 3))
    # two fresh runs of winner and two baselines: six trials; then the winner on all items
    assert found.verdict == pytest.approx((20 + 50 * 0.2) + (10 * 4 / 3 + 50 * 0.4 / 3) + 100 * 0.1)
    assert found.total == pytest.approx(found.baselines + found.search + found.confirm + found.verdict)


def test_workers_share_the_search() -> None:
    alone = Hours.of(replace(WORK, budget=80), PACE, Search(budget=80))
    shared = Hours.of(replace(WORK, budget=80, workers=4), PACE, Search(budget=80))
    assert shared.search == pytest.approx(alone.search / 4)
    assert shared.trial == pytest.approx(alone.trial / 4)
    assert shared.baselines == alone.baselines


@pytest.mark.parametrize("limits", [{"hours": 0.2}, {"device_hours": 0.4}, {"hours": 0.2, "device_hours": 9}])
def test_hours_allow_as_many_trials_as_end_in_time(limits: dict[str, float]) -> None:
    study = config.parse({"model": "m", "data": "d", "search": {**limits, "seeds": 2}, "run": {"workers": 2}})
    work = replace(WORK, budget=UNLIMITED, workers=2)
    found = within_hours(work, PACE, study)
    assert Hours.of(found, PACE, study.search).total <= 0.2 * 3600
    assert Hours.of(replace(found, budget=found.budget + 1), PACE, study.search).total > 0.2 * 3600
    assert found.budget > 10
    assert within_hours(replace(work, budget=3), PACE, study).budget == 3


def test_hours_that_do_not_suffice_allow_no_trial() -> None:
    study = config.parse({"model": "m", "data": "d", "search": {"hours": 0.001}})
    assert within_hours(replace(WORK, budget=UNLIMITED), PACE, study).budget == 0
    with pytest.raises(UserError, match="how many trials the hours allow is measured: leave out `--no-probe`, or set"):
        within_hours(replace(WORK, budget=UNLIMITED), None, study)


@pytest.mark.slow
def test_the_variation_of_a_recorded_study_is_used(tmp_path: Path) -> None:
    objective = Seeded(items=200)
    Study(SPACE, objective, "random", directory=tmp_path / "s", seeds=3).run(3).close()
    variation, gains = recorded_variation(tmp_path / "s", {"t": "acc"})
    assert variation.answers
    assert 0 <= variation.base <= variation.alike <= variation.same
    assert set(gains) <= {"acc"}
    with pytest.raises(UserError, match="was not scored by loss"):
        recorded_variation(tmp_path / "s", {"t": "loss"})


@pytest.mark.slow
def test_a_study_without_fresh_runs_says_nothing_of_seeds(tmp_path: Path) -> None:
    Study(SPACE, Seeded(items=50), "random", directory=tmp_path / "s", seeds=0).run(2).close()
    with pytest.raises(UserError, match=r"has no fresh runs.*`partune resume .*s --seeds 4`"):
        recorded_variation(tmp_path / "s", {"t": "acc"})


def test_functions_have_no_plan() -> None:
    study = config.parse({"objective": "branin", "space": {"x": {"float": [0, 1]}}})
    with pytest.raises(UserError, match="objective branin is a function: it has no training to plan and no verdict"):
        plan(study)


@pytest.mark.parametrize("gain", [0.0, -0.1, float("nan"), float("inf")])
def test_a_gain_is_above_zero(gain: float) -> None:
    study = config.parse({"model": "demo", "data": "demo"})
    with pytest.raises(UserError, match="--gain must be above 0"):
        plan(study, gain=gain)
