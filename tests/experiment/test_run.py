"""The whole command on functions: what it runs and leaves, continued after a kill, in processes, and its manners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from partune.cli import main
from partune.record.record import Record
from tests.support.waiting import PATIENCE, eventually

CODE = """
import os, pathlib, time
from partune import Float, Space

def f(config):
    with open("calls.txt", "a") as file:
        file.write(f"{config['x']!r}\\n")
    time.sleep(0.03)
    if os.path.exists("broken"):
        raise RuntimeError("no")
    return -(config["x"] - 0.3) ** 2

f.space = Space(x=Float(0, 1))
"""
FLAGS = ["--objective", "slow:f", "--algorithms", "lhs,soo", "--repeats", "2", "--budget", "12"]
TRIALS = 2 * 2 * 12


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").write_text(CODE)


def partune(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "partune", "experiment", "report", *FLAGS, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, output + errors
    return output, errors


def calls() -> list[str]:
    path = Path("calls.txt")
    return path.read_text().split() if path.exists() else []


def trials(out: str) -> dict[str, list[tuple[object, float]]]:
    names = [f"{algorithm}-{seed}" for algorithm in ("lhs", "soo") for seed in (0, 1)]
    records = {name: Record.open(Path(out) / name, read_only=True) for name in names}
    return {name: [(trial.config, trial.score) for trial in record.trials()] for name, record in records.items()}


def wait_for(count: int) -> None:
    eventually(lambda: len(calls()) >= count)


@pytest.mark.slow
def test_killed_and_begun_again_it_is_the_unbroken_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    status, output, _ = run(capsys, *FLAGS, "--out", "whole")
    assert status == 0
    assert len(calls()) == TRIALS
    assert "soo-1" in output
    assert "wrote whole/experiment.html" in output
    assert run(capsys, *FLAGS, "--out", "whole")[0] == 0  # all is there
    assert len(calls()) == TRIALS
    Path("calls.txt").unlink()
    process = partune("--out", "broken-off", "--processes", "2")
    wait_for(15)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    time.sleep(1)  # its processes end with it
    begun = len(calls())
    time.sleep(0.3)
    assert len(calls()) == begun < TRIALS
    status, output, _ = run(capsys, *FLAGS, "--out", "broken-off")
    assert status == 0
    assert f"Experiment: {TRIALS} trials, " in output
    assert "of which are on record" in output
    assert TRIALS <= len(calls()) <= TRIALS + 2  # of what ran in either process, one trial at most was run twice
    assert trials("broken-off") == trials("whole")


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on() -> None:
    process = partune("--out", "x", "--json")
    wait_for(5)
    process.send_signal(signal.SIGINT)
    output, errors = finish(process, 130)
    assert output == ""
    assert errors.endswith("Interrupted: finished trials are recorded in x. The same command continues.\n")
    assert "Traceback" not in errors


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["experiment", "report", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.slow
def test_json_is_all_of_the_output_and_what_is_on_disk(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--objective", "branin", "--budget", "4", "--algorithms", "random,soo", "--seeds", "3,5", "--out", "x")
    status, output, errors = run(capsys, *flags, "--json")
    assert status == 0
    assert output == Path("x/experiment.json").read_text()
    assert "random-3 ..." in errors
    found = json.loads(output)
    assert {own["seed"] for own in found["comparison"]["studies"]} == {3, 5}
    assert found["calibration"] is None
    assert found["better"] is None
    status, output, errors = run(capsys, *flags, "--quiet")
    assert (status, output, errors) == (0, f"{found['headline']}\n", "")


@pytest.mark.slow
def test_more_repeats_go_on_from_those_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--objective", "slow:f", "--budget", "3", "--algorithms", "random,soo", "--out", "x", "--quiet")
    run(capsys, *flags, "--repeats", "1")
    assert run(capsys, *flags, "--repeats", "2")[0] == 0
    assert len(calls()) == 2 * 2 * 3


@pytest.mark.slow
def test_where_every_trial_failed_it_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken").touch()
    flags = ("--objective", "slow:f", "--budget", "2", "--algorithms", "random,soo", "--repeats", "1", "--out", "x")
    status, output, errors = run(capsys, *flags, "--quiet")
    assert (status, output) == (1, "")
    assert errors == "partune: fewer than two studies in x have a trial with a score, so there is nothing to compare\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "d.json"), "model is missing: give --model or a section in the file"),
        (("--model", "m", "--task", "t"), "data is missing: give --data or a section in the file"),
        (("--objective", "branin", "--algorithm", "bo"), 'unknown argument --algorithm; did you mean "--algorithms"?'),
        (("--objective", "branin", "--algorithms", "bo,sooo"), 'no algorithm "sooo"; did you mean "soo"?'),
        (("--objective", "branin", "--repeats", "0"), "--repeats: input should be greater than 0, got '0'"),
        (("nothing.yaml",), "cannot read nothing.yaml: No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_nothing_begins(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, output, errors = run(capsys, *flags)
    assert (status, output, errors) == (2, "", f"partune: error: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["slow.py"]


def test_what_is_printed_is_an_experiments_file_again(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "--repeats", "2", "--budget", "9", "--print-config")[1]
    Path("experiment.yaml").write_text(printed)
    assert run(capsys, "experiment.yaml", "--print-config")[1] == printed
    assert not Path("runs").exists()


@pytest.mark.slow
def test_the_embedded_default_shortened_with_its_calibration(capsys: pytest.CaptureFixture[str]) -> None:
    """Through the real black box: the number of epochs that is found is that which the studies train for."""
    short = ("--data-limit", "32", "--limit", "40", "--test-limit", "20", "--budget", "2", "--repeats", "1")
    flags = (*short, "--algorithms", "lhs,soo", "--calibration", "3", "--most-epochs", "2", "--processes", "1")
    status, output, _ = run(capsys, *flags, "--warmup-steps", "0", "--json", "--out", "x")
    assert status == 0
    found = json.loads(output)
    assert len(found["calibration"]["configurations"]) == 3
    for name in ("lhs-0", "soo-0"):
        assert f"epochs: {found['calibration']['epochs']}.0" in Path("x", name, "study.yaml").read_text()
    assert set(found["tests"]) == {"factory_questions"}
    assert [row["name"] for row in found["bounds"]] == [
        "lower bound: lhs, the mean sample",
        "lower bound: lhs, its winner",
        "untouched base",
        "the field's defaults",
        "soo, its winner",
    ]
