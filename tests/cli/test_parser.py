"""The parser: one line for a mistake, help that says what a command does, and that loads nothing for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from partune.cli import main
from partune.cli.flags import given
from partune.cli.parser import Parser, build_parser
from partune.cli.studies import INTERRUPTED
from tests.support import ROOT
from tests.support.command import branin, modules_after, run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "--bugdet", "3"), 'unknown argument --bugdet; did you mean "--budget"?'),
        (("tune",), "model is missing: give --model"),
        (("tune", "--objective", "brannin"), 'no objective "brannin"; did you mean "branin"?'),
        (("tune", "--objective", "branin", "--budget", "0"), "--budget: input should be greater than 0"),
        (("tune", "--objective", "branin", "--algorithm", "bamso"), 'no algorithm "bamso"; did you mean "bamsoo"?'),
        (("tune", "--objective", "branin", "--space", "lorra"), 'no ready-made space "lorra"; did you mean "lora"?'),
        (("tune", "--objective", "branin", "--name", "../up"), "a name must be a plain folder name, got '../up'"),
        (("tune", "--objective", "branin", "--name", ".."), "a name must be a plain folder name, got '..'"),
        (("tune", "--objective", "branin", "--name", "/up"), "a name must be a plain folder name, got '/up'"),
        (("tune", "--objective", "branin", "--name", ""), "a name must be a plain folder name, got ''"),
        (("tune", "nothing.yaml"), "cannot read nothing.yaml: No such file or directory"),
        (("resume", "runs/none"), "no study in runs/none"),
        (("resume", "runs/none", "--budget", "0"), "argument --budget: must be at least 1, got 0"),
        (("report", "runs/none"), "no study in runs/none"),
        (("export", "runs/none", "out"), "no study in runs/none"),
        (("spaces", "lra"), 'no ready-made space "lra"; did you mean "lora"?'),
        (("tnue",), "argument COMMAND: invalid choice"),
    ],
)
def test_bad_input_is_status_2_and_one_line(arguments: tuple[str, ...], message: str) -> None:
    status, output, errors = run(*arguments)
    assert status == 2
    assert errors.startswith(f"partune: error: {message}")
    assert errors.count("\n") == 1
    assert output == ""
    assert not Path("runs").exists()  # nothing was begun


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    assert run("tnue")[2] == "partune: error: argument COMMAND: invalid choice: 'tnue'; did you mean \"tune\"?\n"
    assert run("completion", "bsh")[2].endswith("invalid choice: 'bsh'; did you mean \"bash\"?\n")


def test_json_and_quiet_exclude_each_other() -> None:
    status, _, errors = branin("--json", "--quiet")
    assert status == 2
    assert "not allowed with argument" in errors


DOCUMENT = ROOT / "docs" / "cli.md"


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


@pytest.mark.slow
def test_help_takes_no_time() -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "partune", "--help"], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.3


HEAVY = {
    "torch",
    "transformers",
    "peft",
    "lm_eval",
    "datasets",
    "scipy",
    "optuna",
    "rich",
    "numpy",
    "plotly",
    "sklearn",
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["tune", "--help"], ["--version"], ["spaces"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    allowed = {"numpy"} if arguments == ["spaces"] else set()
    code = f"from partune.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
    assert modules_after(code) & HEAVY <= allowed


# ----- the command first, then its flags


def arguments_of(parser: Parser) -> set[str]:
    return {action.dest for action in parser._actions} - {"help"}


def commands_of(parser: Parser) -> dict[str, Parser]:
    return next((dict(action.choices) for action in parser._actions if isinstance(action.choices, dict)), {})


def test_only_the_command_that_is_called_gets_its_flags() -> None:
    """Whatever the words of its own arguments are: a study may be named as a command is."""
    parser = build_parser()
    namespace = parser.parse_args(["report", "tune"])
    assert (namespace.command, namespace.directory) == ("report", "tune")
    built = {name for name, command in commands_of(parser).items() if arguments_of(command)}
    assert built == {"report"}


def test_a_benchmark_has_flags_of_its_own() -> None:
    namespace = build_parser().parse_args(["bench", "chaos", "--every", "5"])
    assert (namespace.what, given(namespace)) == ("chaos", {"every": "5"})
    assert run("bench", "chaos", "--contenders", "bo")[2].startswith("partune: error: unknown argument --contenders")
    assert run("bench", "sarch")[2].endswith("invalid choice: 'sarch'; did you mean \"search\"?\n")
    assert run("bench") == (
        2,
        "",
        "partune: error: the following arguments are required: KIND. `partune bench --help` explains them\n",
    )


def whole_helps(parser: Parser) -> Iterator[tuple[Parser, str]]:
    parser.complete()
    yield parser, parser.format_help()
    for command in commands_of(parser).values():
        yield from whole_helps(command)


def test_every_help_fits_a_terminal_and_says_what_each_argument_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for parser, text in whole_helps(build_parser()):
        assert [line for line in text.splitlines() if len(line) > 80] == [], parser.prog
        assert parser.description, parser.prog
        for action in parser._actions:
            if action.dest in ("help", "command", "what", "==SUPPRESS=="):
                continue
            about = (action.help or "").partition(" (default")[0]
            assert about.endswith((".", ")")), (parser.prog, action.dest, about)
            assert about[0].isupper() or about.startswith(("cpu", "demo")), (parser.prog, action.dest, about)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["report", "--help"], ["doctor", "--help"]])
def test_commands_without_settings_read_no_definition(arguments: list[str]) -> None:
    code = f"from partune.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
    assert not modules_after(code) & {"pydantic", "yaml"}


def test_other_systems_than_posix_get_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:  # no longer than that, as pathlib asks for the system, too
        patched.setattr("partune.cli.os.name", "nt")
        status = main(["algorithms"])
    assert status == 2
    assert capsys.readouterr().err == (
        "partune: error: partune needs a POSIX system, such as Linux; on Windows, run it in WSL\n"
    )
