"""The black box as a whole: checks, trials, failures, anchors, and memory."""

from __future__ import annotations

import io
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from partune import config
from partune.errors import UserError
from partune.finetune import adapter as adapters
from partune.finetune import training as trainings
from partune.objectives.finetune import ALL, FineTune
from partune.objectives.settings import FIELD_DEFAULTS
from partune.report.summary import summarise
from partune.report.terminal import brief, show
from partune.space import Choice, Float, Int, Space
from partune.study import Study
from partune.trial import Trial
from tests.support.tiny import make_items, make_rows, write_jsonl, write_task
from tests.support.tuning import SPACE, TRAINING, same


@pytest.mark.slow
def test_a_study_loads_its_winner_from_disk_once_more(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def study(name: str) -> Study:
        return Study(SPACE, make(), "random", directory=tmp_path / name).run(1)

    summary = summarise(study("whole").record)
    assert summary["reloaded"] == {
        "same": True,
        "words": "PEFT loads it from disk, and 8 items get the scores on record",
    }
    assert summary["reloaded"]["words"] in printed(summary)
    save = adapters.write

    def wrong(folder: Path, lora: Any, matrices: Any, base: str | None = None) -> None:
        """As one that writes the scale of another adapter."""
        lora.lora_alpha *= 3
        save(folder, lora, matrices, base)

    monkeypatch.setattr(adapters, "write", wrong)
    summary = summarise(study("broken").record)
    assert not summary["reloaded"]["same"]
    assert "But do not rely on the winner's adapter: when PEFT loads it from disk, it does not get the scores" in brief(
        summary
    )
    assert "do not rely on the winner's adapter" in printed(summary)


def printed(summary: Any) -> str:
    console = Console(file=io.StringIO(), width=300)
    show(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ----- construction and checks


@pytest.mark.slow
def test_nothing_heavy_is_imported_or_loaded_at_construction() -> None:
    code = (
        "import sys; from partune.objectives.finetune import FineTune; import partune.finetune.training; "
        "tuner = FineTune('nobody/nothing', 'none.json', 'no_task'); "
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets', 'lm_eval') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_field_defaults_keep_what_the_user_fixed(make: Any) -> None:
    plain = dict(config.RECIPES[config.USUAL].training)
    tuner = make(training={"lora_alpha": 8, "learning_rate": 1e-3, "steps": 1})
    assert tuner.defaults == plain
    tuner.check(SPACE)
    assert tuner.defaults == plain | {"lora_alpha": 8}
    assert tuple(tuner.defaults) == FIELD_DEFAULTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "space", "message"),
    [
        (
            {},
            Space(learning_rte=Float(0, 1)),
            '"learning_rte", which is not a training setting; did you mean "learning_rate"',
        ),
        ({}, Space(lora_dropout=Float(0, 1)), "training.lora_dropout: input should be less than 1, got 1"),
        ({}, Space(loss_on=Choice(["answer", "both"])), "data.loss_on: input should be 'answer' or 'all', got 'both'"),
        ({}, Space(targets=Choice(["attention", "wq,wk"])), 'no linear layer "wq"'),
        ({"training": {"targets": "q_prj"}}, SPACE, 'no linear layer "q_prj"; did you mean "q_proj"'),
        ({"model": "nobody/nothing"}, SPACE, 'no folder "nobody/nothing"'),
        ({"data": "rows.json"}, SPACE, "no data file rows.json"),
        ({"task": "choices.yaml"}, SPACE, "no task file choices.yaml"),
        ({"run": {"device": "gpu"}}, SPACE, 'no device "gpu"'),
        ({"data": {"max_length": 4}}, SPACE, "no example has a token to train on within max_length 4"),
    ],
)
def test_bad_input_is_one_line_before_any_training(
    make: Any, monkeypatch: pytest.MonkeyPatch, data_file: Path, changes: dict[str, Any], space: Space, message: str
) -> None:
    monkeypatch.setattr(trainings, "run", lambda *_: pytest.fail("trained"))
    if isinstance(changes.get("data"), dict):
        changes = {"data": {"path": str(data_file), **changes["data"]}}
    with pytest.raises(UserError, match=message) as caught:
        make(**changes).check(space)
    assert "\n" not in str(caught.value)


def test_a_task_that_is_test_too_is_refused(make: Any, task_file: Path) -> None:
    with pytest.raises(UserError, match="task choices is both validation and test"):
        make(test=task_file).check(SPACE)


@pytest.mark.slow
def test_test_tasks_can_be_scored_for_every_trial(make: Any, test_file: Path) -> None:
    found = make(test={"tasks": [str(test_file)], "every_trial": True}).evaluate(Trial(0, {}))
    assert "test/others" in found.scores
    assert "verdict" not in found.scores


def test_trials_are_uneven_where_what_they_take_is_searched(make: Any) -> None:
    tuner = make()
    tuner.check(SPACE)
    assert tuner.even
    tuner.check(Space(steps=Int(1, 3)))
    assert not tuner.even


@pytest.mark.slow
def test_trials_leave_the_global_generators_alone(make: Any) -> None:
    tuner = make()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    tuner.check(SPACE)
    tuner.evaluate(Trial(0, {"lora_dropout": 0.3}))
    assert states[0] == random.getstate()
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(states[2], torch.get_rng_state())


@pytest.mark.slow
def test_trials_are_silent(make: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tuner = make()
    tuner.check(SPACE)
    tuner.evaluate(Trial(0, {}), tmp_path / "adapter", ALL)
    tuner.score_adapter(tmp_path / "adapter")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_an_objective_travels_without_its_resident_parts(tuner: FineTune) -> None:
    tuner.prepare()
    packed = pickle.dumps(tuner)
    assert len(packed) < 20_000
    trial = Trial(0, {"learning_rate": 0.05}, seed=1)
    there = pickle.loads(packed)
    assert same(there.evaluate(trial), tuner.evaluate(trial))
    assert pickle.loads(packed) is there  # loaded once, however often it is sent


def test_no_password_goes_to_workers(make: Any) -> None:
    tuner = make(run={"storage": "postgresql://tuner:s3cr3t@127.0.0.1/studies"})
    assert b"s3cr3t" not in pickle.dumps(tuner)


def test_a_summary_counts_what_was_loaded(make: Any, tmp_path: Path) -> None:
    rows = [*make_rows(5), {"instruction": "", "output": ""}, {"instruction": "oil " * 300, "output": "oil"}]
    tuner = make(data=write_jsonl(tmp_path / "rows.jsonl", rows), validation={"verdict_share": 0.2})
    summary = tuner.summary
    counts = {name: summary["data"][name] for name in ("rows", "examples", "empty", "truncated", "untrainable")}
    assert counts == {"rows": 7, "examples": 5, "empty": 1, "truncated": 1, "untrainable": 1}
    context = tuner.engine.materials.base("fp32").positions
    assert (summary["data"]["cut_at"], summary["data"]["max_length"]) == (context, 512) != (512, 512)
    assert "truncated_by_length" not in summary["data"]
    tuner.declare(Space(max_length=Int(110, 1024), learning_rate=Float(1e-4, 1e-2, log=True)))
    lengths = tuner.engine.materials.loaded.examples.lengths
    by_length = {"110": int((lengths > 110).sum()), "1024": 1}
    assert tuner.summary["data"]["truncated_by_length"] == by_length
    assert summary["scoring"]["items"] == {"search/choices": 24, "verdict/choices": 6}
    assert (summary["device"], summary["dtype"]) == ("cpu", "fp32")


def test_a_study_is_resumed_with_its_own_model_and_data_only(folders: dict[str, Path], tmp_path: Path) -> None:
    from partune import Study

    def study(**changes: Any) -> Study:
        sections = {"model": str(folders["llama"]), "data": str(rows), "task": "hellaswag"} | changes
        space = Space(learning_rate=Float(1e-4, 1e-2, log=True))
        return Study(space, FineTune(**sections), "random", directory=tmp_path / "s", resume=True)

    rows = write_jsonl(tmp_path / "rows.jsonl", make_rows(4))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(FineTune, "check", lambda self, space: None)
        patch.setattr(FineTune, "contents", {})
        study().close()
        study(run={"threads": 1}).close()  # where it runs is no part of what it is
        with pytest.raises(UserError, match=r"another study: objective\.model\.path is .*llama there, and .*gpt2 here"):
            study(model=str(folders["gpt2"]))
        with pytest.raises(UserError, match=r"objective\.training\.steps is None there, and 5 here"):
            study(training={"steps": 5})


def test_a_record_from_before_a_setting_of_the_data_is_resumed(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from partune import Study

    def study(**data: Any) -> Study:
        tuner = FineTune(str(folders["llama"]), {"path": str(rows), **data}, "hellaswag")
        space = Space(learning_rate=Float(1e-4, 1e-2, log=True))
        return Study(space, tuner, "random", directory=tmp_path / "s", resume=True)

    rows = write_jsonl(tmp_path / "rows.jsonl", make_rows(4))
    monkeypatch.setattr(FineTune, "check", lambda self, space: None)
    monkeypatch.setattr(FineTune, "contents", {})
    now = FineTune.identity

    def before(tuner: FineTune) -> dict[str, Any]:
        identity = now.fget(tuner)  # type: ignore[attr-defined]
        older = {name: value for name, value in identity["data"].items() if name not in ("columns", "config")}
        return {**identity, "data": older}

    with monkeypatch.context() as patch:
        patch.setattr(FineTune, "identity", property(before))
        study().close()
    study().close()
    with pytest.raises(UserError, match=r"objective\.data\.columns.* is None there, and"):
        study(columns={"output": "answer"})


# ----- tasks that cannot be scored


@pytest.mark.slow
@pytest.mark.parametrize("engine", TRAINING)
def test_an_item_that_a_tasks_code_cannot_score_ends_a_study_before_it_trains(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    path = write_task(tmp_path, "coded", make_items(8), metrics=("acc",))
    path.write_text(path.read_text() + "process_results: !function code.results\n")
    answer = "{'acc': float('nan') if document['answer'] else 1.0}"
    (tmp_path / "code.py").write_text(f"def results(document, answers):\n    return {answer}\n")
    where, name = TRAINING[engine]
    monkeypatch.setattr(where, name, lambda *_, **__: pytest.fail("trained"))
    tuner = make(
        task=path,
        validation={"trust_task_code": True},
        run={"engine": engine, "pack": 2 if engine == "packed" else "auto"},
    )
    study = Study(SPACE, tuner, "random", directory=tmp_path / "study")
    with pytest.raises(UserError, match=r"^task coded, item \d+: its acc is nan, not a number$"):
        study.run(2)
    study.close()


@pytest.mark.slow
def test_a_study_whose_task_has_code_asks_for_the_users_word_when_it_goes_on(make: Any, tmp_path: Path) -> None:
    path = write_task(tmp_path, "coded", make_items(8))
    path.write_text(path.read_text() + "process_docs: !function code.documents\n")
    (tmp_path / "code.py").write_text("def documents(rows):\n    return rows\n")
    trusting = make(task=path, validation={"trust_task_code": True})
    Study(SPACE, trusting, "random", directory=tmp_path / "study").close()
    careful = make(task=path)
    assert careful.identity == trusting.identity  # it is the same study
    with pytest.raises(UserError, match=r"runs code .*documents.*add `--trust-task-code`"):
        Study(SPACE, careful, "random", directory=tmp_path / "study", resume=True)
    Study(SPACE, trusting, "random", directory=tmp_path / "study", resume=True).close()
