"""A PostgreSQL server of the tests' own, on a free port of the loopback; tests skip where none is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

PASSWORD = "s3cr3t/p@ss"
ENCODED = "s3cr3t%2Fp%40ss"


@dataclass(frozen=True)
class Server:
    """url: with the password; public: without it, as records and messages show it."""

    port: int

    @property
    def url(self) -> str:
        return f"postgresql://tuner:{ENCODED}@127.0.0.1:{self.port}/postgres"

    @property
    def public(self) -> str:
        return f"postgresql://tuner@127.0.0.1:{self.port}/postgres"


def programs() -> Path | None:
    """The folder of initdb and postgres; the newest version's where several are installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: float(each.parts[-3]))
    return installed[-1].parent if installed else None


def account() -> dict[str, object]:
    """Who runs the server: PostgreSQL refuses to run as root. Skips where there is nobody else to be."""
    if os.geteuid() != 0:
        return {}
    try:
        return {"user": "postgres", "group": pwd.getpwnam("postgres").pw_gid, "extra_groups": []}
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")


@pytest.fixture(scope="session")
def revisions() -> Iterator[None]:
    """Load the revisions of Optuna's tables once, ten scripts that every database would load anew when it is opened."""
    from optuna.storages._rdb.storage import _VersionManager

    load, loaded = _VersionManager._create_alembic_script, []

    def once(manager: _VersionManager) -> object:
        if not loaded:
            loaded.append(load(manager))
        return loaded[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "_create_alembic_script", once)
        yield


@pytest.fixture(scope="session")
def postgres(revisions: None) -> Iterator[Server]:
    pytest.importorskip("psycopg")
    if (folder := programs()) is None:
        pytest.skip("PostgreSQL is not installed")
    who = account()
    root = Path(tempfile.mkdtemp(prefix="partune-pg-"))
    (root / "password").write_text(PASSWORD)
    if who:
        for each in (root, root / "password"):
            shutil.chown(each, str(who["user"]))
    try:
        options = ["-U", "tuner", "--auth=scram-sha-256", f"--pwfile={root / 'password'}", "--no-sync", "-E", "UTF8"]
        made = subprocess.run(
            [folder / "initdb", "-D", root / "data", *options], cwd=root, capture_output=True, text=True, **who
        )
        if made.returncode:
            pytest.fail(f"initdb does not run here: {made.stderr.strip()}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": root, "fsync": "off"}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (root / "log").open("wb") as log:
            server = subprocess.Popen(
                [folder / "postgres", "-D", root / "data", *arguments], cwd=root, stderr=log, **who
            )
        try:
            await_port(port, server)
            yield Server(port)
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown: sessions are ended
            server.wait(PATIENCE)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def await_port(port: int, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user=tuner dbname=postgres", password=PASSWORD).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("PostgreSQL is installed and does not start")
