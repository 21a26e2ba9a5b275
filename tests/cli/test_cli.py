"""The command line: flags, exit statuses, one line for bad input, light imports."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from partune import config
from partune.cli import main, studies
from partune.cli.flags import CONFIG, given
from partune.cli.parser import Parser, add_study, build_parser

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty folder: (status, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def branin(run: Run, *flags: str) -> tuple[int, str, str]:
    return run("tune", "--objective", "branin", "--algorithm", "soo", "--budget", "9", "--name", "b", *flags)


def test_a_synthetic_study_from_start_to_report(run: Run) -> None:
    status, output, _ = branin(run)
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


def test_a_study_ends_with_its_report(run: Run, tmp_path: Path) -> None:
    _, output, _ = branin(run)
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


def test_a_report_that_cannot_be_written_is_one_line_after_the_summary(run: Run, tmp_path: Path) -> None:
    branin(run)
    page = tmp_path / "runs" / "b" / "report.html"
    page.unlink()
    page.mkdir()
    status, output, errors = run("report", "runs/b")
    assert status == 0
    assert "Best: trial" in output
    assert errors == "partune: no report: cannot write runs/b/report.html: Is a directory\n"


def test_resume_continues_to_a_larger_budget(run: Run) -> None:
    branin(run)
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
        "number of trials, so give 14 or more\n",
    )


def test_the_leaders_of_a_finished_study_may_be_confirmed(run: Run) -> None:
    """As if it had been asked for at the beginning; the study's file says so from then on."""
    assert branin(run)[0] == 0
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
        ("--confirm", "-1"): "search.confirm: input should be greater than or equal to 0, got '-1'",
        ("--seeds", "1"): "search.seeds: must be 0 or at least 2, as one run says nothing of other seeds, got '1'",
        ("--ship", "worst"): "search.ship: input should be 'first', 'median' or 'best', got 'worst'",
    }
    for arguments, error in refused.items():
        assert run("resume", "runs/b", *arguments) == (2, "", f"partune: error: {error}\n")


def test_a_study_may_be_resumed_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With flags that say where; one that says which workers there are takes the place of all that the file says."""
    branin(run)
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
        "partune: error: workers, scheduler and cluster are three ways to have workers: give one\n",
    )
    assert 'unknown argument --wrokers; did you mean "--workers"?' in run("resume", "runs/b", "--wrokers", "2")[2]
    assert "unknown argument --pack" in run("resume", "runs/b", "--pack", "2")[2]


@pytest.mark.slow
def test_a_study_of_one_process_is_continued_by_two(run: Run) -> None:
    branin(run)
    before = json.loads(run("report", "runs/b", "--json")[1])["trials"]
    status, output, _ = run("resume", "runs/b", "--budget", "16", "--workers", "2")
    assert status == 0, output
    found = json.loads(run("report", "runs/b", "--json")[1])
    assert found["trials"][:9] == before
    assert len(found["trials"]) == 16
    assert 0 < found["utilisation"] <= 1


def test_an_unnamed_study_gets_the_next_free_name(run: Run) -> None:
    for number in (1, 2):
        assert run("tune", "--objective", "sphere", "--algorithm", "random", "--budget", "2")[0] == 0
        assert Path(f"runs/sphere-{number}/journal.log").is_file()


def test_a_functions_module_is_found_in_the_current_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(config):\n    return -config['x'] ** 2\n")
    (tmp_path / "space.yaml").write_text("x: {float: [-1, 1]}\n")
    flags = ("--objective", "mine:f", "--space", "space.yaml", "--algorithm", "soo", "--budget", "5")
    status, output, _ = run("tune", *flags)
    assert status == 0, output
    (tmp_path / "space.yaml").unlink()  # the study has its own copy
    assert run("resume", "runs/mine-f-1", "--budget", "7")[0] == 0
    assert run("tune", "--objective", "mine:f")[2].startswith("partune: error: objective mine:f needs a space")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "--bugdet", "3"), 'unknown argument --bugdet; did you mean "--budget"?'),
        (("tune",), "model is missing: give --model"),
        (("tune", "--objective", "brannin"), 'no objective "brannin"; did you mean "branin"?'),
        (("tune", "--objective", "branin", "--budget", "0"), "search.budget: input should be greater than 0"),
        (("tune", "--objective", "branin", "--algorithm", "bamso"), 'no algorithm "bamso"; did you mean "bamsoo"?'),
        (("tune", "--objective", "branin", "--space", "lorra"), 'no ready-made space "lorra"; did you mean "lora"?'),
        (("tune", "--objective", "branin", "--name", "../up"), "a name is a plain folder name, got '../up'"),
        (("tune", "--objective", "branin", "--name", ".."), "a name is a plain folder name, got '..'"),
        (("tune", "--objective", "branin", "--name", "/up"), "a name is a plain folder name, got '/up'"),
        (("tune", "--objective", "branin", "--name", ""), "a name is a plain folder name, got ''"),
        (("tune", "nothing.yaml"), "cannot read nothing.yaml: No such file or directory"),
        (("resume", "runs/none"), "no study in runs/none"),
        (("resume", "runs/none", "--budget", "0"), "argument --budget: must be at least 1, got 0"),
        (("report", "runs/none"), "no study in runs/none"),
        (("export", "runs/none", "out"), "no study in runs/none"),
        (("spaces", "lra"), 'no ready-made space "lra"; did you mean "lora"?'),
        (("tnue",), "argument COMMAND: invalid choice"),
    ],
)
def test_bad_input_is_status_2_and_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    status, output, errors = run(*arguments)
    assert status == 2
    assert errors.startswith(f"partune: error: {message}")
    assert errors.count("\n") == 1
    assert output == ""
    assert not Path("runs").exists()  # nothing was begun


def test_an_interrupt_while_loading_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("partune.study.from_config.study", interrupted)
    assert branin(run) == (130, "", "\nInterrupted.\n")


def test_a_study_is_never_overwritten(run: Run) -> None:
    branin(run)
    before = Path("runs/b/journal.log").read_bytes()
    status, _, errors = branin(run)
    assert status == 2
    assert "holds a study already: resume it, or choose another name" in errors
    status, _, errors = branin(run, "--objective", "himmelblau")
    assert status == 2
    assert "a study of a different space" in errors
    assert Path("runs/b/journal.log").read_bytes() == before


def test_an_unwritable_directory_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where the folder would be")
    status, _, errors = branin(run, "--runs", "blocked")
    assert status == 2
    assert errors.startswith("partune: error: cannot write blocked/b: ")


def test_a_study_without_any_result_is_status_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(config):\n    raise RuntimeError('no')\n")
    (tmp_path / "space.yaml").write_text("x: {float: [-1, 1]}\n")
    flags = ("--objective", "broken:f", "--space", "space.yaml", "--algorithm", "random", "--budget", "2")
    status, output, _ = run("tune", *flags)
    assert status == 1
    assert "2 trials (2 failed)" in output


def test_a_study_that_fails_in_the_same_way_again_and_again_stops(run: Run, tmp_path: Path) -> None:
    (tmp_path / "unable.py").write_text("def f(config):\n    raise KeyError('[/INST]')\n")
    (tmp_path / "space.yaml").write_text("x: {float: [-1, 1]}\n")
    flags = ("--objective", "unable:f", "--space", "space.yaml", "--algorithm", "random", "--name", "u")
    status, output, errors = run("tune", *flags)
    assert status == 1
    assert errors == (
        "partune: stopped: 3 trials failed with the same error before any had a score: KeyError: '[/INST]'. "
        "Mend that, and continue: partune resume runs/u\n"
    )
    assert output.count("failed: KeyError") == 3
    status, output, _ = run("report", "runs/u")
    assert "3 of 50 trials have ended (3 failed) by " in output


def test_numbers_that_json_does_not_know_are_null(run: Run, tmp_path: Path) -> None:
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


def test_a_study_from_python_is_continued_there(run: Run, tmp_path: Path) -> None:
    from partune import Float, Space, Study

    space = Space(x=Float(0, 1))
    Study(space, lambda c: float(c["x"]), "random", directory=tmp_path / "runs" / "p").run(2).close()
    assert run("report", "runs/p")[0] == 0
    status, _, errors = run("resume", "runs/p")
    assert status == 2
    assert "continue it there, with Study(..., resume=True)" in errors


def test_spaces_and_algorithms_are_listed(run: Run) -> None:
    assert "lora-article:" in run("spaces")[1]
    assert run("spaces", "lora")[1].splitlines()[1] == "  lora_r: {int: [2, 64], log: true}"
    assert {line.split()[0] for line in run("algorithms")[1].splitlines()} >= {"random", "lhs", "soo", "bo", "bamsoo"}


# ----- flags and the definition


def flags(*arguments: str) -> dict[str, object]:
    parser = Parser()
    add_study(parser)
    return given(parser.parse_args(arguments))


def test_every_field_of_the_definition_has_a_flag_of_its_own() -> None:
    parser = Parser()
    add_study(parser)  # argparse refuses two flags of one name
    dests = {action.dest for action in parser._actions}
    for name, field in config.StudyConfig.model_fields.items():
        section = next(
            (
                each
                for each in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(each, type) and issubclass(each, config.Section)
            ),
            None,
        )
        if section is None:
            assert CONFIG + name in dests or name == "version"
        else:
            assert {f"{CONFIG}{name}.{inner}" for inner in section.model_fields} - {f"{CONFIG}search.options"} <= dests


def test_flags_override_the_file() -> None:
    file = {"model": "file-model", "data": {"path": "d", "max_length": 64}, "validation": {"tasks": ["a"]}}
    given = flags("--max-length", "128", "--task", "b", "--task", "c", "--trust-remote-code", "--keep", "all")
    found = config.parse(config.merged(file, given))
    assert found.model == config.Model(path="file-model", trust_remote_code=True)
    assert found.data == config.Data(path="d", max_length=128)
    assert found.validation == config.Validation(tasks=("b", "c"))
    assert found.run.keep == "all"


def test_the_users_word_for_a_tasks_code_may_be_given_when_a_study_goes_on() -> None:
    recorded = config.parse({"model": "m", "data": "d", "validation": {"tasks": ["t.yaml"], "limit": 9}})
    for command in ("resume", "join"):
        for word, trusts in (("--trust-task-code", True), ("--no-trust-task-code", False)):
            given = build_parser().parse_args([command, "runs/first", word])
            found = studies.moved(recorded, given)
            assert found.validation == config.Validation(tasks=("t.yaml",), limit=9, trust_task_code=trusts)
        assert studies.moved(recorded, build_parser().parse_args([command, "runs/first"])) == recorded


# ----- light


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in done.stdout.splitlines()}


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


@pytest.mark.parametrize("arguments", [["--help"], ["tune", "--help"], ["--version"], ["spaces"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    allowed = {"numpy"} if arguments == ["spaces"] else set()
    code = f"from partune.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
    assert modules_after(code) & HEAVY <= allowed


def test_the_search_half_never_loads_transformers() -> None:
    code = (
        "import partune as pt\n"
        "pt.Study(pt.Space(x=pt.Float(0, 1)), lambda c: c['x'], 'bo', options={'n_init': 2}).run(3)"
    )
    assert not modules_after(code) & {"transformers", "peft", "lm_eval", "datasets"}


def test_all_names_are_there() -> None:
    import partune

    assert all(getattr(partune, name) is not None for name in partune.__all__)
    assert sorted(partune.__all__) == sorted(partune._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'Studdy'"):
        _ = partune.Studdy
