"""`partune plan` says what a study costs and can show, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import run

LABELS = ("--model", "demo", "--data", "demo:labels", "--batch-size", "8", "--targets", "attention", "--device", "cpu")


def planned(*flags: str) -> dict[str, object]:
    status, output, errors = run("plan", *LABELS, *flags, "--json")
    assert status == 0, errors
    found: dict[str, object] = json.loads(output)
    return found


@pytest.mark.slow
def test_a_plan_is_a_table_of_80_columns_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, output, _ = run("plan", *LABELS, "--pack", "2", "--budget", "12", "--gain", "0.3")
    assert status == 0
    assert max(map(len, output.splitlines())) <= 80
    names = [line.split("  ")[0] for line in output.splitlines() if not line.startswith(" ")]
    wanted = ["data", "trial", "baselines", "search", "verdict", "in total", "held out", "smallest gain"]
    assert [name for name in names if name in wanted] == wanted
    assert "gain of 0.3" in names
    assert "1,536 rows; 1,382 examples" in output
    assert "173 steps of 8 examples" in output
    assert "with 2 at once" in output
    assert "12 trials" in output
    assert "77 items, scored by acc" in output
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_without_a_probe_no_time_is_known_but_the_gain_is() -> None:
    found = planned("--no-probe", "--budget", "100000000", "--steps", "7")
    assert found["seconds"] is None
    assert found["trials_at_once"] is None
    assert found["trials"] == 100_000_000
    assert found["steps"] == 7
    verdict = found["verdict"]
    assert isinstance(verdict, dict)
    base, defaults = verdict["smallest_gain"]
    assert 0.1 < base <= defaults < 0.5
    assert verdict["assumed"]["mean"] is None
    assert all(other["smallest_gain"] < defaults for other in verdict["alternatives"])
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_losses_have_gains_in_deviations_until_the_base_is_scored() -> None:
    status, output, _ = run("plan", "--model", "demo", "--data", "demo:pairs", "--no-probe", "--engine", "peft")
    assert status == 0
    assert "standard deviations of an item's score over the base model" in " ".join(output.split())
    assert "not known without a probe" in output


@pytest.mark.slow
def test_a_plan_knows_a_studys_file(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "model: demo\ndata: demo:labels\nbaseline: [peft, axolotl]\nsearch: {budget: 9, seeds: 0}\nrun: {pack: 3}\n"
    )
    status, output, _ = run("plan", str(file), "--no-probe", "--budget", "8", "--json")
    assert status == 0
    found = json.loads(output)
    assert found["baselines"] == ["base", "peft", "axolotl"]
    assert (found["trials"], found["trials_at_once"]) == (8, 3)
    assert len(found["verdict"]["smallest_gain"]) == 3
    assert found["verdict"]["fresh_runs"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "demo"), "data is missing: give --data or a section in the file"),
        (("nowhere.yaml",), "cannot read nowhere.yaml: No such file or directory"),
        (("--objective", "branin"), "objective branin is a function: it has no training to plan and no verdict"),
        ((*LABELS, "--seeds", "1"), "--seeds: must be 0 or at least 2: one run says nothing about other seeds"),
        ((*LABELS, "--gain", "-0.1"), "--gain must be above 0"),
        ((*LABELS, "--gain", "much"), "argument --gain: invalid float value: 'much'"),
        ((*LABELS, "--budget", "0"), "--budget: input should be greater than 0"),
        ((*LABELS, "--algorithm", "boo"), "boo"),
        ((*LABELS, "--like", "runs/none"), "no study in runs/none"),
        ((*LABELS, "--name", "a/b"), "a name must be a plain folder name"),
        ((*LABELS, "--live"), "unknown argument --live"),
        (("--model", "demo", "--data", "nowhere.csv"), "nowhere.csv"),
        ((*LABELS, "--task", "no_such_task", "--no-probe"), "no_such_task"),
    ],
)
def test_a_mistake_is_one_line(flags: tuple[str, ...], message: str) -> None:
    status, output, errors = run("plan", *flags)
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert message in errors


@pytest.mark.slow
def test_a_name_that_is_taken_is_refused_as_by_tune() -> None:
    assert run("tune", "--objective", "branin", "--algorithm", "soo", "--budget", "3", "--name", "b")[0] == 0
    status, _, errors = run("plan", *LABELS, "--name", "b")
    assert (status, errors) == (
        2,
        "partune: error: runs/b holds a study already: resume it, or choose another name\n",
    )
    status, _, errors = run("plan", *LABELS, "--like", "runs/b")
    assert status == 2
    assert "runs/b has no winner whose scores could tell how scores vary" in errors
    Path("runs/empty").mkdir()
    status, _, errors = run("plan", *LABELS, "--name", "empty")
    assert status == 2
    assert errors.startswith("partune: error: no study in runs/empty")
