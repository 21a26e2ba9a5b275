"""The record in a database: it resumes as one in a journal does, and no password is ever written or said."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import threading
from pathlib import Path

import optuna
import pytest
import yaml

from partune import Float, Int, Space, Study, UserError
from partune.cli import main
from partune.config import dump, parse
from partune.record import database
from partune.record.place import STORAGE
from partune.record.record import Record
from partune.runtime import urls
from partune.trial.names import Baseline, FreshRun, WinnerScoring
from partune.verdict.winner import fresh_runs
from tests.study.test_study import PLANE, Interrupt, himmelblau, outcomes
from tests.support.postgres import ENCODED, PASSWORD, Server
from tests.support.simulated import SimulatedTuning

pytestmark = pytest.mark.usefixtures("revisions")

SECRETS = (PASSWORD, ENCODED, "s3cr3t")


def silent(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


def without_secrets(directory: Path) -> bool:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return all(silent(path.read_bytes().decode("latin-1")) for path in files)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/all.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "algorithm"),
    [
        *(("sqlite", "bamsoo"), ("postgresql", "soo")),
        *(pytest.param(*each, marks=pytest.mark.thorough) for each in (("sqlite", "soo"), ("postgresql", "bamsoo"))),
    ],
    indirect=["url"],
)
def test_an_interrupted_study_continues_as_the_unbroken_one(algorithm: str, url: str, tmp_path: Path) -> None:
    unbroken = Study(PLANE, himmelblau, algorithm, seed=1).run(13)
    where = tmp_path / "s"
    broken = Study(PLANE, himmelblau, algorithm, seed=1, directory=where, storage=url, watcher=Interrupt(7))
    with pytest.raises(KeyboardInterrupt):
        broken.run(13)
    broken.close()
    resumed = Study(PLANE, himmelblau, algorithm, seed=1, directory=where, storage=url, resume=True)
    assert len(resumed.trials) == 8
    resumed.run(13)
    assert outcomes(resumed) == outcomes(unbroken)
    assert [t.attempts for t in resumed.trials] == [2 if t.number == 7 else 1 for t in resumed.trials]
    resumed.close()
    assert without_secrets(where)


@pytest.mark.slow
def test_anchors_items_and_the_verdict(url: str, tmp_path: Path) -> None:
    space = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))
    study = Study(space, SimulatedTuning(gain=0.4, items=500), "random", directory=tmp_path / "s", storage=url).run(6)
    study.close()
    record = Record.open(tmp_path / "s", read_only=True, storage=url)
    assert {name for name in record.anchors() if not isinstance(name, FreshRun)} == {*Baseline, WinnerScoring.JUDGED}
    runs = fresh_runs(record.anchors(), "defaults")
    assert len({(run.seed, run.order) for run in runs}) == 4
    assert [run.seed for run in runs] == [run.seed for run in fresh_runs(study.anchors, "defaults")]
    assert record.trials() == study.trials
    assert study.verdict is not None
    assert record.items("search", study.best.number)


@pytest.mark.slow
def test_studies_of_one_name_share_a_database(url: str, tmp_path: Path) -> None:
    for parent, budget in (("a", 3), ("b", 5)):
        Study(PLANE, himmelblau, "soo", directory=tmp_path / parent / "first", storage=url).run(budget).close()
    for parent, budget in (("a", 3), ("b", 5)):
        assert len(Record.open(tmp_path / parent / "first", read_only=True, storage=url).trials()) == budget


@pytest.mark.slow
def test_optuna_reads_the_search_as_an_ordinary_study(url: str, tmp_path: Path) -> None:
    study = Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", storage=url).run(5)
    study.close()
    name = json.loads((tmp_path / "s" / STORAGE).read_text())["study"]
    found = optuna.load_study(study_name=f"{name}/search", storage=database.opened(url))
    assert found.best_value == study.best.score
    assert found.best_params == dict(study.best.config)


@pytest.mark.slow
def test_sqlite_refuses_a_second_driver_and_says_why(tmp_path: Path) -> None:
    study = Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", storage=f"sqlite:///{tmp_path}/all.db")
    for options in ({"join": True}, {"resume": True}):
        with pytest.raises(UserError, match="SQLite takes one process at a time, because each write locks its file"):
            Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", **options)  # type: ignore[arg-type]
    study.run(3)


@pytest.mark.slow
def test_postgresql_has_one_leader(postgres: Server, tmp_path: Path) -> None:
    first = Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", storage=postgres.url)
    with pytest.raises(
        UserError, match="is already being run: wait for that run, stop it, or help it with `partune join "
    ):
        Record.open(tmp_path / "s", storage=postgres.url)
    joined = Record.open(tmp_path / "s", storage=postgres.url, join=True)
    assert joined.drivers.led()
    assert joined.drivers.alive(first.record.drivers.name)
    first.close()
    assert not joined.drivers.led()
    assert not joined.drivers.alive(first.record.drivers.name)
    joined.close()
    Record.open(tmp_path / "s", storage=postgres.url).close()


@pytest.mark.slow
def test_turns_exclude_each_other(postgres: Server, tmp_path: Path) -> None:
    Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", storage=postgres.url).close()
    records = [Record.open(tmp_path / "s", storage=postgres.url, join=True) for _ in range(3)]
    inside, most = [], []

    def work(record: Record) -> None:
        for _ in range(20):
            with record.turn(), record.turn():
                inside.append(record)
                most.append(len(inside))
                inside.remove(record)

    threads = [threading.Thread(target=work, args=(each,)) for each in records]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert most == [1] * 60


@pytest.mark.slow
def test_a_broken_connection_is_made_again_but_not_within_a_turn(postgres: Server, tmp_path: Path) -> None:
    study = Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", storage=postgres.url).run(2)
    drivers = study.record.drivers
    assert isinstance(drivers, database.Advisory)

    def break_it() -> None:
        pid = drivers._do("SELECT pg_backend_pid() WHERE :key IS NOT NULL", "any")
        with database.engine_of(database.opened(postgres.url)).connect() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")

    break_it()
    study.run(4)
    assert len(study.trials) == 4
    other = Record.open(tmp_path / "s", storage=postgres.url, join=True)
    assert other.drivers.alive(drivers.name)
    assert other.drivers.led()
    with study.record.turn():
        break_it()
        with pytest.raises(UserError, match="connection to the database broke"):
            drivers.confirm()


# ----- passwords


def tune(tmp_path: Path, url: str, *more: str) -> int:
    flags = ["--objective", "branin", "--algorithm", "soo", "--budget", "4", "--runs", str(tmp_path / "runs")]
    return main(["tune", *flags, "--name", "s", "--storage", url, *more])


@pytest.mark.slow
def test_no_password_is_written_or_said(
    postgres: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    directory = str(tmp_path / "runs" / "s")
    assert tune(tmp_path, postgres.url) == 0
    assert main(["report", directory]) == 2  # no password from anywhere
    assert "no password supplied" in capsys.readouterr().err
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert main(["report", directory]) == 2  # the folder names the host, and its writer may be anybody
    refusal = capsys.readouterr().err
    assert refusal.endswith(f"If you trust the host, repeat the command with `--storage {postgres.public}`\n")
    assert refusal.count("\n") == 1
    assert main(["report", directory, "--json", "--storage", postgres.public]) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 4
    assert main(["resume", directory, "--budget", "6", "--storage", postgres.public]) == 0
    monkeypatch.delenv("PGPASSWORD")
    assert main(["resume", directory, "--budget", "7", "--storage", postgres.url]) == 0
    assert main(["report", directory, "--json", "--storage", postgres.url]) == 0
    assert main(["compare", directory, directory, "--storage", postgres.url]) in (0, 2)
    assert main(["join", directory, "--storage", postgres.url.replace(ENCODED, "s3cr3t-but-wrong")]) == 2
    out, err = capsys.readouterr()
    assert "password authentication failed" in err
    assert silent(out + err)
    assert without_secrets(tmp_path / "runs")
    assert parse({"objective": "branin", "run": {"storage": postgres.url}}).run.storage == postgres.url
    assert json.loads((Path(directory) / STORAGE).read_text())["url"] == postgres.public


@pytest.mark.slow
def test_a_password_file_is_read_by_libpq(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{postgres.port}:*:tuner:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    assert tune(tmp_path, postgres.public) == 0
    assert main(["report", str(tmp_path / "runs" / "s")]) == 0  # by a line for this host


class Stranger:
    """Who says to be a PostgreSQL server, asks for the password, and keeps what he hears."""

    def __init__(self) -> None:
        self.heard, self.hung_up = b"", threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            with contextlib.suppress(OSError), self._socket.accept()[0] as connection:
                connection.settimeout(5)
                while (said := connection.recv(4096))[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):
                    connection.sendall(b"N")  # neither TLS nor GSS here
                connection.sendall(b"R\0\0\0\x08\0\0\0\x03")  # in the clear, please
                self.heard += said + connection.recv(4096)
                self.hung_up.set()


@pytest.fixture
def stranger() -> Stranger:
    pytest.importorskip("psycopg")
    return Stranger()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "command"),
    [
        *(("PGPASSWORD", command) for command in ("report", "resume", "join", "export", "dashboard")),
        *((kind, "report") for kind in ("any host", "another host", "service", "hostaddr")),
    ],
)
def test_no_password_goes_to_a_host_that_a_folder_names(
    kind: str,
    command: str,
    stranger: Stranger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PGPASSWORD", "PGSERVICE", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", storage=f"sqlite:///{tmp_path}/x.db").close()
    (tmp_path / "s" / "study.yaml").write_text("objective: branin\nspace: {x: {float: [0, 1]}}\n")
    url = f"postgresql://tuner@127.0.0.1:{stranger.port}/postgres"
    passfile, pgpass = "", tmp_path / "pgpass"
    if kind == "PGPASSWORD":
        monkeypatch.setenv("PGPASSWORD", "s3cr3t")
    elif kind == "any host":
        passfile = "*:*:*:tuner:s3cr3t\n"
    elif kind == "another host":
        passfile = "db.example.org:*:*:*:s3cr3t\n"
    elif kind == "service":
        (tmp_path / "service").write_text("[mine]\npassword=s3cr3t\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service"))
        monkeypatch.setenv("PGSERVICE", "mine")
    else:  # the user's own host, at the stranger's address
        passfile = "db.example.org:*:*:*:s3cr3t\n"
        url = f"postgresql://tuner@db.example.org:{stranger.port}/postgres?hostaddr=127.0.0.1"
    pgpass.write_text(passfile)
    pgpass.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(pgpass))
    form = {"url": url, "study": "s-0123456789ab"}
    (tmp_path / "s" / STORAGE).write_text(json.dumps(form))
    more = {"export": [str(tmp_path / "out")], "dashboard": ["--port", "0"]}.get(command, [])
    assert main([command, str(tmp_path / "s"), *more]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    stranger.hung_up.wait(10)
    assert b"tuner" in stranger.heard  # a connection was tried
    assert b"s3cr3t" not in stranger.heard
    assert f"repeat the command with `--storage {shlex.quote(url)}`" in err


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", None), ("localhost", "1")])
def test_a_host_that_the_environment_names_is_the_users(
    host: str, port: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", host)
    monkeypatch.setenv("PGPORT", port) if port else monkeypatch.delenv("PGPORT", raising=False)
    asked = f"postgresql://me@{host}:{port or 5432}/db"
    assert database._bare(urls.parsed(asked)) == {}
    assert database._bare(urls.parsed("postgresql://me@elsewhere:5432/db")) != {}
    assert database._bare(urls.parsed(f"{asked}?hostaddr=6.6.6.6")) != {}
    assert database._bare(urls.parsed("postgresql://me@elsewhere/db?sslmode=verify-full")) == {}
    assert database._bare(urls.parsed("postgresql://me@elsewhere/db?sslmode=verify-full&sslrootcert=system")) != {}


def test_the_studys_file_has_no_password() -> None:
    url = "postgresql://me:s3cr3t@host/db?sslmode=require&sslpassword=s3cr3t"
    text = dump(parse({"objective": "branin", "run": {"storage": url}}))
    assert silent(text)
    assert parse(yaml.safe_load(text)).run.storage == "postgresql://me@host/db?sslmode=require"
    assert silent(repr(parse({"objective": "branin", "run": {"storage": url}})))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:s3cr3t@host/db", r"a storage is postgresql://.*, got mysql://"),
        ("nonsense s3cr3t", "the value is not a URL"),
        ("postgresql://me:s3cr3t@host:port/db", "the value is not a URL"),
        ("postgresql://me:s3cr3t@host", "the URL names no database"),
        ("postgresql://me:s3cr3t@x@host/db", "must be percent-encoded"),
        ("postgresql://me:s@s3cr3t/x@host/db", "must be percent-encoded"),
        ("postgresql://me:s?@s3cr3t/x@host/db", "must be percent-encoded"),
        ("postgresql://me@corp:s3cr3t@host/db", "must be percent-encoded"),
        ("postgresql://me/s3cr3t:x@host/db", "must be percent-encoded"),
        ("sqlite://", "got sqlite://"),
        ("sqlite:////nowhere/s3cr3t-not/x.db", "unable to open database file"),
        ("postgresql://me:s3cr3t@127.0.0.1:1/db", "127.0.0.1.*port 1"),
        ("postgresql://me:s3cr3t@127.0.0.1:1/db?nonsense=s3cr3t", "nonsense"),
    ],
)
def test_bad_urls_are_one_line_before_any_work(
    url: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg")
    objective = SimulatedTuning()
    space = Space(learning_rate=Float(1e-6, 1e-2, log=True))
    with pytest.raises(UserError, match=message) as refused:
        Study(space, objective, "random", directory=tmp_path / "s", storage=url)
    assert "\n" not in str(refused.value)
    assert objective.calls == []
    assert list(tmp_path.iterdir()) == []
    assert tune(tmp_path, url) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    if "not" not in url and "nonsense=" not in url:
        assert silent(out + err)
    assert not (tmp_path / "runs" / "s").exists()


# ----- the file that names the storage
