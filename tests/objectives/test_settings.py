"""Sections of a study and values of a trial, as settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from partune import config
from partune.errors import UserError
from partune.objectives.finetune import FineTune
from partune.trial import Trial


def test_sections_are_texts_mappings_or_sections(make: Any, task_file: Path) -> None:
    tuner = make(
        data=config.Data(path="rows.json", max_length=64),
        task=None,
        validation={"tasks": [str(task_file)], "metric": "loss"},
        test=["arc_easy", "mmlu"],
        training=config.Training(lora_r=8),
        seed=5,
    )
    assert (tuner.data.max_length, tuner.validation.metric, tuner.training.lora_r) == (64, "loss", 8)
    assert tuner.config.test.tasks == ("arc_easy", "mmlu")
    assert FineTune.of(tuner.config).config == tuner.config
    assert make(task=["a", "b"], validation={"limit": 9}).validation == config.Validation(tasks=("a", "b"), limit=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None, "validation": {"metric": "acc_norm"}}, "validation.metric: acc_norm needs a task"),
        ({"training": {"learning_rat": 1}}, 'unknown key "training.learning_rat"; did you mean "learning_rate"'),
        ({"training": {"lora_dropout": 1.5}}, "training.lora_dropout: input should be less than 1, got 1.5"),
    ],
)
def test_bad_sections_are_refused_at_construction(make: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_a_configuration_that_is_none_is_the_users_to_mend(tuner: FineTune) -> None:
    with pytest.raises(UserError, match='"lora_rank" is not a training setting; did you mean "lora_r"'):
        tuner.evaluate(Trial(0, {"lora_rank": 4}))
