"""The embedded demo through the command line, shortened: killed, resumed, exported, scored by the harness itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune.demo import DIRECTORY
from partune.record.record import Record
from tests.support.commands import said
from tests.support.harness import simple_evaluate
from tests.support.waiting import eventually
from tests.whole.test_docs import blocks

pytestmark = pytest.mark.slow

ITEMS = 60  # of each task
SHORT = ["--steps", "12", f"--limit={ITEMS}", f"--test-limit={ITEMS}", "--budget", "4", "--seeds", "2"]
SHORT += ["--algorithm", "lhs", "--seed", "5"]
PACK = ["--pack", "4"]  # that which the first study measures, so that the others need not


def partune(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "partune.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def report(cwd: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(cwd, "report", f"runs/{name}", "--json"))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo run without a break, as runs/whole."""
    cwd = tmp_path_factory.mktemp("demo")
    output = said(cwd, "demo", "--name", "whole", *SHORT)
    assert "Verdict: " in output
    assert "gives the base model's answers, as it must" in output
    assert "30 search/factory_cloze, 30 verdict/factory_cloze" in output
    assert "; score: acc_norm; fp32 on cpu" in output
    return cwd


def test_killed_and_resumed_it_is_the_unbroken_study(folder: Path, thorough: bool) -> None:
    """Killed within the search; `--thorough`: while base or defaults are scored, too."""
    journal = folder / "runs" / "broken" / "journal.log"
    process = partune("demo", "--name", "broken", *SHORT, *PACK, cwd=folder)
    for trials in (0, 2) if thorough else (2,):
        eventually(
            lambda process=process, trials=trials: (
                process.poll() is not None or (journal.exists() and journal.read_text().count('"proposal"') >= trials)
            )
        )
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if trials == 0:
            process = partune("resume", "runs/broken", cwd=folder)
    said(folder, "resume", "runs/broken")
    whole, broken = report(folder, "whole"), report(folder, "broken")
    for key in ("base", "defaults", "verdict"):
        assert broken[key] == whole[key]
    assert [(t["config"], t["score"]) for t in broken["trials"]] == [(t["config"], t["score"]) for t in whole["trials"]]
    assert broken["best"]["test"] == whole["best"]["test"]


@pytest.mark.thorough
def test_the_same_trials_have_the_same_scores_through_peft(folder: Path) -> None:
    """Dropout included, as both engines take its masks from the trial's seed."""
    said(folder, "demo", "--name", "peft", "--engine", "peft", *SHORT)
    packed, alone = report(folder, "whole"), report(folder, "peft")
    assert packed["loaded"]["pack"] == 4
    assert "pack" not in alone["loaded"]
    for mine, theirs in zip(packed["trials"], alone["trials"], strict=True):
        assert mine["config"] == theirs["config"]
        assert mine["score"] == pytest.approx(theirs["score"], abs=1.5 / 30)  # of 30 items, one may nearly tie
    for name in ("base", "defaults", "best"):
        assert packed[name]["verdict"]["score"] == pytest.approx(alone[name]["verdict"]["score"], abs=1.5 / 30)


@pytest.mark.thorough
def test_rungs_stop_trials_of_the_demo_and_are_reported(folder: Path) -> None:
    longer = [*SHORT, *PACK, "--steps", "32", "--budget", "8"]
    output = said(folder, "demo", "--name", "rungs", *longer, "--stop", "rungs")
    found = report(folder, "rungs")
    stopped = [trial for trial in found["trials"] if trial["status"] == "stopped"]
    assert stopped
    assert all(trial["fidelity"] in (2 / 32, 8 / 32) for trial in stopped)
    assert output.count("stopped at ") >= len(stopped)
    assert found["best"]["trial"] not in [trial["id"] for trial in stopped]


def test_the_exported_adapter_scores_what_was_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    said(folder, "export", "runs/whole", "adapter")
    best = report(folder, "whole")["best"]
    monkeypatch.chdir(DIRECTORY / "tasks")  # where the tasks' data are
    model = HFLM(pretrained=str(DIRECTORY / "model"), peft=str(folder / "adapter"), device="cpu", batch_size=64)
    found = simple_evaluate(
        model,
        tasks=["factory_cloze", "factory_questions"],
        task_manager=TaskManager(include_path=str(DIRECTORY / "tasks"), include_defaults=False),
        bootstrap_iters=1,
        limit=ITEMS,
    )
    questions = found["results"]["factory_questions"]
    assert questions["acc_norm,none"] == pytest.approx(best["test"]["factory_questions"]["score"], abs=1e-12)
    assert questions["acc_norm_stderr,none"] == pytest.approx(best["test"]["factory_questions"]["stderr"], abs=1e-9)
    right = {sample["doc_id"]: sample["acc_norm"] for sample in found["samples"]["factory_cloze"]}
    items = Record.open(folder / "runs" / "whole", read_only=True).items("search", best["trial"])
    assert items["search/factory_cloze/acc_norm"].mean() == best["score"]
    recorded = zip(items["search/factory_cloze/doc_id"], items["search/factory_cloze/acc_norm"], strict=True)
    assert all(right[int(item)] == value for item, value in recorded)


def test_the_merged_model_answers_as_the_adapter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both loaded by the code of their cards."""
    import torch

    def loaded(out: Path) -> Any:
        code = next(block.text for block in blocks(out / "README.md") if block.language == "python")
        places = out.with_name(f"{out.name}-places")
        for place, target in (("path/to/model", DIRECTORY / "model"), ("this/folder", out)):
            (places / place).parent.mkdir(parents=True)
            (places / place).symlink_to(target)
        monkeypatch.chdir(places)
        names: dict[str, Any] = {}
        exec(code, names)
        ids = names["tokenizer"]("Maintenance: the answer is", return_tensors="pt").input_ids
        return names["model"].eval(), ids

    if not (folder / "adapter").exists():
        said(folder, "export", "runs/whole", "adapter")
    said(folder, "export", "runs/whole", "merged", "--merge")
    (adapted, ids), (merged, same) = loaded(folder / "adapter"), loaded(folder / "merged")
    assert torch.equal(ids, same)
    with torch.no_grad():
        assert np.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-4)
        with adapted.disable_adapter():
            assert not np.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-2)


BAD = {
    ("--model", "no/such-model"): "no/such-model",
    ("--data", "gone.json"): "gone.json",
    ("--task", "gone.yaml"): "gone.yaml",
    ("--targets", "q_prj"): "q_prj",
    ("--test-task", str(DIRECTORY / "tasks" / "factory_cloze.yaml")): "both validation and test",
    ("--device", "cuda:9"): "cuda:9",
}


@pytest.mark.parametrize("flags", BAD, ids=lambda flags: flags[0])
def test_bad_input_is_one_line_before_anything_starts(
    flags: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from partune.cli import main

    monkeypatch.chdir(tmp_path)
    status = main(["demo", "--name", "bad", *flags])
    errors = capsys.readouterr().err
    assert status == 2
    assert errors.startswith("partune: error: ")
    assert errors.count("\n") == 1
    assert BAD[flags] in errors
    assert not (tmp_path / "runs").exists()


def test_data_with_a_missing_field_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from partune.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')
    assert main(["demo", "--data", "rows.jsonl"]) == 2
    errors = capsys.readouterr().err
    assert "rows.jsonl" in errors
    assert "output" in errors
    assert "2" in errors
    assert errors.count("\n") == 1


def test_a_real_range_for_an_integer_setting_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from partune.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text("lora_r: {float: [2, 8]}\n")
    assert main(["demo", "--name", "bad", "--space", "space.yaml"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("partune: error: training.lora_r: input should be a valid integer")
    assert not (tmp_path / "runs").exists()
