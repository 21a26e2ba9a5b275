"""A study without a task: from rows to a verdict, a report and an export, in which losses are read as losses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.tiny import make_rows, write_jsonl

ROWS = ("--validation-split", "0.4", "--eval-points", "3", "--select", "best")
FLAGS = (*ROWS, "--steps", "3", "--batch-size", "4", "--pack", "2", "--device", "cpu")
SEARCH = ("--algorithm", "random", "--budget", "3", "--seeds", "0", "--name", "rows")


@pytest.mark.slow
def test_rows_alone_make_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("rows.jsonl"), make_rows(60))
    status, output, errors = run("tune", "--model", "demo", "--data", "rows.jsonl", *FLAGS, *SEARCH)
    assert status == 0, errors
    told = errors + output
    counts = re.search(r"(\d+) validation rows score the trials, (\d+) are held out for the verdict", told)
    assert counts is not None
    assert 20 <= int(counts[1]) + int(counts[2]) <= 28
    assert "score: loss per trained token in nats (lower is better)" in told
    base = re.search(r"base +(\d+\.\d+)", told)
    assert base is not None
    summary = json.loads(run("report", "runs/rows", "--json")[1])
    assert float(base[1]) == pytest.approx(-summary["base"]["score"], abs=0.006)
    assert summary["base"]["score"] < 0
    markdown = run("report", "runs/rows", "--markdown")[1]
    for page in (output, markdown):
        assert "lower is better" in page
        assert "exp(loss)" in page
        assert not re.search(r"\| (base|winner|defaults) +\| -", page)
    page = Path("runs/rows/report.html").read_text()
    assert "Loss in training" in page
    assert "which had the best score among the points" in page
    status, _, errors = run("export", "runs/rows", "adapter")
    assert status == 0, errors
    card = Path("adapter/README.md").read_text()
    assert "The table shows losses ± one standard error" in card
    held = summary["loaded"]["data"]["validation_rows"]
    for recipe in Path("adapter/recipes").iterdir():
        if recipe.suffix in (".py", ".yaml"):
            assert f"held out {held} rows" in re.sub(r"\s*\n#? *", " ", recipe.read_text()), recipe
    # A resumed study holds out the same rows.
    status, output, errors = run("resume", "runs/rows", "--budget", "4")
    assert status == 0, errors
    again = json.loads(run("report", "runs/rows", "--json")[1])
    assert [row["score"] for row in again["trials"][:3]] == [row["score"] for row in summary["trials"]]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ("--metric", "acc_norm"),
            "--metric: acc_norm needs a task (--task)",
        ),
        (("--validation-split", "0"), "--validation-split: input should be greater than 0"),
        (("--validation-data", "none.jsonl"), "no data file none.jsonl"),
        (("--engine", "litgpt"), "with the engine litgpt, partune cannot score validation rows, only tasks (--task)"),
        (("--task", "x.yaml", "--validation-split", "0.2"), "--validation-split would have no effect: a task scores"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("rows.jsonl"), make_rows(20))
    status, _, errors = run("tune", "--model", "demo", "--data", "rows.jsonl", *flags)
    assert status == 2
    assert told in errors
    assert errors.strip().count("\n") <= 1
    assert not Path("runs").exists()
