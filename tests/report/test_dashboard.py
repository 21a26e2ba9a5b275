"""Optuna's dashboard over a record: it shows what the record says, writes nothing, and asks nobody else."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from partune import Study, UserError
from partune.cli import main
from partune.record.place import JOURNAL
from partune.record.record import Record
from partune.report import dashboard
from partune.report.dashboard import STUDY, View, guarded, opens, server
from partune.report.summary import summarise
from partune.runtime.extras import install_command
from partune.runtime.network import LOOPBACK
from partune.trial import Config, Observation, Status
from tests.support import studies
from tests.support.browser import NEEDED, Tab
from tests.support.postgres import PASSWORD
from tests.support.studies import HOSTILE, PLANE
from tests.support.waiting import PATIENCE, killed

optuna_dashboard = pytest.importorskip("optuna_dashboard", reason="pip install -e '.[dashboard]'")


def stopping(config: Config) -> Observation:
    """Half of the trials end at their first rung."""
    score = float(config["x"])
    rungs = {"rung/0": score / 2, "rung/1": score}
    if score > 0:
        return Observation({"score": score, **rungs})
    return Observation({"score": score / 2, "rung/0": score / 2}, status=Status.STOPPED, fidelity=0.5)


MORE: dict[str, Callable[[Path], Study]] = {
    "stopped": lambda folder: Study(PLANE, stopping, "sobol", directory=folder / "stopped").run(8)
}
MADE = {**{name: studies.STUDIES[name] for name in ("tuned", "conditional", "failed", "empty")}, **MORE}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, make in MADE.items():
        study = make(tmp_path_factory.mktemp("studies"))
        study.close()
        assert study.record.directory is not None
        found[name] = study.record.directory
    return found


@pytest.fixture(autouse=True)
def _always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "FRESH", 0.0)
    monkeypatch.setattr(dashboard, "PATIENCE", 0)


@contextlib.contextmanager
def serving(directory: Path, host: str = LOOPBACK, storage: str | None = None) -> Iterator[str]:
    with server(directory, host, 0, storage) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        try:
            yield found.url
        finally:
            found.shutdown()
            thread.join()


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# ----- what is shown


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_the_view_is_what_optuna_itself_reads_in_the_journal(directories: dict[str, Path], name: str) -> None:
    journal = JournalStorage(JournalFileBackend(str(directories[name] / JOURNAL)))
    expected = optuna.load_study(study_name="search", storage=journal).get_trials()
    view = View(directories[name])
    found = optuna.load_study(study_name=directories[name].name, storage=view).get_trials()
    assert [each.state for each in found] == [each.state for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.number, ours.values, ours.params) == (theirs.number, theirs.values, theirs.params)
        assert ours.distributions == theirs.distributions
        assert (ours.datetime_start, ours.datetime_complete) == (theirs.datetime_start, theirs.datetime_complete)
        assert view.get_trial(view.get_trial_id_from_study_id_trial_number(STUDY, ours.number)) == ours


@pytest.mark.parametrize("name", MADE)
def test_attributes_and_winner_are_those_of_the_report(directories: dict[str, Path], name: str) -> None:
    record = Record.open(directories[name], read_only=True)
    summary = summarise(record)
    view = View(directories[name])
    for frozen, row in zip(view.get_all_trials(STUDY), summary["trials"], strict=True):
        attributes = frozen.user_attrs
        assert attributes.get("stderr") == row["stderr"]
        assert attributes.get("seconds") == row["seconds"]
        assert attributes.get("error") == row["error"]
        assert {key for key in attributes if re.fullmatch(r"test/\w+(?<!_stderr)", key)} == {
            f"test/{task}" for task in row["test"]
        }
        assert attributes.get("adapter") in (None, str(record.adapter(frozen.number)))
        assert attributes.get("fidelity") == (row["fidelity"] if row["status"] == "stopped" else None)
    note = view.get_study_system_attrs(STUDY)["dashboard:note_str:0"]
    if summary["best"] is None:
        with pytest.raises(ValueError):
            view.get_best_trial(STUDY)
    else:
        assert view.get_best_trial(STUDY).number == summary["best"]["trial"]
        assert ("| base |" in note) == (summary["base"] is not None)


def test_phases_adapters_confirmations_and_rungs_are_told(directories: dict[str, Path]) -> None:
    tuned = View(directories["tuned"]).get_all_trials(STUDY)
    assert {each.user_attrs["phase"] for each in tuned} == {"start", "search"}
    assert sum("again" in each.user_attrs for each in tuned) == 3
    assert [Path(each.user_attrs["adapter"]).is_dir() for each in tuned if "adapter" in each.user_attrs] == [True]
    for each in View(directories["stopped"]).get_all_trials(STUDY):
        x = each.params["x"]
        assert each.intermediate_values == ({0: x / 2, 1: x} if x > 0 else {0: x / 2})


def test_a_running_study_is_followed(tmp_path: Path) -> None:
    """Each trial sees those before it as complete, and itself as running."""
    seen: list[list[str]] = []

    def objective(config: Config) -> float:
        view.refresh()
        seen.append([each.state.name for each in view.get_all_trials(STUDY)])
        return float(config["x"])

    study = Study(PLANE, objective, "lhs", directory=tmp_path / "live")
    view = View(tmp_path / "live")
    study.run(3)
    study.close()
    assert seen == [["RUNNING"], ["COMPLETE", "RUNNING"], ["COMPLETE", "COMPLETE", "RUNNING"]]
    view.refresh()
    assert [each.state.name for each in view.get_all_trials(STUDY)] == ["COMPLETE"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_is_shown_and_followed_too(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'db'}" if kind == "sqlite" else request.getfixturevalue("postgres").url
    study = Study(PLANE, studies.hill, "lhs", directory=tmp_path / "first", storage=url).run(3)
    assert View(tmp_path / "first", url).get_best_trial(STUDY).values == [study.best.score]
    with serving(tmp_path / "first", storage=url) as page:
        study.run(4)
        with urllib.request.urlopen(page.replace("/dashboard/", "/api/"), timeout=PATIENCE) as answer:
            shown = answer.read().decode()
    assert [each["values"] for each in json.loads(shown)["trials"]] == [[each.score] for each in study.trials]
    assert PASSWORD not in shown
    study.close()


def test_reading_takes_little_of_the_machine(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "FRESH", 60.0)
    read: list[Path] = []
    opened = Record.open
    monkeypatch.setattr(Record, "open", lambda *args, **options: read.append(args[0]) or opened(*args, **options))
    view = View(directories["empty"])
    view.refresh()
    assert read == [directories["empty"]]


# ----- what is refused


def ask(app: Any, path: str, method: str = "GET", host: str = "127.0.0.1:8080") -> tuple[str, dict[str, str], bytes]:
    environ: dict[str, Any] = {"wsgi.errors": io.StringIO()}
    setup_testing_defaults(environ)
    path, _, query = path.partition("?")
    environ |= {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": method, "HTTP_HOST": host}
    environ |= {"CONTENT_TYPE": "application/json", "wsgi.input": io.BytesIO(b"{}"), "CONTENT_LENGTH": "2"}
    environ |= {"HTTP_ACCEPT_ENCODING": "gzip"}
    answered: list[Any] = []
    body = app(environ, lambda status, headers, *_: answered.extend((status, dict(headers))))
    return answered[0], answered[1], b"".join(body)


def test_the_storage_cannot_be_written(directories: dict[str, Path]) -> None:
    view = View(directories["conditional"])
    writing = {name for name in BaseStorage.__abstractmethods__ if re.match("create|delete|set", name)}
    assert len(writing) >= 10
    for name in writing:
        with pytest.raises(UserError, match="changes nothing"):
            getattr(view, name)(STUDY, "key", "value")


@pytest.mark.slow
def test_no_request_changes_the_record(directories: dict[str, Path]) -> None:
    """Over every route that the dashboard has."""
    directory = directories["tuned"]
    before = contents(directory)
    view = View(directory)
    inner = optuna_dashboard.wsgi(view)
    app = guarded(inner, view)
    methods = set()
    for route in inner.routes:
        path = re.sub(r"<:re:.*>", "", route.rule)
        path = re.sub(r"<plot_type>", "slice", re.sub(r"<filename:path>", "bundle.js", path))
        path = re.sub(r"<[^>]*>", str(STUDY), path)
        status, headers, body = ask(app, path, route.method)
        methods.add(route.method)
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        if route.method == "GET":
            assert status[0] in "234"
        else:
            assert status.startswith("405")
            assert "changes nothing" in json.loads(body)["reason"]
    assert methods >= {"GET", "POST", "PUT", "DELETE"}
    assert contents(directory) == before


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:9", "[::1]:8080", "127.0.0.1"])
def test_this_machine_is_answered(directories: dict[str, Path], host: str) -> None:
    view = View(directories["empty"])
    status, _, body = ask(guarded(optuna_dashboard.wsgi(view), view), "/api/studies", host=host)
    assert status.startswith("200")
    assert [each["study_name"] for each in json.loads(body)["study_summaries"]] == ["empty"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", "192.168.1.2:8080", "", "[::1", "a@b"])
def test_a_name_that_another_gave_this_address_is_not(directories: dict[str, Path], host: str) -> None:
    view = View(directories["empty"])
    status, _, body = ask(guarded(optuna_dashboard.wsgi(view), view), "/api/studies", host=host)
    assert status.startswith("421")
    assert b"empty" not in body


def test_a_record_that_has_gone_is_one_line(tmp_path: Path) -> None:
    Study(PLANE, studies.hill, "lhs", directory=tmp_path / "gone").run(1).close()
    view = View(tmp_path / "gone")
    app = guarded(optuna_dashboard.wsgi(view), view)
    shutil.rmtree(tmp_path / "gone")
    status, _, body = ask(app, "/api/studies")
    assert status.startswith("503")
    assert "no study in" in json.loads(body)["reason"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_other_machines_are_not_let_in(directories: dict[str, Path], host: str) -> None:
    with pytest.raises(UserError, match="from another machine with `ssh -L 8080"):
        server(directories["empty"], host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_it_listens_and_names_where(directories: dict[str, Path], host: str) -> None:
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 on this machine")
    with serving(directories["empty"], host) as url, urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        assert b"</style></head>" in answer.read()


def test_a_port_that_is_taken(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with server(directories["empty"], port=0) as first:
        taken = first.server_port
        with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1, port {taken}: Address already in use"):
            server(directories["empty"], port=taken)
        monkeypatch.setattr(dashboard, "PORT", taken)
        with server(directories["empty"]) as second:
            assert second.server_port not in (0, taken)


def test_without_the_extra(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UserError, match=re.escape(install_command("dashboard"))):
        server(directories["empty"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs/none"], "no study in runs/none"),
        (["{empty}", "--port", "65536"], "must be between 0 and 65535"),
        (["{empty}", "--host", "0.0.0.0"], "0.0.0.0 is not an address of this machine only"),
        (["{folder}"], "journal.log is missing"),
    ],
)
def test_bad_input_is_one_line(
    directories: dict[str, Path], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"empty": directories["empty"], "folder": directories["empty"].parent}
    assert main(["dashboard", *(each.format(**places) for each in arguments)]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    assert said in errors


# ----- the command


def test_a_browser_is_opened_where_there_is_one_with_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: asked.append(url) or True)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not opens("http://127.0.0.1/")
    monkeypatch.setenv("DISPLAY", ":0")
    assert opens("http://127.0.0.1/")
    assert asked == ["http://127.0.0.1/"]


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(directories: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "partune", "dashboard", str(directories["stopped"]), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process, killed(process):
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert found, first
        with urllib.request.urlopen(f"{found[0]}/api/studies/{STUDY}", timeout=PATIENCE) as answer:
            assert len(json.load(answer)["trials"]) == 8
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 130
        assert process.stderr.read() == "\nInterrupted.\n"


# ----- in a browser

PAGES = ["", "/analytics", "/trials", "/smartSelection", "/note"]
LOOKS = [
    (width, scheme, background)
    for width in (1280, 390)
    for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 18, 18)"))
]
WRITING = ", ".join(
    f"button:has([data-testid={icon}Icon])" for icon in ("Edit", "Delete", "DriveFileRenameOutline", "AddBox")
)
QUIET = re.compile(r"warning: \[\.WebGL")  # what a software renderer says of itself
SPOKEN = "main :is(h4, h5, h6, p, td, th):not(:empty)"


@pytest.fixture
def served(directories: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a study's page."""
    with serving(directories[request.param]) as url:
        yield url


@pytest.mark.slow
@NEEDED
@pytest.mark.parametrize(
    ("served", "looks"),
    [("tuned", LOOKS[1:3]), pytest.param("conditional", LOOKS[::3], marks=pytest.mark.thorough)],
    indirect=["served"],
)
def test_every_page_is_quiet_and_fits(tab: Tab, served: str, looks: list[tuple[int, str, str]]) -> None:
    """No complaint, no request to anywhere else, nothing beyond the window's edge, readable; wide and narrow, both
    schemes; nothing to write with; hostile names are text."""
    tab.logged.clear()
    tab.asked.clear()
    root = served.partition("/dashboard")[0]
    text, writing = "", 0
    for url in (f"{root}/dashboard", *(f"{served}{page}" for page in PAGES)):
        tab.page.goto(url)
        tab.page.wait_for_load_state("networkidle")
        tab.page.wait_for_selector("main", timeout=30_000)
        for width, scheme, background in looks:
            tab.page.set_viewport_size({"width": width, "height": 900})
            tab.page.emulate_media(color_scheme=scheme)
            tab.page.wait_for_function(f"getComputedStyle(document.body).backgroundColor === '{background}'")
            tab.page.wait_for_timeout(100)
            assert tab.page.evaluate("document.documentElement.scrollWidth") == width, (url, width)
            assert tab.contrast(SPOKEN) >= 4.5, (url, scheme)
        text += tab.page.locator("body").inner_text()
        found = tab.page.locator(WRITING).all()
        writing += len(found)
        assert not any(each.is_visible() for each in found), url
    assert writing == 5  # three at the study's name, one at each kind of note
    assert ("tuned<script>window.pwned = 1" in text) or (f"kind{HOSTILE}" in text and f"sgd{HOSTILE}" in text)
    assert ("the winner, is better than the untouched base model" in text) == ("tuned" in text)
    assert tab.page.evaluate("window.pwned") is None
    assert [line for line in tab.logged if not QUIET.match(line)] == []
    assert [url for url in tab.asked if not url.startswith((f"{root}/", "data:", "blob:"))] == []
