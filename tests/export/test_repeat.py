"""The file in a model card repeats the study: each setting comes back through the real parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from partune import FineTune, Float, Space, Study, config
from partune.cli import main
from partune.config import RECIPES, unused
from partune.export.repeat import study_file
from partune.optimizers import resolved
from partune.record.record import Record
from partune.report.summary import summarise
from partune.runtime import strict_yaml
from partune.study.from_config import recorded, with_space
from partune.study.opening import header_of
from partune.study.settings import Settings, file_keywords
from tests.support.simulated import SimulatedTuning

SMALLEST: dict[str, Any] = {"model": "acme/base", "data": "acme/rows"}

# A value that is not the default for each setting. A setting that is missing here fails a test below.
CHANGED: dict[str, dict[str, Any]] = {
    "model": {
        "path": "acme/other",
        "revision": "v2",
        "trust_remote_code": True,
        "safetensors": False,
        "quantize": "nf4",
    },
    "data": {
        "path": "a.jsonl,b.jsonl",
        "format": "qa",
        "columns": {"instruction": "question"},
        "config": "en",
        "split": "train[:90%]",
        "loss_on": "all",
        "max_length": 99,
        "limit": 77,
        "chat_template": "chatml",
    },
    "training": {
        "lora_r": 8,
        "lora_alpha": 7.5,
        "lora_dropout": 0.2,
        "learning_rate": 0.003,
        "weight_decay": 0.03,
        "epochs": 2.5,
        "steps": 30,
        "batch_size": 4,
        "micro_batch_size": 2,
        "warmup_steps": 0,
        "schedule": "linear",
        "max_grad_norm": 0.5,
        "optimizer": "sgd",
        "momentum": 0.9,
        "targets": "attention",
        "dtype": "bf16",
        "seed": 0,
    },
    "validation": {
        "tasks": ("arc_easy", "piqa"),
        "split": 0.25,
        "data": "v.jsonl",
        "metric": "exact_match",
        "max_new_tokens": 9,
        "stop": ("\n", "."),
        "temperature": 0.0,
        "verdict_share": 0.7,
        "points": 8,
        "select": "best",
        "limit": 55,
        "fewshot": 0,
        "batch_size": 8,
        "confirm_run_unsafe_code": True,
        "trust_task_code": True,
    },
    "test": {"tasks": ("mmlu",), "every_trial": True, "limit": 5},
    "search": {
        "algorithm": "bo",
        "budget": 12,
        "seed": 3,
        "options": {"initial": 4},
        "confirm": 4,
        "seeds": 6,
        "ship": "median",
    },
    "run": {"engine": "peft", "pack": 4, "stop": "rungs", "compile": True, "keep": "all"},
}
TOP: dict[str, Any] = {
    "space": {"learning_rate": {"float": [1e-5, 1e-2], "log": True}, "lora_dropout": {"float": [0.0, 0.3]}},
    "baseline": ["unsloth", {"name": "ours", "training": {"lora_r": 4, "schedule": "constant"}}],
}
# Where a study runs, which the card leaves out: it names machines, paths and addresses.
PLACES = (*config.Where.model_fields, "litgpt", "device", "threads", "storage")

NOT_REPEATED = {"run": PLACES, "search": ("hours", "device_hours")}  # the number of trials is repeated, not the hours


def test_each_setting_of_a_study_is_tried() -> None:
    for name, changes in CHANGED.items():
        section = config.section_in(config.StudyConfig.model_fields[name].annotation)
        assert section is not None
        assert {*changes, *NOT_REPEATED.get(name, ())} == {*section.model_fields}
        given = config.parse({**SMALLEST, name: {**({"path": "x"} if name in SMALLEST else {}), **changes}})
        for key in changes:
            default = section.model_fields[key].get_default()
            assert getattr(getattr(given, name), key) != default, key
    assert {*CHANGED, *TOP, "version", "objective"} == {*config.StudyConfig.model_fields}


def begun(folder: Path, study: config.StudyConfig, file: bool = True) -> Record:
    """The record of a study as it stands when the study begins."""
    study = with_space(study)
    space = Space.parse(study.space or {})
    settings = Settings.of(**file_keywords(study))
    header = header_of(study.search.algorithm, study.search.seed, FineTune.of(study), settings)
    record = Record.create(folder / "s", space, header, config.dump(study) if file else None)
    record.plan(study.search.budget)
    return record


def repeated(record: Record) -> config.StudyConfig:
    """The study in the file for a record, read as `partune tune` reads it."""
    path = record.directory.parent / "study.yaml" if record.directory is not None else Path()
    path.write_text(strict_yaml.dump(study_file(record, summarise(record))))
    return config.parse(config.load(path))


def assert_same(repeat: config.StudyConfig, study: config.StudyConfig) -> None:
    """Compare all settings of two studies but those that say where they run."""
    first, second = (each.model_dump(exclude={"run": {*PLACES}}) for each in (repeat, study))
    second["search"]["algorithm"] = resolved(study.search.algorithm)  # auto may be another one in a later version
    for name, section in second.items():
        assert first[name] == section, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "key"),
    [*((section, key) for section, changes in CHANGED.items() for key in changes), *(("", key) for key in TOP)],
)
def test_a_changed_setting_is_in_the_file(tmp_path: Path, section: str, key: str) -> None:
    changes = {key: TOP[key]} if not section else {section: {key: CHANGED[section][key]}}
    study = config.parse(config.merged(SMALLEST, changes))
    record = begun(tmp_path, study)
    assert_same(repeated(record), recorded(tmp_path / "s", "", None))
    record.close()


def test_all_settings_together_are_in_the_file(tmp_path: Path) -> None:
    fixed = {name: value for name, value in CHANGED["training"].items() if name not in TOP["space"]}
    study = config.parse({**CHANGED, **TOP, "training": fixed})
    record = begun(tmp_path, study)
    repeat = repeated(record)
    assert_same(repeat, recorded(tmp_path / "s", "", None))
    assert repeat.training.learning_rate == config.Training().learning_rate  # searched, so not fixed
    assert [recipe.training for recipe in repeat.baseline] == [
        config.Training(**RECIPES["unsloth"].training),
        config.Training(lora_r=4, schedule="constant"),
    ]
    record.close()


def test_the_file_may_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = {"search": {"seeds": 6, "ship": "best", "confirm": 3}, "run": {"stop": "rungs", "pack": 8, "keep": 3}}
    study = config.parse({**SMALLEST, **few, "training": {"steps": 5}})
    record = begun(tmp_path, study)
    repeat = repeated(record)
    unused.refuse(repeat, repeat.space or ())  # nothing in it is without effect
    assert main(["tune", "study.yaml", "--print-config"]) == 0
    assert config.parse(strict_yaml.parse(capsys.readouterr().out.encode(), Path("printed"))) == repeat
    record.close()


def test_places_and_passwords_are_not_in_it(tmp_path: Path) -> None:
    run = {"storage": "postgresql://ada:secret@db/x", "device": "cuda:1", "workers": 4, "litgpt": "/home/ada/litgpt"}
    record = begun(tmp_path, config.parse({**SMALLEST, "run": {**run, "engine": "litgpt", "time_limit": 9}}))
    assert study_file(record, summarise(record))["run"] == {"engine": "litgpt"}
    record.close()


@dataclass
class Tuning(SimulatedTuning):
    """A simulated fine-tuning with the sections of a real one."""

    sections: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        study = config.parse({**SMALLEST, **self.sections})
        return study.model_dump(mode="json", include={"model", "data", "training", "validation", "test"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        {},
        {"confirm": 3, "seeds": 2, "ship": "best"},
        {"seeds": 5, "ship": "median"},
        {"seeds": 0},
    ],
    ids=str,
)
def test_a_study_from_python_is_repeated_as_its_record_shows(tmp_path: Path, end: dict[str, Any]) -> None:
    space = Space(learning_rate=Float(1e-6, 1e-3, log=True))
    study = Study(space, Tuning(), "lhs", 2, directory=tmp_path / "s", options={"size": 4}, **end).run(4)
    repeat = repeated(study.record)
    assert repeat.search == config.Search(algorithm="lhs", budget=4, seed=2, options={"size": 4}, **end)
    study.close()


def test_a_damaged_file_of_the_study_is_passed_over(tmp_path: Path) -> None:
    record = begun(tmp_path, config.parse({**SMALLEST, "search": {"seeds": 6}, "training": {"steps": 5}}))
    assert repeated(record).search.seeds == 6
    (tmp_path / "s" / "study.yaml").write_text("search: [")
    assert repeated(record).search.seeds == config.Search().seeds
    assert repeated(record).training.steps == 5
    record.close()
