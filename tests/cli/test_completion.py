"""Completion in shells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from partune.cli.completion import FILES, FOLDERS, actions, script
from partune.cli.parser import build_parser
from tests.support.command import run
from tests.support.waiting import PATIENCE


def test_completion_knows_commands_flags_names_and_places() -> None:
    text = script(build_parser(), "bash")
    Path("partune.bash").write_text(text)
    Path("results").mkdir()
    program = """
source ./partune.bash
complete_() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_partune; echo "${COMPREPLY[*]}"; }
complete_ partune re
complete_ partune tune --algo
complete_ partune tune --algorithm bam
complete_ partune tune --schedule c
complete_ partune report res
"""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.splitlines() == ["resume report", "--algorithm", "bamsoo", "constant cosine", "results"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_completion_for_other_shells(shell: str) -> None:
    status, output, _ = run("completion", shell)
    assert status == 0
    assert "--algorithm" in output


def test_every_flag_that_takes_a_place_is_completed_as_one() -> None:

    there = {action.dest for action in actions(build_parser())}
    assert there >= FILES | FOLDERS
