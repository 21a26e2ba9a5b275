"""SIGKILL at several moments, then resume: nothing lost, nothing twice, and the very trials of an unbroken run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import said
from tests.support.waiting import PATIENCE, eventually

OBJECTIVE = """\
import os, time
from partune import Float, Int, Space

space = Space(x=Float(-5, 5), y=Float(-5, 5), k=Int(1, 9))

def function(config):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{config}\\n")
    time.sleep(0.02)
    if config["x"] > 4.5:
        raise RuntimeError("too far")
    return -(config["x"] ** 2 + config["y"] - 11) ** 2 - config["k"]

function.space = space
"""


def partune(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(cwd), "CALLS": str(cwd / "calls"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "partune.cli", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def tune(name: str, algorithm: str) -> list[str]:
    flags = ["--objective", "far:function", "--algorithm", algorithm, "--budget", "24", "--seed", "4", "--name", name]
    return ["tune", *flags]


@pytest.fixture(autouse=True)
def _objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far.py").write_text(OBJECTIVE)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delitem(sys.modules, "far", raising=False)


def report(cwd: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(said(cwd, "report", f"runs/{name}", "--json"))["trials"]
    return [{key: row[key] for key in ("id", "config", "status", "score", "error")} for row in rows]


def kill_after(process: subprocess.Popen[str], calls: Path, count: int) -> None:
    """SIGKILL once the objective was called so often; the moment within a trial is the machine's."""
    eventually(lambda: process.poll() is not None or (calls.exists() and len(calls.read_text().splitlines()) >= count))
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm", ["bamsoo", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("soo", "bo"))]
)
def test_killed_again_and_again_a_study_ends_as_the_unbroken_one(algorithm: str, tmp_path: Path) -> None:
    said(tmp_path, *tune("unbroken", algorithm))
    (tmp_path / "calls").unlink()
    kill_after(partune(*tune("broken", algorithm), cwd=tmp_path), tmp_path / "calls", 1)
    for count in (7, 8, 16):
        kill_after(partune("resume", "runs/broken", cwd=tmp_path), tmp_path / "calls", count)
    said(tmp_path, "resume", "runs/broken")
    broken, unbroken = report(tmp_path, "broken"), report(tmp_path, "unbroken")
    assert broken == unbroken
    assert len(broken) == 24
    # No finished trial ran twice: each kill cost one run at the most.
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(set(calls)) == 24
    assert 24 <= len(calls) <= 28


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = partune(*tune("first", "soo"), cwd=tmp_path)
    eventually((tmp_path / "calls").exists)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "of 24 trials have ended, 1 more has begun. Continue with: partune resume runs/first" in output
    assert "Traceback" not in output
    said(tmp_path, "resume", "runs/first")
    assert len(report(tmp_path, "first")) == 24
