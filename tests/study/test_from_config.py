"""A study from its file, and from the file on record, which keeps the defaults that the study began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from partune import config
from partune.record.record import Record
from partune.space import Choice, Float, Space
from partune.study import from_config

RATE = Float(1e-5, 1e-2, log=True)


def begun(directory: Path, space: Space, training: dict[str, Any]) -> Path:
    """A record as a partune whose default targets were attention wrote it."""
    study = config.parse({"model": "m", "data": "d.jsonl", "training": training, "space": space.describe()})
    old = {**study.model_dump(mode="json"), "training": {**study.training.model_dump(), "targets": "attention"}}
    text = config.dump(study).replace("targets: all-linear", "targets: attention")
    Record.create(directory, space, {"algorithm": "random", "options": {}, "seed": 0, "objective": old}, text).close()
    return directory


@pytest.mark.parametrize(
    ("space", "training"),
    [
        (Space(learning_rate=RATE), {}),
        (Space(learning_rate=RATE), {"targets": "attention"}),
        (Space(learning_rate=RATE, targets=Choice(["attention", "all-linear"])), {}),
    ],
)
def test_a_record_keeps_the_targets_that_were_the_default_when_it_began(
    tmp_path: Path, space: Space, training: dict[str, Any]
) -> None:
    directory = begun(tmp_path / "s", space, training)
    found = from_config.recorded(directory, "continue it there", None)
    assert found.training.targets == "attention"
    assert from_config.with_space(found, resume=True).space == space.describe()


def test_new_studies_adapt_all_linear_layers() -> None:
    assert config.parse({"model": "m", "data": "d.jsonl"}).training.targets == "all-linear"


@pytest.mark.parametrize(
    ("search", "trials"),
    [
        ({}, 50),
        ({"budget": 9}, 9),
        ({"hours": 2.0}, None),
        ({"device_hours": 3.0}, None),
        ({"hours": 2, "budget": 9}, 9),
    ],
)
def test_trials_limit_a_study_unless_only_hours_are_set(search: dict[str, Any], trials: int | None) -> None:
    budget = from_config.budget(config.parse({"model": "m", "data": "d.jsonl", "search": search}))
    assert (budget.trials, budget.hours, budget.device_hours) == (
        trials,
        search.get("hours"),
        search.get("device_hours"),
    )


def test_hours_replace_the_budget_of_a_preset() -> None:
    preset = {"search": {"algorithm": "bo", "budget": 30}}
    assert from_config.beneath(preset, {"search": {"hours": 1.0}}) == {"search": {"algorithm": "bo"}}
    assert from_config.beneath(preset, {"search": {"seed": 1}}) == preset
