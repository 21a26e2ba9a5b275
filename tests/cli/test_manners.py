"""What scripts and people may rely on: JSON, quiet, no colours, the whole configuration, completion."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from partune import config
from partune.cli import main
from partune.cli.completion import actions, script
from partune.cli.parser import build_parser
from partune.cli.studies import INTERRUPTED
from partune.record.record import Record
from partune.report.summary import summarise
from tests.support import ROOT

DOCUMENT = ROOT / "docs" / "cli.md"
BRANIN = ("tune", "--objective", "branin", "--algorithm", "soo", "--budget", "5", "--name", "b")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str, str]:
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(arguments)
    return status, output.getvalue(), errors.getvalue()


# ----- for scripts


def test_json_is_all_of_the_output_and_progress_goes_beside_it() -> None:
    status, output, errors = run(*BRANIN, "--json")
    assert status == 0
    found = json.loads(output)
    assert found == json.loads(json.dumps(summarise(Record.open(Path("runs/b"), read_only=True))))
    assert "trial   4" in errors


def test_quiet_says_what_matters_only() -> None:
    assert run(*BRANIN, "--quiet")[1:] == run("report", "runs/b", "--quiet")[1:]
    status, output, errors = run("resume", "runs/b", "--budget", "6", "--quiet")
    assert (status, errors) == (0, "")
    best = summarise(Record.open(Path("runs/b"), read_only=True))["best"]
    assert output == f"Best: trial {best['trial']}, {best['score']:.4f}\n"


def test_json_and_quiet_exclude_each_other() -> None:
    status, _, errors = run(*BRANIN, "--json", "--quiet")
    assert status == 2
    assert "not allowed with argument" in errors


def test_spaces_and_algorithms_as_data() -> None:
    assert json.loads(run("spaces", "lora", "--json")[1])["lora"]["lora_r"] == {"int": [2, 64], "log": True}
    found = json.loads(run("algorithms", "--json")[1])
    names = [each["name"] for each in found["algorithms"]]
    assert found["auto"] in names
    assert {"soo", "bamsoo", "random"} <= set(names)
    assert all(each["summary"] and each["source"] for each in found["algorithms"])


def test_an_interrupted_study_leaves_the_output_to_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("partune.study.Study.run", interrupted)
    status, output, errors = run(*BRANIN, "--json")
    assert (status, output) == (130, "")
    assert "Continue with: partune resume runs/b" in errors


# ----- colours


def in_terminal(arguments: list[str], **environment: str) -> str:
    """What a command writes to a terminal."""
    import pty

    leader, follower = pty.openpty()
    given = {**{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "partune", *arguments], stdout=follower, stderr=follower, env=given | environment
    )
    os.close(follower)
    written = b""
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
        while part := os.read(leader, 65536):
            written += part
    os.close(leader)
    assert process.wait(60) == 0
    return written.decode()


COLOUR = re.compile(r"\x1b\[[\d;]*3\d")


@pytest.mark.slow
def test_colours_are_for_terminals_and_can_be_turned_off() -> None:
    assert run(*BRANIN)[0] == 0
    assert "\x1b" not in run("report", "runs/b")[1]
    assert COLOUR.search(in_terminal(["report", "runs/b"]))
    assert not COLOUR.search(in_terminal(["report", "runs/b"], NO_COLOR="1"))


# ----- the whole configuration


def printed(*arguments: str) -> str:
    status, output, errors = run(*arguments, "--print-config")
    assert (status, errors) == (0, "")
    assert not Path("runs").exists()
    return output


@pytest.mark.parametrize(
    "arguments",
    [
        ("tune", "--objective", "branin"),
        ("demo",),
        ("demo", "--budget", "7", "--epochs", "0.5", "--keep", "all", "--confirm", "3", "--metric", "margin"),
        ("tune", "--model", "a/b", "--data", "d.json", "--task", "x", "--task", "y", "--chat-template", "{{ m }}\n`"),
    ],
)
def test_the_printed_configuration_is_a_studys_file_of_the_same_study(arguments: tuple[str, ...]) -> None:
    text = printed(*arguments)
    Path("study.yaml").write_text(text)
    assert printed("tune", "study.yaml") == text


def test_the_printed_configuration_has_every_key() -> None:
    found = yaml.safe_load(printed("demo"))
    assert set(found) == set(config.StudyConfig.model_fields)
    for name, section in (("training", config.Training), ("run", config.Run), ("data", config.Data)):
        assert set(found[name]) == set(section.model_fields)
    assert found["space"]["lora_r"] == {"int": [2, 64], "log": True}


def test_what_is_printed_is_what_is_recorded() -> None:
    text = printed(*BRANIN)
    assert run(*BRANIN)[0] == 0
    assert Path("runs/b/study.yaml").read_text() == text


def test_a_password_is_not_printed() -> None:
    text = printed(*BRANIN, "--storage", "postgresql://ada:secret@host/db")
    assert "secret" not in text
    assert "postgresql://ada@host/db" in text


# ----- help, mistakes, completion


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    assert run("tnue")[2] == "partune: error: argument COMMAND: invalid choice: 'tnue'; did you mean \"tune\"?\n"
    assert run("completion", "bsh")[2].endswith("invalid choice: 'bsh'; did you mean \"bash\"?\n")


def test_every_command_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    commands = next(each for each in parser._actions if each.dest == "command")
    assert set(commands.choices or ()) >= {"tune", "doctor", "completion", "export"}
    told = parser.format_help()
    for status in ("0", "1", "2", str(INTERRUPTED)):
        assert f"| {status} |" in DOCUMENT.read_text(encoding="utf-8")
        assert f"\n  {status} " in told
    for command in commands.choices or ():
        assert f"`{command}" in DOCUMENT.read_text(encoding="utf-8")


def test_help_takes_no_time() -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "partune", "--help"], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.3


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
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == ["resume report", "--algorithm", "bamsoo", "constant cosine", "results"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_completion_for_other_shells(shell: str) -> None:
    status, output, _ = run("completion", shell)
    assert status == 0
    assert "--algorithm" in output


def test_every_flag_that_takes_a_place_is_completed_as_one() -> None:
    from partune.cli.completion import FILES, FOLDERS

    there = {action.dest for action in actions(build_parser())}
    assert there >= FILES | FOLDERS


def test_what_is_not_there_is_answered_with_what_is() -> None:
    assert run("report", "runs/b")[2] == "partune: error: no study in runs/b: partune tune --name b ... begins one\n"
    Path("study.yaml").touch()
    assert 'No such file or directory; did you mean "study.yaml"?' in run("tune", "stdy.yaml")[2]
