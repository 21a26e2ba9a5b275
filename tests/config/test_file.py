"""One definition for file, flags and Python: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from partune import config
from partune.demo import DIRECTORY
from partune.errors import UserError
from partune.space import Space
from tests.support import ROOT

MINIMAL: dict[str, Any] = {"model": "m", "data": "d.json", "validation": {"tasks": ["hellaswag"]}}
SHIPPED = sorted(Path(config.__file__).parent.rglob("study.yaml")) + sorted((ROOT / "examples").rglob("study.yaml"))

DESIGN = """\
version: 1
model: meta-llama/Llama-3.2-1B
data: {path: alpaca_data.json, format: alpaca, loss_on: answer, max_length: 512}
training: {epochs: 1, batch_size: 16, warmup_steps: 100, schedule: cosine, targets: attention, dtype: bf16}
validation: {tasks: [hellaswag], metric: acc_norm, verdict_share: 0.5}
test: {tasks: [mmlu]}
space:
  learning_rate: {float: [1e-6, 1e-2], log: true}
  lora_r: {int: [2, 64], log: true}
  optimizer: {choice: [adamw, sgd]}
  momentum: {float: [0.0, 0.99], when: {optimizer: sgd}}
search: {algorithm: bamsoo, budget: 50, seed: 0}
run: {keep: 1}
"""


def test_the_whole_file_of_the_documentation(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(DESIGN)
    found = config.parse(config.load(path))
    assert found.model is not None
    assert found.model.path == "meta-llama/Llama-3.2-1B"
    assert found.validation is not None
    assert found.validation.tasks == ("hellaswag",)
    assert found.training.warmup_steps == 100
    space = Space.parse(found.space or "")
    assert space.decode((0.5, 0.5, 0.9, 0.5))["momentum"] == 0.495


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_file_loads(path: Path) -> None:
    found = config.parse(config.load(path))
    assert found.model is not None
    assert Path(found.model.path).is_absolute()
    assert Space.parse(found.space or "lora").dimension > 1


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


def test_a_configuration_survives_its_own_file(tmp_path: Path) -> None:
    whole = {**MINIMAL, "training": {"learning_rate": 1e-5}, "run": {"keep": "all"}, "test": {"tasks": ["mmlu"]}}
    first = config.parse(whole)
    (tmp_path / "study.yaml").write_text(config.dump(first))
    assert config.parse(config.load(tmp_path / "study.yaml")) == first


def test_scientific_notation_without_a_dot_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("space: {x: {choice: [1e-4, 2E+3, -1e5, 1e, e5]}}")
    assert config.load(tmp_path / "s.yaml")["space"]["x"]["choice"] == [1e-4, 2e3, -1e5, "1e", "e5"]


def test_a_single_task_needs_no_list() -> None:
    found = config.parse({**MINIMAL, "validation": {"tasks": "hellaswag"}, "test": {"tasks": "mmlu"}})
    assert found.validation is not None
    assert (found.validation.tasks, found.test.tasks) == (("hellaswag",), ("mmlu",))


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "task.yaml").write_text("")
    file = {"model": "base", "data": {"path": "gone.json"}, "validation": {"tasks": ["task.yaml", "hellaswag"]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(file))
    found = config.load(tmp_path / "study.yaml")
    assert found["model"] == str(tmp_path / "base")
    assert found["data"]["path"] == "gone.json"  # not there: left as it is, for the error that names it
    assert found["validation"]["tasks"] == [str(tmp_path / "task.yaml"), "hellaswag"]


def test_a_folder_of_a_tasks_name_does_not_hide_the_task(tmp_path: Path) -> None:
    for name in ("hellaswag", "lora", "base"):
        (tmp_path / name).mkdir()
    (tmp_path / "space.yaml").write_text("")
    template = "{{ messages }}" * 1000
    given = {"validation": {"tasks": ["hellaswag"]}, "space": "lora", "data": {"path": "d", "chat_template": template}}
    assert config.located(given, tmp_path) == given
    assert config.located({"space": "space.yaml", "model": {"path": "base"}}, tmp_path) == {
        "space": str(tmp_path / "space.yaml"),
        "model": {"path": str(tmp_path / "base")},
    }


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
        ({"validation": {"tasks": []}}, "validation.tasks: "),
        ({"validation": None}, "validation is missing: give --task or a section in the file"),
        ({"model": None}, "model is missing: give --model or a section in the file"),
        ({"data": {"format": "chat"}}, "data.path is missing"),
        ({"version": 2}, "version: input should be 1, got 2"),
        ({"run": {"keep": 0}}, "run.keep: must be a number of adapters, at least 1, or all, got 0"),
        (
            {"search": {"seeds": 1}},
            "search.seeds: must be 0 or at least 2, as one run says nothing of other seeds, got 1",
        ),
        (
            {"search": {"seeds": 0, "ship": "best"}},
            "search: ship: best chooses among fresh runs, and seeds: 0 makes none; ship: first hands over what won",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse({**MINIMAL, **change})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is no valid YAML"),
        ("search: {budget: 3}\nsearch: {budget: 5}\n", 'the key "search" is given twice'),
        ("- a\n- b\n", "is a mapping of sections, got list"),
        (None, "cannot read"),
    ],
)
def test_an_unreadable_file_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        config.load(path)
    assert "\n" not in str(caught.value)


def test_the_fields_defaults_are_the_fields() -> None:
    training = config.Training()
    values = (training.lora_r, training.lora_alpha, training.learning_rate, training.lora_dropout)
    assert values == (16, 32, 2e-4, 0.05)
    assert training.weight_decay == 0.01


@pytest.mark.parametrize(("run", "told"), [({"stop": "rungs"}, "run.stop: rungs"), ({"compile": True}, "run.compile")])
@pytest.mark.parametrize("engine", ["peft", "litgpt"])
def test_what_only_packs_can_do_is_refused_elsewhere(run: dict[str, Any], told: str, engine: str) -> None:
    with pytest.raises(UserError, match=f"{told} needs engine: packed, got engine: {engine}"):
        config.parse({"objective": "branin", "run": {"engine": engine, **run}})
    assert config.parse({"objective": "branin", "run": run}).run.engine == "packed"


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


def test_a_mapping_is_laid_over_another_section_by_section() -> None:
    below = {"model": "a", "data": {"path": "d", "loss_on": "all"}, "space": {"x": {"float": [0, 1]}}, "version": 1}
    above = {"model": {"revision": "r"}, "data": "e", "space": {"y": {"int": [1, 2]}}, "run": {"keep": 2}}
    assert config.merged(below, above) == {
        "model": {"path": "a", "revision": "r"},
        "data": {"path": "e", "loss_on": "all"},
        "space": {"y": {"int": [1, 2]}},  # a space is a whole
        "version": 1,
        "run": {"keep": 2},
    }
    assert below["model"] == "a"
