"""What commands do beyond beginning a study: they continue it, show it and list what there is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from pathlib import Path

import pytest
import yaml

from partune.cli import main
from tests.support.command import branin, run
from tests.support.harness_samples import scored
from tests.support.waiting import PATIENCE


@pytest.mark.slow
def test_resume_continues_to_a_larger_budget() -> None:
    branin()
    status, output, _ = run("resume", "runs/b", "--budget", "14")
    assert status == 0
    assert "Study runs/b: 9 of 14 trials have ended\n" in output
    assert len(json.loads(run("report", "runs/b", "--json")[1])["trials"]) == 14
    status, output, _ = run("resume", "runs/b")  # the larger budget is remembered, and nothing to do is no error
    assert (status, "14 of 14 trials have ended" in output) == (0, True)
    status, _, errors = run("resume", "runs/b", "--budget", "3")
    assert (status, errors) == (
        2,
        "partune: error: --budget 3 is too small for runs/b, where 14 of 14 trials have ended: the budget is the total "
        "number of trials, so use `--budget 14` or more\n",
    )


@pytest.mark.slow
def test_the_leaders_of_a_finished_study_may_be_confirmed() -> None:
    """As if it had been asked for at the beginning; the study's file says so from then on."""
    assert branin()[0] == 0
    status, output, _ = run("resume", "runs/b", "--confirm", "2")
    assert status == 0
    assert "Again with fresh seeds: trial" in output
    assert yaml.safe_load(Path("runs/b/study.yaml").read_text())["search"]["confirm"] == 2
    assert run("tune", "runs/b/study.yaml", "--name", "c")[0] == 0
    later, whole = (json.loads(run("report", f"runs/{name}", "--json")[1]) for name in "bc")
    assert later["confirmed"] == whole["confirmed"]
    assert len(later["confirmed"]) == 2
    assert run("resume", "runs/b")[0] == 0
    assert json.loads(run("report", "runs/b", "--json")[1])["confirmed"] == later["confirmed"]
    refused = {
        ("--confirm", "-1"): "--confirm: input should be greater than or equal to 0, got '-1'",
        (
            "--seeds",
            "1",
        ): "--seeds: must be 0 or at least 2: one run says nothing about other seeds, got '1'",
        ("--ship", "worst"): "--ship: input should be 'first', 'median' or 'best', got 'worst'",
    }
    for arguments, error in refused.items():
        assert run("resume", "runs/b", *arguments) == (2, "", f"partune: error: {error}\n")


@pytest.mark.slow
def test_numbers_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    from partune import Float, Observation, Space, Study

    def odd(config: object) -> Observation:
        nan = float("nan")
        return Observation({"score": 1.0, "test/t": nan, "test/t_stderr": nan, "test/u": 0.5, "test/u_stderr": nan})

    for seed, name in enumerate(("p", "q")):
        Study(Space(x=Float(0, 1)), odd, "random", seed, tmp_path / name).run(3).close()
    for arguments in (("report", "p"), ("compare", "p", "q")):
        status, output, errors = run(*arguments, "--json")
        assert (status, errors) == (0, "")
        json.loads(output, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert json.loads(run("report", "p", "--json")[1])["trials"][0]["test"] == {"u": {"score": 0.5, "stderr": None}}
    assert run("report", "p")[0] == run("report", "p", "--markdown")[0] == run("compare", "p", "q")[0] == 0
    assert (tmp_path / "p" / "report.html").is_file()


def test_spaces_and_algorithms_are_listed() -> None:
    assert "lora-article:" in run("spaces")[1]
    assert run("spaces", "lora")[1].splitlines()[1] == "  lora_r: {int: [2, 64], log: true}"
    assert {line.split()[0] for line in run("algorithms")[1].splitlines()} >= {"random", "lhs", "soo", "bo", "bamsoo"}


def test_spaces_and_algorithms_as_data() -> None:
    assert json.loads(run("spaces", "lora", "--json")[1])["lora"]["lora_r"] == {"int": [2, 64], "log": True}
    found = json.loads(run("algorithms", "--json")[1])
    names = [each["name"] for each in found["algorithms"]]
    assert found["auto"] in names
    assert {"soo", "bamsoo", "random"} <= set(names)
    assert all(each["summary"] and each["source"] for each in found["algorithms"])


def test_what_is_not_there_is_answered_with_what_is() -> None:
    assert run("report", "runs/b")[2] == "partune: error: no study in runs/b: `partune tune --name b ...` begins one\n"
    Path("study.yaml").touch()
    assert 'No such file or directory; did you mean "study.yaml"?' in run("tune", "stdy.yaml")[2]


def in_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> str:
    """What a command writes to a terminal."""
    import pty

    leader, follower = pty.openpty()
    written = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux says so when the other end is closed
            while part := os.read(leader, 65536):
                written.extend(part)

    reading = threading.Thread(target=read)
    reading.start()
    with monkeypatch.context() as patch, open(follower, "w", encoding="utf-8") as terminal:
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
            patch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", **environment}.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
            status = main(arguments)
    reading.join(PATIENCE)
    os.close(leader)
    assert status == 0
    return written.decode()


COLOUR = re.compile(r"\x1b\[[\d;]*3\d")


@pytest.mark.slow
def test_colours_are_for_terminals_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert branin()[0] == 0
    assert "\x1b" not in run("report", "runs/b")[1]
    assert COLOUR.search(in_terminal(monkeypatch, "report", "runs/b"))
    assert not COLOUR.search(in_terminal(monkeypatch, "report", "runs/b", NO_COLOR="1"))


def test_verdict_tests_one_model_against_another() -> None:
    """From samples of lm-evaluation-harness; whatever is printed is in the JSON too."""
    a, b = scored(Path("a"), [1] * 40 + [0] * 10), scored(Path("b"), [1] * 20 + [0] * 30)
    status, output, _ = run("verdict", str(a), str(b))
    assert status == 0
    assert "A is BETTER than B on t: acc gain +0.400" in output
    assert "This is about two models, not two recipes" in output
    arguments = (
        "--metric",
        "acc",
        "--filter",
        "none",
        "--task",
        "t",
        "--margin",
        "0.01",
        "--better",
        "higher",
        "--json",
    )
    status, output, _ = run("verdict", str(b), str(a), *arguments)
    answer = json.loads(output)["answers"][0]
    assert (status, answer["relation"], answer["within_margin"]) == (0, "worse", False)
    assert (answer["won"], answer["lost"], answer["items"]) == (0, 20, 50)
    more = scored(Path("more"), [1] * 39 + [0] * 11)
    status, output, _ = run("verdict", str(a), str(b), "--a", str(more), "--json")
    assert json.loads(output)["answers"][0]["runs"] == [2, 1]
    assert json.loads(output)["a"]["paths"] == ["a", "more"]


def test_verdict_refuses_in_one_line() -> None:
    a = scored(Path("a"), [1, 0])
    Path("empty").mkdir()
    for arguments, message in (
        (
            (str(a), str(a)),
            "a and a are the same samples (samples_t_2026-01-02T03-04-05.678901.jsonl): name the samples",
        ),
        (
            (str(a), "empty"),
            "empty has no samples_*.jsonl of lm-evaluation-harness; score the model with `lm_eval",
        ),
        ((str(a), "none"), "none does not exist"),
        ((str(a), "none", "--margin", "-1"), "the margin must be above 0, such as 0.01, got -1"),
        ((str(a), "none", "--margin", "x"), "argument --margin: invalid float value: 'x'"),
        (
            (str(a), "none", "--better", "highest"),
            "argument --better: invalid choice: 'highest'; did you mean \"higher\"?",
        ),
        ((str(a),), "the following arguments are required: B"),
    ):
        status, output, errors = run("verdict", *arguments)
        assert (status, output, errors.count("\n")) == (2, "", 1)
        assert errors.startswith(f"partune: error: {message}")
