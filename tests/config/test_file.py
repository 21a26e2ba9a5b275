"""One definition for file, flags and Python: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from partune import config
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


def test_a_configuration_survives_its_own_file(tmp_path: Path) -> None:
    whole = {**MINIMAL, "training": {"learning_rate": 1e-5}, "run": {"keep": "all"}, "test": {"tasks": ["mmlu"]}}
    first = config.parse(whole)
    (tmp_path / "study.yaml").write_text(config.dump(first))
    assert config.parse(config.load(tmp_path / "study.yaml")) == first


def test_scientific_notation_without_a_dot_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("space: {x: {choice: [1e-4, 2E+3, -1e5, 1e, e5]}}")
    assert config.load(tmp_path / "s.yaml")["space"]["x"]["choice"] == [1e-4, 2e3, -1e5, "1e", "e5"]


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "task.yaml").write_text("")
    file = {"model": "base", "data": {"path": "gone.json"}, "validation": {"tasks": ["task.yaml", "hellaswag"]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(file))
    found = config.load(tmp_path / "study.yaml")
    assert found["model"] == str(tmp_path / "base")
    assert found["data"]["path"] == "gone.json"  # not there: left as it is, for the error that names it
    assert found["validation"]["tasks"] == [str(tmp_path / "task.yaml"), "hellaswag"]


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("data", "chat_template"),
        ("validation", "data"),
        ("test", "tasks"),
        ("run", "litgpt"),
        ("run", "cluster"),
        ("run", "tls"),
    ],
)
def test_every_path_of_a_file_is_relative_to_it(tmp_path: Path, section: str, key: str) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "file").write_text("")
    name = "tls" if key == "tls" else "file"
    assert config.located({section: {key: name}}, tmp_path) == {section: {key: str(tmp_path / name)}}


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
    ("content", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("search: {budget: 3}\nsearch: {budget: 5}\n", 'the key "search" appears twice'),
        ("- a\n- b\n", "must be a mapping of sections, got list"),
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


def test_several_data_files_are_located_each(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c,d.csv"):
        (tmp_path / name).write_text("text\n")
    for path, expected in (
        ("a.csv,b.csv", f"{tmp_path}/a.csv,{tmp_path}/b.csv"),
        ("a.csv, gone.csv,", f"{tmp_path}/a.csv,gone.csv,"),
        ("c,d.csv", f"{tmp_path}/c,d.csv"),
        (["a.csv", "b.csv"], [f"{tmp_path}/a.csv", f"{tmp_path}/b.csv"]),
    ):
        assert config.located({"data": {"path": path}}, tmp_path)["data"]["path"] == expected
    whole = config.validated(config.Data, {"path": f"{tmp_path}/c,d.csv"})
    assert whole.paths == (f"{tmp_path}/c,d.csv",)
    assert config.validated(config.Data, {"path": ["a.csv", "b.csv"]}).paths == ("a.csv", "b.csv")


def test_columns_are_a_mapping_or_the_text_of_the_flag() -> None:
    mapping = {"instruction": "my question", "output": "a=b"}
    for value in (mapping, "instruction=my question, output=a=b"):
        assert config.validated(config.Data, {"path": "d.csv", "columns": value}).columns == mapping
    with pytest.raises(UserError, match="a list of files must have paths without commas"):
        config.validated(config.Data, {"path": ["a,b.csv"]})


def test_new_settings_of_the_data_leave_the_identity_of_older_records() -> None:
    """A record without a setting is one with None: only then does the same study continue it."""
    plain = config.Data(path="d.json").model_dump(mode="json")
    assert (plain["columns"], plain["config"]) == (None, None)
