"""Settings that are given and searched are fixed; those without effect are refused, or said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from partune import SPACES, FineTune, Float, Int, Space, Study, UserError, config
from partune.cli import main
from partune.cli.progress import PHASES, Quiet
from partune.config import unused
from partune.config.unused import Loaded
from partune.record.record import Record
from partune.report import sentences, verdict_words
from partune.report.facts import Facts
from partune.study import Watcher
from partune.study import from_config as configured
from partune.trial import Config, Value
from tests.support.simulated import SimulatedTuning

STUDY: dict[str, Any] = {"model": "m", "data": "d.json", "validation": {"tasks": ["t"]}}
CONDITIONAL = """\
learning_rate: {float: [1.0e-6, 1.0e-2], log: true}
optimizer: {choice: [adamw, sgd]}
momentum: {float: [0.0, 0.99], when: {optimizer: sgd}}
"""


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The study's file that arguments make, read back."""
    assert main([*arguments, "--print-config"]) == 0
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


# ----- given and searched


def test_a_flag_for_a_searched_hyperparameter_fixes_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "demo", "--lora-r", "8", "--learning-rate", "0.002")
    assert list(found["space"]) == ["lora_alpha", "lora_dropout", "weight_decay"]
    assert (found["training"]["lora_r"], found["training"]["learning_rate"]) == (8, 0.002)
    assert list(printed(capsys, "demo")["space"]) == list(SPACES["lora"].names)


def test_a_key_of_the_file_fixes_it_too_and_what_is_printed_is_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space = yaml.safe_load(CONDITIONAL)
    given = {**STUDY, "training": {"optimizer": "sgd"}, "space": {**space, "max_length": {"int": [64, 256]}}}
    Path("study.yaml").write_text(yaml.safe_dump(given))
    found = printed(capsys, "tune", "study.yaml", "--max-length", "128")
    assert found["space"] == {"learning_rate": space["learning_rate"], "momentum": {"float": [0.0, 0.99]}}
    Path("again.yaml").write_text(yaml.safe_dump(found))
    assert printed(capsys, "tune", "again.yaml") == found


def test_a_presets_setting_that_another_engine_has_no_use_for_is_nobodys(capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("peft", "litgpt"):
        assert printed(capsys, "demo", "--engine", engine)["run"]["pack"] == "auto"
    assert printed(capsys, "demo", "--engine", "packed")["run"]["pack"] == 4


def test_a_presets_setting_does_not_fix_what_a_user_searches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody gave it; the same by a flag is given."""
    path = tmp_path / "space.yaml"
    path.write_text("{batch_size: {int: [4, 16]}, warmup_steps: {int: [0, 9]}, learning_rate: {float: [0.1, 0.2]}}")
    assert len(printed(capsys, "demo", "--space", str(path))["space"]) == 3
    found = printed(capsys, "demo", "--space", str(path), "--batch-size", "8")
    assert list(found["space"]) == ["warmup_steps", "learning_rate"]
    assert main(["experiment", "report", "--space", str(path), "--print-config"]) == 0
    assert "batch_size" not in yaml.safe_load(capsys.readouterr().out)["training"]


def test_what_depends_on_a_fixed_value_stays_or_goes() -> None:
    space = Space.parse(yaml.safe_load(CONDITIONAL))
    assert space.fixing({"optimizer": "adamw"}).names == ("learning_rate",)
    assert space.fixing({"optimizer": "sgd"}).describe()["momentum"] == {"float": [0.0, 0.99]}
    assert space.fixing({"momentum": 0.5}).names == ("learning_rate", "optimizer")
    assert space.fixing({"learning_rate": 3.0}).describe()["momentum"]["when"] == {"optimizer": ["sgd"]}
    with pytest.raises(UserError, match="nothing is left to search: the settings fix learning_rate, optimizer"):
        space.fixing({"learning_rate": 1.0, "optimizer": "adamw"})


class Given(SimulatedTuning):
    """One whose settings fix the rank."""

    given = True

    def fixed(self, searched: Space) -> dict[str, Value]:
        return {"lora_r": 2} if self.given and "lora_r" in searched.names else {}

    @property
    def defaults(self) -> Config:
        return {"learning_rate": 2e-4, "lora_r": 2}


SPACE = Space(learning_rate=Float(1e-6, 3e-3, log=True), lora_r=Int(2, 64, log=True))


def test_python_warns_of_it_and_a_resumed_study_is_the_same(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^Not searched, because they are set: lora_r=2\.$"):
        study = Study(SPACE, Given(), "random", directory=tmp_path / "s").run(3)
    assert [set(trial.config) for trial in study.trials] == [{"learning_rate"}] * 3
    study.close()
    with pytest.warns(UserWarning, match="lora_r=2"):
        again = Study(SPACE, Given(), "random", directory=tmp_path / "s", resume=True).run(4)
    again.close()
    study = Study(study.space, Given(), "random", directory=tmp_path / "s", resume=True)  # no warning: nothing to fix
    assert len(study.run(5).trials) == 5


def test_a_study_on_record_keeps_the_space_that_it_was_begun_with(tmp_path: Path) -> None:
    free = Given()
    free.given = False
    Study(SPACE, free, "random", directory=tmp_path / "s").run(2).close()
    assert Study(SPACE, Given(), "random", directory=tmp_path / "s", resume=True).space == SPACE


def test_fine_tuning_tells_which_settings_it_was_given() -> None:
    tuned = FineTune("m", "d.json", "t", training={"lora_r": 2, "steps": 5}, run={"device": "cpu"})
    assert tuned.fixed(SPACES["lora"]) == {"lora_r": 2}
    tuned.declare(SPACES["lora"].fixing({"lora_r": 2}))
    assert config.baseline(tuned.defaults) == "the field's defaults with lora_r=2 as given"
    assert tuned.zero == {**tuned.defaults, "learning_rate": 0.0}
    whole = config.parse({**STUDY, "training": {"lora_r": 2}})
    assert configured.fixed(whole) == {"lora_r": 2}
    kept = config.parse(yaml.safe_load(config.dump(configured.with_space(whole))))
    assert configured.fixed(kept) == {}
    assert configured.with_space(kept, resume=True).space == configured.with_space(whole).space


def test_the_defaults_are_called_what_they_are(tmp_path: Path) -> None:
    assert config.baseline({"lora_r": 16, "learning_rate": 2e-4}) == "the field's defaults"
    assert PHASES["defaults"].endswith(config.baseline({}))
    Study(SPACE, Given(), "random", directory=tmp_path / "s", watcher=Quiet()).run(3).close()
    facts = Facts(Record.open(tmp_path / "s", read_only=True))
    called = "the field's defaults with lora_r=2 as given"
    assert facts.summary["defaults"]["called"] == called
    assert verdict_words.better_defaults(facts.summary).startswith("The field's defaults with lora_r=2 as given ")
    assert called in sentences.headline(facts) or not facts.summary["verdict"]["better_than"]


# ----- without effect

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"training": {"momentum": 0.9}}, "training.momentum would have no effect: only sgd has a momentum, and"),
    (
        {"space": {"momentum": {"float": [0, 0.9]}}},
        "momentum in the space would have no effect: only sgd has a momentum",
    ),
    ({"training": {"steps": 5}, "space": {"epochs": {"int": [1, 3]}}}, "epochs in the space would have no effect"),
    (
        {"training": {"micro_batch_size": 32}},
        "training.micro_batch_size 32 would have no effect: training.batch_size is",
    ),
    ({"test": {"limit": 5}}, "test.limit would have no effect: there are no test tasks (--test-task)"),
    ({"test": {"every_trial": True}}, "test.every_trial would have no effect"),
    ({"run": {"engine": "peft", "pack": 4}}, "run.pack would have no effect: engine peft runs one trial at a time"),
    *(
        (
            {"run": {"engine": engine, **run}},
            f"run.{name} would have no effect: it needs run.engine packed, got {engine}",
        )
        for engine in ("peft", "litgpt")
        for name, run in (("stop", {"stop": "rungs"}), ("compile", {"compile": True}))
    ),
    ({"run": {"litgpt": "/opt/litgpt"}}, "run.litgpt would have no effect: run.engine is packed"),
    ({"validation": {"tasks": ["t"], "batch_size": 8}}, "validation.batch_size would have no effect: engine packed"),
    ({"baseline": [{"name": "a", "training": {"momentum": 0.9}}]}, "momentum of the baseline a would have no effect"),
    (
        {"training": {"steps": 9}, "baseline": [{"name": "a", "training": {"epochs": 2}}]},
        "epochs of the baseline a would have no effect: steps 9 is used instead of epochs",
    ),
    (
        {"baseline": [{"name": "a", "training": {"micro_batch_size": 32}}]},
        "micro_batch_size of the baseline a would have no effect: its batch_size is 16",
    ),
    ({"model": {"path": ".", "revision": "main"}}, "model.revision would have no effect: . is a folder"),
    ({"data": {"path": __file__, "split": "test"}}, "data.split would have no effect: "),
    ({"validation": {"tasks": ["t"], "split": 0.2}}, "validation.split would have no effect: a task scores the trials"),
    ({"validation": {"tasks": ["t"], "data": "v.json"}}, "validation.data would have no effect: a task scores"),
    (
        {"validation": {"data": "v.json", "split": 0.2}},
        "validation.split would have no effect: the validation rows are",
    ),
    ({"validation": {"fewshot": 2}}, "validation.fewshot would have no effect: there is no task (--task)"),
    ({"validation": {"trust_task_code": True}}, "validation.trust_task_code would have no effect: there are no tasks"),
    ({"data": {"path": f"{__file__},{__file__}", "config": "en"}}, "data.config would have no effect: "),
    ({"run": {"tls": "folder"}}, "run.tls would have no effect: it is for a running Dask scheduler"),
]


@pytest.mark.parametrize(("change", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_a_setting_without_effect_is_refused(change: dict[str, Any], told: str) -> None:
    study = configured.with_space(config.parse({**STUDY, **change}))
    with pytest.raises(UserError) as caught:
        unused.refuse(study, study.space or ())
    assert str(caught.value).startswith(told)
    assert str(caught.value).endswith("; leave it out")


HEEDED: list[dict[str, Any]] = [
    {},
    {"training": {"momentum": 0.9, "optimizer": "sgd"}},
    {"training": {"momentum": 0.9}, "space": {"optimizer": {"choice": ["adamw", "sgd"]}}},
    {"training": {"micro_batch_size": 32}, "space": {"batch_size": {"int": [8, 64]}}},
    {"run": {"engine": "litgpt", "litgpt": "/opt/litgpt", "pack": 1}, "validation": {"tasks": ["t"], "batch_size": 8}},
    {"run": {"engine": "peft"}, "validation": {"tasks": ["t"], "batch_size": 8}},
    {"run": {"tls": "folder", "scheduler": "tls://host:8786"}},
    {"validation": {"split": 0.2, "limit": 50, "verdict_share": 0.6, "metric": "loss"}},
    {"validation": {"data": "v.json", "trust_task_code": True}, "test": {"tasks": ["u"]}},
    {"test": {"tasks": ["u"], "limit": 5, "every_trial": True}},
    {"model": {"path": "acme/base", "revision": "main"}, "data": {"path": "acme/rows", "split": "test"}},
]


@pytest.mark.parametrize("change", HEEDED, ids=str)
def test_a_setting_with_an_effect_is_not(change: dict[str, Any]) -> None:
    study = configured.with_space(config.parse({**STUDY, **change}))
    unused.refuse(study, study.space or ())


@pytest.mark.parametrize(
    "flags",
    [
        ("--lora-r", "8"),
        ("--model", "m"),
        ("--test-limit", "3"),
        ("--device", "cuda"),
        ("--keep", "3"),
        ("--threads", "2"),
        ("--seeds", "3"),
        ("--ship", "best"),
        ("--compile",),
    ],
    ids=lambda flags: flags[0],
)
def test_a_function_has_no_use_for_a_models_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--objective", "branin", *flags]) == 2
    told = capsys.readouterr().err
    assert "would have no effect: objective branin trains no model" in told
    assert told.endswith("; leave it out\n")
    assert not (tmp_path / "runs").exists()


def test_what_has_another_effect_than_expected_is_said() -> None:
    study = config.parse(
        {
            **STUDY,
            "data": {"path": "d.json", "chat_template": "{{ x }}"},
            "training": {"steps": 5, "epochs": 3, "warmup_steps": 9},
            "run": {"threads": 2, "devices_per_worker": 2},
        }
    )
    said = unused.notes(study, (), Loaded(steps=5, warmup=9, rows="alpaca", on_cpu=False))
    assert said == [
        "training.steps 5 is used instead of training.epochs 3.",
        "training.warmup_steps 9: all 5 steps are warm-up, so the learning rate never falls.",
        "run.threads 2 has no effect: the base model is not on the CPU.",
        "data.chat_template has no effect: the rows are alpaca rows.",
    ]
    on_cpu = unused.notes(study, ("warmup_steps", "steps"), Loaded(5, 9, "chat", on_cpu=True))
    assert on_cpu == ["run.devices_per_worker 2 has no effect: the base model is on the CPU."]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--epochs", "3"), "--epochs 3 would have no effect, because the calibration finds"),
        (
            ("--steps", "9", "--most-epochs", "4"),
            "--most-epochs would have no effect, because there is no calibration",
        ),
        (("--calibration", "0", "--sufficient", "0.8"), "--sufficient would have no effect"),
    ],
)
def test_an_experiment_refuses_what_its_calibration_makes_idle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], told: str
) -> None:
    assert main(["experiment", "report", "--out", str(tmp_path / "e"), *flags]) == 2
    assert told in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_study_that_goes_on_takes_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--lora-r", "--learning-rate=0.1", "--task"):
        assert main(["resume", "runs/x", flag, "2"]) == 2
        name = flag.partition("=")[0]
        told = f"unknown argument {flag}: a study continues with the settings that it began with\n"
        assert capsys.readouterr().err.endswith(told), name
    assert main(["resume", "runs/x", "--budgett", "2"]) == 2
    assert 'did you mean "--budget"?' in capsys.readouterr().err


def test_watchers_of_ones_own_need_not_know_of_notes() -> None:
    with pytest.warns(UserWarning, match="so"):
        Watcher().noted("so")
