"""Studies of the command line: begun, stopped, continued and shown, for people and for scripts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from partune import config
from partune.cli import studies
from partune.cli.parser import build_parser
from partune.record.record import Record
from partune.report.summary import summarise
from partune.runtime.rounding import score
from tests.support.command import BRANIN, branin, run


def test_a_synthetic_study_from_start_to_report() -> None:
    status, output, _ = branin()
    assert status == 0
    assert "9 trials (9 done) by soo" in output
    assert "  best  " in output
    status, output, _ = run("report", "runs/b", "--json")
    found = json.loads(output)
    assert status == 0
    assert [row["id"] for row in found["trials"]] == list(range(9))
    assert set(found["trials"][0]) >= {"id", "config", "status", "score", "stderr", "seconds", "error"}
    assert found["base"] is None
    assert found["verdict"] is None
    assert found["best"]["score"] == max(row["score"] for row in found["trials"])


@pytest.mark.slow
def test_a_study_ends_with_its_report(tmp_path: Path) -> None:
    _, output, _ = branin()
    page = tmp_path / "runs" / "b" / "report.html"
    assert output.rstrip().endswith("Report: runs/b/report.html")
    assert "<h1>Study b</h1>" in page.read_text(encoding="utf-8")
    page.unlink()
    assert run("report", "runs/b", "--json")[0] == 0
    status, output, _ = run("report", "runs/b", "--markdown")
    assert (status, output.startswith("# Study b\n")) == (0, True)
    assert not page.exists()
    assert run("report", "runs/b")[1].rstrip().endswith("Report: runs/b/report.html")
    assert page.exists()
    page.unlink()
    assert run("report", "runs/b", "--live")[0] == 0  # which ends at once, as the study is over
    assert page.exists()


@pytest.mark.slow
def test_a_report_that_cannot_be_written_is_one_line_after_the_summary(tmp_path: Path) -> None:
    branin()
    page = tmp_path / "runs" / "b" / "report.html"
    page.unlink()
    page.mkdir()
    status, output, errors = run("report", "runs/b")
    assert status == 0
    assert "Winner: trial" in output
    assert errors == "partune: no report: cannot write runs/b/report.html: Is a directory\n"


@pytest.mark.slow
def test_a_study_may_be_resumed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """With flags that say where; one that says which workers there are takes the place of all that the file says."""
    branin()
    before = Path("runs/b/study.yaml").read_text()
    seen: list[config.Run] = []

    @contextlib.contextmanager
    def workers(where: config.Run) -> Iterator[None]:
        seen.append(where)
        yield None

    monkeypatch.setattr("partune.cli.studies.workers_of", workers)
    Path("tls").mkdir()
    assert run("resume", "runs/b", "--budget", "10", "--workers", "4", "--time-limit", "60")[0] == 0
    assert run("resume", "runs/b", "--scheduler", "tcp://127.0.0.1:8786", "--tls", "tls")[0] == 0
    assert run("join", "runs/b", "--workers", "2")[0] == 0
    assert run("resume", "runs/b")[0] == 0
    found = [(each.workers, each.time_limit, each.scheduler, each.tls) for each in seen]
    assert found == [
        (4, 60.0, None, None),
        (1, None, "tcp://127.0.0.1:8786", str(Path("tls").absolute())),
        (2, None, None, None),
        (1, None, None, None),
    ]
    assert Path("runs/b/study.yaml").read_text() == before
    file = config.load("runs/b/study.yaml")
    file["run"] |= {"workers": 3, "time_limit": 5.0}
    Path("runs/b/study.yaml").write_text(yaml.safe_dump(file))
    assert run("resume", "runs/b", "--time-limit", "7")[0] == 0
    assert run("resume", "runs/b", "--workers", "1")[0] == 0
    assert [(each.workers, each.time_limit) for each in seen[4:]] == [(3, 7.0), (1, None)]
    status, _, errors = run("resume", "runs/b", "--workers", "2", "--cluster", "slurm.yaml")
    assert (status, errors) == (
        2,
        "partune: error: workers, scheduler and cluster are three ways to get workers: give only one of them\n",
    )
    assert 'unknown argument --wrokers; did you mean "--workers"?' in run("resume", "runs/b", "--wrokers", "2")[2]
    assert "unknown argument --pack" in run("resume", "runs/b", "--pack", "2")[2]


@pytest.mark.slow
def test_a_study_of_one_process_is_continued_by_two() -> None:
    branin()
    before = json.loads(run("report", "runs/b", "--json")[1])["trials"]
    status, output, _ = run("resume", "runs/b", "--budget", "16", "--workers", "2")
    assert status == 0, output
    found = json.loads(run("report", "runs/b", "--json")[1])
    assert found["trials"][:9] == before
    assert len(found["trials"]) == 16
    assert 0 < found["utilisation"] <= 1


@pytest.mark.slow
def test_an_unnamed_study_gets_the_next_free_name() -> None:
    for number in (1, 2):
        assert run("tune", "--objective", "sphere", "--algorithm", "random", "--budget", "2")[0] == 0
        assert Path(f"runs/sphere-{number}/journal.log").is_file()


@pytest.mark.slow
def test_a_functions_module_is_found_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(config):\n    return -config['x'] ** 2\n")
    (tmp_path / "space.yaml").write_text("x: {float: [-1, 1]}\n")
    flags = ("--objective", "mine:f", "--space", "space.yaml", "--algorithm", "soo", "--budget", "5")
    status, output, _ = run("tune", *flags)
    assert status == 0, output
    (tmp_path / "space.yaml").unlink()  # the study has its own copy
    assert run("resume", "runs/mine-f-1", "--budget", "7")[0] == 0
    assert run("tune", "--objective", "mine:f")[2].startswith("partune: error: objective mine:f needs a space")


def test_an_interrupt_while_loading_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("partune.study.from_config.study", interrupted)
    assert branin() == (130, "", "\nInterrupted.\n")


@pytest.mark.slow
def test_a_study_is_never_overwritten() -> None:
    branin()
    before = Path("runs/b/journal.log").read_bytes()
    status, _, errors = branin()
    assert status == 2
    assert "holds a study already: resume it, or choose another name" in errors
    status, _, errors = branin("--objective", "himmelblau")
    assert status == 2
    assert "a study of a different space" in errors
    assert Path("runs/b/journal.log").read_bytes() == before


def test_an_unwritable_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where the folder would be")
    status, _, errors = branin("--runs", "blocked")
    assert status == 2
    assert errors.startswith("partune: error: cannot write blocked/b: ")


def test_a_study_without_any_result_is_status_1(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(config):\n    raise RuntimeError('no')\n")
    (tmp_path / "space.yaml").write_text("x: {float: [-1, 1]}\n")
    flags = ("--objective", "broken:f", "--space", "space.yaml", "--algorithm", "random", "--budget", "2")
    status, output, _ = run("tune", *flags)
    assert status == 1
    assert "2 trials (2 failed)" in output


def test_a_study_that_fails_in_the_same_way_again_and_again_stops(tmp_path: Path) -> None:
    (tmp_path / "unable.py").write_text("def f(config):\n    raise KeyError('[/INST]')\n")
    (tmp_path / "space.yaml").write_text("x: {float: [-1, 1]}\n")
    flags = ("--objective", "unable:f", "--space", "space.yaml", "--algorithm", "random", "--name", "u")
    status, output, errors = run("tune", *flags)
    assert status == 1
    assert errors == (
        "partune: stopped: 3 trials failed with the same error before any had a score: KeyError: '[/INST]'. "
        "Correct the cause and continue: partune resume runs/u\n"
    )
    assert output.count("failed: KeyError") == 3
    status, output, _ = run("report", "runs/u")
    assert "3 of 50 trials have ended (3 failed) by " in output


def test_a_study_from_python_is_continued_there(tmp_path: Path) -> None:
    from partune import Float, Space, Study

    space = Space(x=Float(0, 1))
    Study(space, lambda c: float(c["x"]), "random", directory=tmp_path / "runs" / "p").run(2).close()
    assert run("report", "runs/p")[0] == 0
    status, _, errors = run("resume", "runs/p")
    assert status == 2
    assert "continue it there, with Study(..., resume=True)" in errors


def test_the_users_word_for_a_tasks_code_may_be_given_when_a_study_goes_on() -> None:
    recorded = config.parse({"model": "m", "data": "d", "validation": {"tasks": ["t.yaml"], "limit": 9}})
    for command in ("resume", "join"):
        for word, trusts in (("--trust-task-code", True), ("--no-trust-task-code", False)):
            given = build_parser().parse_args([command, "runs/first", word])
            found = studies.moved(recorded, given)
            assert found.validation == config.Validation(tasks=("t.yaml",), limit=9, trust_task_code=trusts)
        assert studies.moved(recorded, build_parser().parse_args([command, "runs/first"])) == recorded


def test_json_is_all_of_the_output_and_progress_goes_beside_it() -> None:
    status, output, errors = branin("--json")
    assert status == 0
    found = json.loads(output)
    assert found == json.loads(json.dumps(summarise(Record.open(Path("runs/b"), read_only=True))))
    assert "trial   4" in errors


@pytest.mark.slow
def test_quiet_says_what_matters_only() -> None:
    assert branin("--quiet")[1:] == run("report", "runs/b", "--quiet")[1:]
    status, output, errors = run("resume", "runs/b", "--budget", "10", "--quiet")
    assert (status, errors) == (0, "")
    best = summarise(Record.open(Path("runs/b"), read_only=True))["best"]
    assert output == f"Winner: trial {best['trial']}, {score(best['score'], None)}\n"


def test_an_interrupted_study_leaves_the_output_to_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("partune.study.Study.run", interrupted)
    status, output, errors = branin("--json")
    assert (status, output) == (130, "")
    assert "Continue with: partune resume runs/b" in errors


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


@pytest.mark.slow
def test_what_is_printed_is_what_is_recorded() -> None:
    text = printed(*BRANIN)
    assert branin()[0] == 0
    assert Path("runs/b/study.yaml").read_text() == text


def test_a_password_is_not_printed() -> None:
    text = printed(*BRANIN, "--storage", "postgresql://ada:secret@host/db")
    assert "secret" not in text
    assert "postgresql://ada@host/db" in text
