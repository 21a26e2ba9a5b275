"""Recipes that winners are compared with: whole, sourced, by name or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from partune import config
from partune.config import RECIPES, USUAL
from partune.config.recipes import recipe_of
from partune.errors import UserError

STUDY: dict[str, Any] = {"model": "m", "data": "d.json", "validation": {"tasks": ["t"]}}
STUDYS = {"epochs", "steps", "batch_size", "micro_batch_size", "dtype", "seed"}  # what no recipe sets


def named(*baselines: Any) -> tuple[config.NamedBaseline, ...]:
    return config.parse({**STUDY, "baseline": list(baselines)}).baseline


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_whole_and_sourced(name: str) -> None:
    recipe = RECIPES[name]
    (found,) = named(name)
    assert {setting: getattr(found.training, setting) for setting in recipe.training} == recipe.training
    assert set(RECIPES[USUAL].training) <= set(recipe.training)
    assert not STUDYS & set(recipe.training)
    assert "https://" in recipe.source


@pytest.mark.slow
def test_the_values_of_peft_are_those_of_peft() -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    lora, trainer = peft.LoraConfig(), transformers.TrainingArguments
    ours = RECIPES["peft"].training
    assert (ours["lora_r"], ours["lora_alpha"], ours["lora_dropout"]) == (lora.r, lora.lora_alpha, lora.lora_dropout)
    assert ours["learning_rate"] == trainer.learning_rate
    assert (ours["schedule"], ours["weight_decay"]) == (trainer.lr_scheduler_type, trainer.weight_decay)
    assert (ours["warmup_steps"], ours["max_grad_norm"]) == (trainer.warmup_steps, trainer.max_grad_norm)
    by_model = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    assert ours["targets"] == ",".join(by_model["llama"])


def test_what_we_run_today_is_a_baseline(tmp_path: Path) -> None:
    today = tmp_path / "today.yaml"
    for content in ({"lora_r": 8, "epochs": 3}, {"training": {"lora_r": 8, "epochs": 3}}):
        today.write_text(yaml.safe_dump(content))
        (found,) = named(str(today))
        assert (found.name, found.source) == ("today", "the file today.yaml")
        assert found.training.model_dump(exclude_unset=True) == {"lora_r": 8, "epochs": 3}
    today.write_text(yaml.safe_dump({"name": "mine", "source": "our wiki", "training": {"lora_r": 8}}))
    mine, peft = named(str(today), "peft")
    assert (mine.name, mine.source, peft.name) == ("mine", "our wiki", "peft")
    located = config.located({"baseline": ["today.yaml", "peft"]}, tmp_path)
    assert located["baseline"] == [str(today), "peft"]


@pytest.mark.parametrize(
    ("file", "name"), [("my recipe.yaml", "my-recipe"), ("llama3.2.yaml", "llama3-2"), ("_today.yml", "today")]
)
def test_a_files_name_becomes_a_baselines(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).write_text("lora_r: 8\n")
    assert recipe_of(tmp_path / file)["name"] == name


def test_one_baseline_needs_no_list_and_a_record_keeps_the_values() -> None:
    study = config.parse({**STUDY, "baseline": "peft"})
    again = config.parse(yaml.safe_load(config.dump(study)))
    assert again.baseline == study.baseline
    assert again.baseline[0].training.model_fields_set == set(RECIPES["peft"].training)
    assert config.parse({**STUDY, "baseline": None}).baseline == ()


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("peff", 'no recipe "peff"; did you mean "peft"?'),
        ("", 'no recipe ""'),
        ("peft,axolotl", 'no recipe "peft,axolotl"'),
        ("gone.yaml", "cannot read gone.yaml: No such file"),
        (["peft", "peft"], "the baseline peft is given twice"),
        ([{"name": "a", "training": {}}], "the baseline a sets nothing"),
        ([{"name": "a", "training": {"lr": 1}}], 'unknown key "baseline.0.training.lr"'),
        ([{"name": "a", "training": {"lora_r": 0}}], "baseline.0.training.lora_r: input should be greater than 0"),
        ([{"name": "a b", "training": {"lora_r": 8}}], "baseline.0.name: string should match pattern"),
        ([{"name": "winner", "training": {"lora_r": 8}}], "a baseline cannot be called winner"),
        ([{"name": "17", "training": {"lora_r": 8}}], "a baseline cannot be called 17"),
        ([{"name": "a", "training": {"lora_r": 8}, "model": "m"}], 'unknown key "baseline.0.model"'),
        ([{"training": {"lora_r": 8}}], "baseline.0.name is missing"),
        (3, "baseline: input should be a valid tuple, got 3"),
    ],
)
def test_a_bad_baseline_is_one_line(baseline: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse({**STUDY, "baseline": baseline})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "- 1", "just text", "lora_r: [", "lora_r: 8\nlora_r: 9"])
def test_a_bad_file_is_one_line_with_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        named(str(path))
    assert "ours.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
