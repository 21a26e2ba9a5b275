"""Show a study's record in Optuna's dashboard, read-only.

`View` presents the record as an Optuna study, and follows it while the study runs. `guarded` protects the dashboard: it
answers only browsers on this machine, refuses to write, and keeps the pages of other sites from reading it.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import threading
import time
import webbrowser
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from socket import AF_INET6
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from partune.errors import UserError
from partune.record.forms import state
from partune.record.record import Record
from partune.report import sentences, words
from partune.report.facts import Facts
from partune.report.files import PATIENCE, news
from partune.report.markdown import escaped
from partune.runtime import extras, urls
from partune.runtime.markdown import plain
from partune.runtime.network import LOOPBACK, is_loopback
from partune.space.distributions import distribution
from partune.trial import Status, Trial
from partune.trial.names import ItemSet, ResultName, rung_scores

if TYPE_CHECKING:
    from datetime import datetime

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

STUDY = 1  # the study's id in the dashboard
PAGE = f"/dashboard/studies/{STUDY}"
PORT = 8080  # the default; if it is taken, a free port is used
NOTE, NOTE_PART = "dashboard:note_ver", "dashboard:note_str:"  # attributes in which the dashboard keeps a study's note
FRESH = 2.0  # a record is not read again until this many seconds have passed
READ_ONLY = "partune's dashboard shows a study's record and changes nothing in it"

HEADERS = {
    # The security policy that Optuna's dashboard sets for its page, but here for every answer, and without frames. The
    # plot of parallel coordinates needs 'unsafe-eval'.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; connect-src 'self'; "
    "style-src 'self' data: 'unsafe-inline'; script-src 'self' 'unsafe-eval'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class View(BaseStorage):
    """Read-only Optuna storage with one study, which has the name of the record's directory.

    The best trial is the study's winner, which need not have the best score (`partune.verdict.winner`).
    """

    def __init__(self, directory: Path, storage: str | None = None) -> None:
        """Read the record.

        Args:
            directory: The study's directory.
            storage: The URL of the study's database, if it needs a password or has moved; None for the URL on record.

        Raises:
            UserError: There is no study in the directory, or it cannot be read.
        """
        self._directory = directory
        self._url = storage
        self._record: Record | None = None
        self._news: object = None
        self._due = 0.0
        self._reading = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Read the record again if the last reading is old enough.

        The time until the next reading is a multiple of the time that this reading took, so that even a long study
        takes little of the machine's time.

        Raises:
            UserError: The record cannot be read.
        """
        if time.monotonic() < self._due or not self._reading.acquire(blocking=False):
            return
        try:
            began = time.monotonic()
            self._read()
            self._due = time.monotonic() + max(FRESH, PATIENCE * (time.monotonic() - began))
        finally:
            self._reading.release()

    def _read(self) -> None:
        # A database answers with its newest content. A journal must be read again.
        if self._record is None or self._record.url is None:
            self._record = Record.open(self._directory, read_only=True, storage=self._url)
        with self._record.guarded():
            latest = news(self._record)
            if latest == self._news:
                return
            facts, times = Facts(self._record), self._record.times()
            winner = facts.winner
            self._study = FrozenStudy(
                study_name=facts.name,
                direction=StudyDirection.MAXIMIZE,
                user_attrs={
                    "algorithm": facts.header["algorithm"],
                    "seed": facts.header["seed"],
                    "budget": facts.budget,
                },
                system_attrs={"study:metric_names": [facts.goal.axis], NOTE: 1, f"{NOTE_PART}0": _note(facts)},
                study_id=STUDY,
            )
            self._trials = [_frozen(trial, facts, self._record, *times[trial.number]) for trial in facts.trials]
            self._winner = None if winner is None else winner.number
        self._news = latest

    # ----- the methods that Optuna calls

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the one study."""
        return [copy.deepcopy(self._study)]

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the study's id; raise KeyError for another name."""
        if study_name != self._study.study_name:
            raise KeyError(study_name)
        return STUDY

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the study's name."""
        return self._known(study_id).study_name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the direction, which is to maximise."""
        return self._known(study_id).directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the study's algorithm, seed and budget."""
        return copy.deepcopy(self._known(study_id).user_attrs)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the study's note, and the name of the value that its trials have."""
        return copy.deepcopy(self._known(study_id).system_attrs)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial; raise KeyError if it does not exist."""
        if not 0 <= trial_id < len(self._trials):
            raise KeyError(trial_id)
        return copy.deepcopy(self._trials[trial_id])

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials.

        Args:
            study_id: The study's id.
            deepcopy: Whether to return copies.
            states: The states whose trials are returned; None for all.
        """
        self._known(study_id)
        chosen = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the winner; raise ValueError while no trial is done."""
        self._known(study_id)
        if self._winner is None:
            raise ValueError("no trial is done yet")
        return self.get_trial(self._winner)

    def _known(self, study_id: int) -> FrozenStudy:
        if study_id != STUDY:
            raise KeyError(study_id)
        return self._study

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UserError(READ_ONLY)

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = _refuse
    create_new_trial = set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


def _note(facts: Facts) -> str:
    """Return the study's note as Markdown: verdict, remarks, winner and baselines, in the report's words."""
    parts = [f"**{plain(sentences.headline(facts))}**", *map(plain, sentences.remarks(facts))]
    if facts.winner is not None:
        parts.append(plain(f"Trial {facts.winner.number}: {words.settings(facts.winner.config)}."))
    if facts.scored:
        parts.append(escaped(*sentences.standing(facts)))
    return "\n\n".join(parts)


def _frozen(trial: Trial, facts: Facts, record: Record, start: datetime | None, end: datetime | None) -> FrozenTrial:
    """Return a trial in Optuna's form. Scores at rungs become intermediate values, the rest becomes attributes."""
    scores = {} if trial.observation is None or trial.status is Status.FAILED else trial.observation.scores
    hyperparameters = facts.space.hyperparameters
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=state(trial.status),
        value=scores.get("score"),
        datetime_start=start,
        datetime_complete=end,
        params=dict(trial.config),
        distributions={name: distribution(hyperparameters[name]) for name in trial.config},
        user_attrs={name: value for name, value in _attributes(trial, facts, record) if value is not None},
        system_attrs={},
        intermediate_values=rung_scores(scores),
    )


def _attributes(trial: Trial, facts: Facts, record: Record) -> Iterator[tuple[str, Any]]:
    """Yield a trial's attributes, named as in `partune report --json`; a value is None if it is not known."""
    row = facts.summary["trials"][trial.number]
    again = facts.again.get(trial.number, [])
    yield "stderr", row["stderr"]
    yield "phase", "start" if trial.number < facts.n_init else "search"
    scores = [
        facts.goal.score(run.score, run.observation.stderr)
        if run.status is Status.DONE and run.observation is not None
        else "failed"
        for run in again
    ]
    yield "again", ", ".join(scores) or None  # scores of the runs with fresh seeds
    for task, test in row["test"].items():
        goal = facts.goal_on(task)
        result = ResultName(ItemSet.TEST, task, goal.label)
        yield str(result), goal.shown(test["score"])
        yield result.stderr, test["stderr"]
    cost = {} if trial.observation is None else trial.observation.cost
    for name in ("seconds", "train_seconds", "score_seconds"):
        yield name, cost.get(name)
    yield "fidelity", row["fidelity"] if trial.status is Status.STOPPED else None
    yield "attempts", trial.attempts if trial.attempts > 1 else None
    yield "seed", str(trial.seed)  # a text, because the dashboard would draw a number on an axis
    yield "error", row["error"]
    if record.directory is not None and (folder := record.adapter(trial.number)).is_dir():
        yield "adapter", str(folder)


# ----- the web server


def guarded(dashboard: WSGIApplication, view: View) -> WSGIApplication:
    """Return an application that refreshes the view and lets only read requests from this machine through.

    Args:
        dashboard: Optuna's dashboard.
        view: The study that the dashboard shows.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        page = environ["PATH_INFO"].startswith("/dashboard")
        ours = {*HEADERS, "Content-Length", "Last-Modified"} if page else {*HEADERS}

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [(name, value) for name, value in headers if name.title() not in ours]
            return start_response(status, [*kept, *HEADERS.items()], *rest)

        def refuse(status: str, reason: str) -> list[bytes]:
            start(status, [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
            return [json.dumps({"reason": reason}).encode()]

        # This check stops DNS rebinding, in which the name of another site resolves to this address.
        if not _is_here(environ.get("HTTP_HOST", "")):
            return refuse(
                "421 Misdirected Request", "the dashboard answers only at a loopback address, such as 127.0.0.1"
            )
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refuse("405 Method Not Allowed", READ_ONLY)
        try:
            view.refresh()
        except UserError as error:
            return refuse("503 Service Unavailable", urls.masked(str(error)))
        answered = dashboard(environ, start)
        return _styled(answered) if page else answered

    return answer


def _styled(page: Iterable[bytes]) -> list[bytes]:
    """Return the dashboard's page with partune's stylesheet added."""
    style = Path(__file__).with_suffix(".css").read_bytes()
    text = b"".join(page)
    if hasattr(page, "close"):
        page.close()
    return [text.replace(b"</head>", b"<style>%b</style></head>" % style)]


def _is_here(host: str) -> bool:
    """Return whether a request's Host is a loopback address. Its port does not matter: a tunnel may use another."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


class Server(ThreadingMixIn, WSGIServer):
    """The server of wsgiref with a thread per request."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind to the address. Unlike wsgiref, do not look its name up, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    @property
    def url(self) -> str:
        """The URL of the study's page."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}{PAGE}"


class ServerV6(Server):
    """Server at an IPv6 address."""

    address_family = AF_INET6


class Handler(WSGIRequestHandler):
    """Request handler that prints nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing, to keep the terminal free for the user."""


def server(directory: Path, host: str = LOOPBACK, port: int | None = None, storage: str | None = None) -> Server:
    """Return a server of a study's dashboard, which is bound to its port but not serving yet.

    Args:
        directory: The study's directory.
        host: The loopback address to listen at.
        port: The port, 0 for any free one; None for the default port, or any free one if the default is taken.
        storage: The URL of the study's database, if it needs a password or has moved; None for the URL on record.

    Raises:
        UserError: The dashboard is not installed, the address is not a loopback address or is taken, or there is no
            study.
    """
    if not is_loopback(host):
        tunnel = f"ssh -L {port or PORT}:{LOOPBACK}:{port or PORT} HOST"
        raise UserError(
            f"{host} is not an address of this machine only, so others could read the study: leave out `--host`, and "
            f"connect from another machine with `{tunnel}`"
        )
    try:
        import optuna_dashboard
    except ImportError as error:
        raise UserError(
            f"the dashboard needs optuna-dashboard: install it with `{extras.install_command('dashboard')}` ({error})"
        ) from None
    view = View(directory, storage)
    app = guarded(optuna_dashboard.wsgi(view), view)
    kind = ServerV6 if ":" in host else Server
    for chosen in (PORT, 0) if port is None else (port,):
        try:
            return make_server(host, chosen, app, kind, Handler)
        except OSError as error:
            refusal = error
    raise UserError(f"cannot listen at {host}, port {port}: {refusal.strerror or refusal}")


def opens(url: str) -> bool:
    """Open a URL in a browser, and return whether that worked. Without a graphical desktop, open nothing."""
    windows = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    return bool(windows) and webbrowser.open(url)
