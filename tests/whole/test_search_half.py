"""`pip install partune` alone: what works without PyTorch, and what says that it takes the other half.

All of it runs in one process that cannot find the fine-tuning half's modules, as starting one takes seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from partune.runtime.extras import FINETUNE, install_command
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

PROGRAM = f"""
import contextlib, importlib.machinery, io, json, pathlib, sys

find = importlib.machinery.PathFinder.find_spec

def find_others(name, *arguments):
    return None if name.partition(".")[0] in {FINETUNE!r} else find(name, *arguments)

importlib.machinery.PathFinder.find_spec = find_others

import partune as pt
from partune.cli import main

space = pt.Space(x=pt.Float(-1, 1), k=pt.Int(1, 8))
optimizer = pt.optimizer("bo", space, seed=0)
for proposal in optimizer.ask(4):
    optimizer.tell(proposal, -proposal.config["x"] ** 2)
for seed in (0, 1):
    pt.Study(space, lambda config: -config["x"] ** 2, seed=seed, directory=f"runs/{{seed}}").run(budget=12)
try:
    pt.optimizer("optuna-gp", space)
except pt.UserError as error:
    answers = {{"optuna-gp": [2, "", str(error)]}}
for line in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(line.split())
    answers[line] = [status, out.getvalue(), err.getvalue()]
assert not set({FINETUNE!r}) & set(sys.modules)
print(json.dumps([answers, sorted(map(str, pathlib.Path().glob("*/*")))]))
"""
WORKS = {
    "report runs/0": "Winner: trial",
    "report runs/0 --markdown": "# Study 0",
    "compare runs/0 runs/1": "Time and cost",
    "algorithms": "bamsoo",
    "doctor": f"self-check: not run: fine-tuning needs {', '.join(FINETUNE)}, not installed here: ",
}
REFUSED = {
    "demo --name d": "fine-tuning",
    "tune --model demo --data x.json --task t --name t": "fine-tuning",
    "bench search --out b": "a benchmark",
    "verdict runs/0 base --model demo --task t": "scoring models",
}
DOCTOR = "doctor --quick --json"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each command's status, output and errors; and the folders that there are afterwards."""
    lines = [*WORKS, *REFUSED, DOCTOR]
    folder: Path = tmp_path_factory.mktemp("search")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *lines], cwd=folder, text=True, capture_output=True, timeout=PATIENCE
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("line", WORKS)
def test_what_is_about_functions_and_records_works(ran: Any, line: str) -> None:
    status, out, _ = ran[0][line]
    assert status == 0
    assert WORKS[line] in out


def test_to_doctor_it_is_no_fault(ran: Any) -> None:
    verdicts = {check["name"]: check["verdict"] for check in json.loads(ran[0][DOCTOR][1])["checks"]}
    assert {verdicts[name] for name in ("libraries", "devices", "extra: finetune")} == {"ok"}


@pytest.mark.parametrize("line", REFUSED)
def test_what_fine_tunes_says_in_one_line_what_to_install(ran: Any, line: str) -> None:
    status, _, err = ran[0][line]
    assert status == 2
    needed = f"needs {', '.join(FINETUNE)}, not installed here: {install_command('finetune')}"
    assert err == f"partune: error: {REFUSED[line]} {needed}\n"


def test_no_study_was_begun_by_what_was_refused(ran: Any) -> None:
    assert ran[1] == ["runs/0", "runs/1"]


def test_an_algorithm_that_needs_pytorch_says_so(ran: Any) -> None:
    message = f"Optuna's Gaussian process needs torch, not installed here: {install_command('finetune')}"
    assert ran[0]["optuna-gp"][2] == message
