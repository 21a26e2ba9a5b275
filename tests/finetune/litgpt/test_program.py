"""LitGPT's program as it is driven: processes, their ends and logs; with a stand-in for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from partune.errors import UserError
from partune.finetune.litgpt.program import Program, StepError, environment, tail
from tests.support.litgpt import behave, calls
from tests.support.waiting import PATIENCE, eventually

# ----- processes


def test_a_missing_command_says_how_to_install_it(tmp_path: Path) -> None:
    for command in (str(tmp_path / "litgpt"), "no-such-litgpt"):
        with pytest.raises(UserError, match=r"no LitGPT command .*: install it in its own virtual environment"):
            Program.find(command, {})


def test_a_command_that_is_no_litgpt_is_found_out(tmp_path: Path, program: Program) -> None:
    program.check()
    for text, message in (
        ("echo --out_dir --precision", "finetune_lora` has no flag --data"),
        ("echo ModuleNotFoundError: torch >&2; exit 1", "does not run: .*exit code 1: ModuleNotFoundError: torch"),
    ):
        (tmp_path / "other").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "other").chmod(0o755)
        with pytest.raises(UserError, match=message):
            Program.find(str(tmp_path / "other"), dict(os.environ)).check()


def test_a_relative_command_is_found_from_where_we_are(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Program.find("bin/litgpt", {}).path == program.path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "fail",
            r"litgpt evaluate ended with exit code 3: .*RuntimeError: the loss of this trial is odd \(log: .*log\)",
        ),
        ("kill", "out of memory: litgpt evaluate was killed by signal 9: it printed nothing"),
        ("memory", "out of memory: litgpt evaluate ended with exit code 1: .*Tried to allocate 2 GiB"),
    ],
)
def test_a_failed_step_says_how_it_ended_and_the_end_of_its_log(
    tmp_path: Path, program: Program, what: str, message: str
) -> None:
    behave(Path(program.path), evaluate=what)
    with pytest.raises(StepError, match=message) as caught:
        program.run("evaluate", ["checkpoint"], tmp_path / "step.log")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_wrong_argument_is_an_exit_code(tmp_path: Path, program: Program) -> None:
    with pytest.raises(StepError, match=r"exit code 2: .*unrecognized arguments: --lora_rank 3"):
        program.run("finetune_lora", ["checkpoint", "--lora_rank", "3"], tmp_path / "step.log")


def test_a_tail_is_one_short_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n" + b"x" * 1000 + b"\n\n 10%\r 99%\rlast  word\r\n")
    assert tail(log, 20) == "...xxxxxxx last word"
    log.write_bytes(b"\xff\n")
    assert tail(log) == "�"


def test_processes_see_their_device_and_not_our_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    seen = [environment(device, None)["CUDA_VISIBLE_DEVICES"] for device in ("cpu", "cuda", "cuda:1")]
    assert seen == ["", "4,6", "6"]
    assert "PYTHONPATH" not in environment("cpu", None)
    assert [environment("cpu", threads)["OMP_NUM_THREADS"] for threads in (None, 1)] == ["3", "1"]


@pytest.mark.slow
def test_an_interrupt_ends_the_process(tmp_path: Path, program: Program) -> None:
    behave(Path(program.path), evaluate="sleep")
    code = (
        "import os, sys; from pathlib import Path; from partune.finetune.litgpt.program import Program\n"
        f"Program({program.path!r}, dict(os.environ)).run('evaluate', ['x'], Path({str(tmp_path / 'step.log')!r}))"
    )
    ours = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    (call,) = eventually(lambda: calls(Path(program.path)))
    ours.send_signal(signal.SIGINT)
    _, errors = ours.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(call["pid"], 0)
