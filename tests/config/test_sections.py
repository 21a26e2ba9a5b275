"""The sections of a study's file: their defaults, and which values they refuse, in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from partune import config
from partune.demo import DIRECTORY, ROWS
from partune.errors import UserError

MINIMAL: dict[str, Any] = {"model": "m", "data": "d.json", "validation": {"tasks": ["hellaswag"]}}


def test_the_name_demo_is_the_embedded_model_unless_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"model": "demo"}))
    found = config.parse(config.load(path)).model
    assert found is not None
    assert found.path == str(DIRECTORY / "model")
    (tmp_path / "demo").mkdir()
    for mapping, expected in ((config.load(path), str(tmp_path / "demo")), (MINIMAL | {"model": "demo"}, "demo")):
        found = config.parse(mapping).model
        assert found is not None
        assert found.path == expected


def test_a_name_that_begins_with_demo_is_a_file_of_the_demo_unless_a_path_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file in ROWS.items():
        found = config.parse({**MINIMAL, "data": name, "validation": {"data": name}})
        assert found.data is not None
        assert found.validation is not None
        assert found.data.path == found.validation.data == str(DIRECTORY / file)
    both = config.Data(path="demo:labels, more.csv").paths
    assert both == (str(DIRECTORY / ROWS["demo:labels"]), "more.csv")
    for name in ROWS:
        (tmp_path / name).write_text("")
        assert config.Data(path=name).path == name


@pytest.mark.parametrize("name", ["demo:label", "demo:", "demo:Labels", "demo:labels.csv", "demo:labels,demo:x"])
@pytest.mark.parametrize("section", ["data", "validation"])
def test_rows_that_the_demo_has_not_are_refused_with_the_names_that_it_has(section: str, name: str) -> None:
    with pytest.raises(UserError, match=r"the demo has the rows demo, demo:labels, .*, and not demo:"):
        config.parse({**MINIMAL, section: {"path": name} if section == "data" else {"data": name}})


def test_a_single_task_needs_no_list() -> None:
    found = config.parse({**MINIMAL, "validation": {"tasks": "hellaswag"}, "test": {"tasks": "mmlu"}})
    assert found.validation is not None
    assert (found.validation.tasks, found.test.tasks) == (("hellaswag",), ("mmlu",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainig": {}}, 'unknown key "trainig"; did you mean "training"?'),
        ({"training": {"learning_rat": 1}}, 'unknown key "training.learning_rat"; did you mean "learning_rate"?'),
        ({"data": {"path": "d", "max_lenght": 5}}, 'unknown key "data.max_lenght"; did you mean "max_length"?'),
        ({"search": {"budget": 0}}, "search.budget: input should be greater than 0, got 0"),
        ({"search": {"budget": "many"}}, "search.budget: input should be a valid integer"),
        ({"training": {"lora_dropout": 1.0}}, "training.lora_dropout: input should be less than 1, got 1.0"),
        ({"data": {"path": "d", "loss_on": "prompt"}}, "data.loss_on: input should be 'answer' or 'all', got 'prompt'"),
        (
            {"validation": {"metric": "acc_norm"}},
            "validation.metric: acc_norm needs a task (--task); without one, use loss, exact_match,",
        ),
        ({"validation": {"split": 1.0}}, "validation.split: input should be less than 1, got 1.0"),
        ({"model": None}, "model is missing: give --model or a section in the file"),
        ({"data": {"format": "chat"}}, "data.path is missing"),
        ({"version": 2}, "version: input should be 1, got 2"),
        ({"run": {"keep": 0}}, "run.keep: must be a number of adapters, at least 1, or all, got 0"),
        (
            {"search": {"seeds": 1}},
            "search.seeds: must be 0 or at least 2: one run says nothing about other seeds, got 1",
        ),
        (
            {"search": {"seeds": 0, "ship": "best"}},
            "search.ship best chooses among fresh runs, but search.seeds 0 makes none: use 2 seeds or more, or ship "
            "the first run",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse({**MINIMAL, **change})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_fields_defaults_are_the_fields() -> None:
    recipe = config.RECIPES[config.USUAL].training
    assert {name: getattr(config.Training(), name) for name in recipe} == recipe


@pytest.mark.parametrize("pack", ["many", 0, -1, True, "2.5"])
def test_a_pack_is_a_number_of_trials_or_auto(pack: Any) -> None:
    with pytest.raises(UserError, match=r"run\.pack: must be a number of trials, or auto, got") as caught:
        config.parse({"objective": "branin", "run": {"pack": pack}})
    assert "\n" not in str(caught.value)
    assert [config.parse({"objective": "branin", "run": {"pack": each}}).run.pack for each in ("auto", "8", 3)] == [
        "auto",
        8,
        3,
    ]


def sections() -> dict[str, type[config.Section]]:
    whole = {"study": config.StudyConfig, "batch": config.Batch}
    held = ((name, config.section_in(field.annotation)) for name, field in config.StudyConfig.model_fields.items())
    return {**whole, **{name: section for name, section in held if section is not None}}


@pytest.mark.parametrize("name", sections())
def test_every_field_says_in_a_sentence_what_it_is(name: str) -> None:
    """They are the help of its flag and its line in the reference; a section has its own docstring there."""
    for key, field in sections()[name].model_fields.items():
        if config.section_in(field.annotation) is None:
            text = field.description or ""
            assert text.endswith("."), (name, key, text)
            assert text[0].isupper(), (name, key, text)
