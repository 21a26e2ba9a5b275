"""What a person sees while a study runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from partune import Float, Int, Space, Study
from partune.cli.progress import Terminal
from tests.support.simulated import SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))


def shown(tmp_path: Path, terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal, highlight=False, soft_wrap=True)
    Study(
        SPACE, SimulatedTuning(), "lhs", options={"size": 12}, directory=tmp_path / "s", watcher=Terminal(console)
    ).run(12)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    output = shown(tmp_path, terminal=False)
    assert "\x1b" not in output
    lines = output.splitlines()
    assert lines[0] == "loading the model, the data and the tasks ..."
    assert lines[1] == f"Study {tmp_path / 's'}: 12 trials"
    assert [line.split()[1] for line in lines if line.startswith("trial")] == [str(n) for n in range(12)]
    assert sum("failed: FloatingPointError: loss diverged at step 3" in line for line in lines) >= 1
    assert "     base  0." in output
    assert "lr 0  gives the base model's answers, as it must" in output
    assert lines[-1].endswith("on the held-out items")


def test_a_line_after_the_first_trials_says_how_long_the_search_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "that are left" not in shown(tmp_path / "a", terminal=False)  # it takes less than a minute
    monkeypatch.setattr(Terminal, "_seconds_left", lambda self: 3600.0)
    lines = shown(tmp_path / "b", terminal=False).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("trial"))
    assert [line for line in lines if "that are left" in line] == ["About 1 h 00 min for the 11 trials that are left."]
    assert "that are left" in lines[first + 1]


@pytest.mark.slow
def test_a_bar_with_best_and_time_left_in_a_terminal(tmp_path: Path) -> None:
    output = shown(tmp_path, terminal=True)
    assert "searching, best so far 0." in output
    assert " left" in output
    assert "12/12" in output
