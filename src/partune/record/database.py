"""The record in a database: PostgreSQL for any number of drivers, SQLite for one; passwords stay out of sight.

A password comes with the URL each time, or from where libpq looks for it (PGPASSWORD, ~/.pgpass). It is never written,
and no message holds it. Anybody may have written the host's name into a study's folder: passwords that libpq finds by
itself therefore go only to hosts that the user named.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shlex
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partune.errors import UserError
from partune.record.drivers import Drivers
from partune.runtime import extras
from partune.runtime.urls import masked, parsed, public

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import URL, Connection, Engine

WAIT = 10  # seconds for a connection
KEEPALIVE = 10  # seconds of silence after which the other end is asked for a sign of life; after three it is dead


def opened(url: str, create: bool = True, named: bool = True) -> BaseStorage:
    """Return Optuna's storage at a URL.

    Args:
        url: The URL of the database.
        create: Whether to create tables that are missing.
        named: Whether the user named the host, and not a file that anybody may have written.

    Raises:
        UserError: The database does not exist, or cannot be reached.
    """
    from optuna.storages import RDBStorage, get_storage

    from partune.space.distributions import quiet

    where = parsed(url)
    sqlite = where.drivername == "sqlite"
    options: dict[str, Any] = {"timeout": 3 * WAIT} if sqlite else {**_libpq(where), **({} if named else _bare(where))}
    if not sqlite:
        _require_psycopg()
    elif not create and not Path(str(where.database)).is_file():
        raise UserError(f"there is no file {where.database}")
    with guarded(url, named), quiet():
        engine = {"connect_args": options, "pool_pre_ping": True}
        text = where.render_as_string(hide_password=False)
        return get_storage(RDBStorage(text, engine_kwargs=engine, skip_table_creation=not create))


def engine_of(storage: BaseStorage) -> Engine:
    """Return the SQLAlchemy engine of a storage that `opened` returned."""
    engine: Engine = storage._backend.engine  # type: ignore[attr-defined]
    return engine


@contextmanager
def guarded(url: str, named: bool = True) -> Iterator[None]:
    """Turn an error of a database within the context into a UserError of one line.

    Args:
        url: The URL of the database.
        named: Whether the user named the host. Where the user did not, the message says how to.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        advice = "" if named else _advice(parsed(url), public(url))
        raise UserError(f"{public(url)}: {_reason(cause, parsed(url).password)}{advice}") from None


def _reason(error: BaseException, password: object) -> str:
    """Return what a database said, in one line without the password."""
    message = " ".join(str(getattr(error, "orig", None) or error).split())
    if password:
        message = message.replace(str(password), "***")
    return masked(message)


def _libpq(where: URL) -> dict[str, Any]:
    """Return libpq's options for time limits, but for those that the URL sets."""
    # Without them a driver would wait for hours when its server's machine has lost power: no packet says so.
    limits = {
        "connect_timeout": WAIT,
        "keepalives_idle": KEEPALIVE,
        "keepalives_interval": KEEPALIVE,
        "keepalives_count": 3,
    }
    return {name: value for name, value in limits.items() if name not in where.query}


def _bare(where: URL) -> dict[str, Any]:
    """Return the options by which libpq offers a host no password that it finds by itself.

    They are empty where the user named the host in another way: in PGHOST, by leaving the host to libpq, or by trusting
    whoever vouches for its certificate. A host that the password file names gets that file's password only.
    """
    query = where.query
    host, port = where.host, str(where.port or 5432)
    if not {"host", "hostaddr", "port", "service"} & query.keys():
        if host is None or (host, port) == (os.environ.get("PGHOST"), os.environ.get("PGPORT", "5432")):
            return {}
        # "system" trusts any public authority, and anybody can have a certificate of such a one for a host of theirs.
        own_authority = "sslrootcert" not in query and os.environ.get("PGSSLROOTCERT") != "system"
        if query.get("sslmode") == "verify-full" and own_authority:
            return {}
        if host in _password_file_hosts() and "passfile" not in query:
            return {"password": where.password or ""}
    delegation = {"gssdelegation": "0"} if "gssdelegation" in query else {}
    # An empty password keeps libpq from PGPASSWORD. An empty passfile would mean ~/.pgpass; below a file there is none.
    return {"password": where.password or "", "passfile": str(Path(os.devnull) / "none"), **delegation}


def _password_file() -> Path:
    return Path(os.environ.get("PGPASSFILE") or "~/.pgpass").expanduser()


def _password_file_hosts() -> set[str]:
    """Return the hosts that the user's password file names; its lines for any host (*) do not count."""
    try:
        lines = _password_file().read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, RuntimeError):  # no such file, or no home
        return set()
    return {line.partition(":")[0] for line in lines if not line.startswith(("#", "*"))} - {""}


def _advice(where: URL, shown: str) -> str:
    """Return the end of a message that helps where a password was kept back; empty where none was."""
    try:
        kept_back = "PGPASSWORD" in os.environ or "PGSERVICE" in os.environ or _password_file().is_file()
    except RuntimeError:
        kept_back = False
    if where.drivername == "sqlite" or not kept_back or "passfile" not in _bare(where):
        return ""
    return (
        ". No password of yours was sent, as the study's folder names this host, and you did not: where you trust it, "
        f"repeat the command with --storage {shlex.quote(shown)}"
    )


def _require_psycopg() -> None:
    try:
        importlib.import_module("psycopg")
    except ImportError as error:  # also where psycopg misses a library of its own
        raise UserError(f"PostgreSQL needs psycopg: {extras.install_command('postgresql')} ({error})") from None


class Advisory(Drivers):
    """Drivers that know of each other by PostgreSQL's advisory locks, which end with the connection that holds them.

    A connection pooler in between must keep a session's connection (PgBouncer: pool_mode = session).

    Args:
        engine: SQLAlchemy's, of the database.
        study: The study's name in the database.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        super().__init__()
        self._engine = engine
        self._study = study
        self._leads = False
        self._lost = False  # whether the turn's connection broke
        self._enter()

    def lead(self) -> bool:
        """Make this driver the leader, and return whether it is."""
        self._leads = self._leads or bool(self._ask("SELECT pg_try_advisory_lock(:key)", "lead"))
        return self._leads

    def led(self) -> bool:
        """Return whether a driver leads, this one or another."""
        return self._held("lead")

    def alive(self, name: str) -> bool:
        """Return whether the driver of a name may still be at work."""
        return name == self.name or self._held(f"driver/{name}")

    def confirm(self) -> None:
        """Check that the connection has held since the turn was taken; raise UserError where it broke."""
        self._ask("SELECT 1 WHERE :key IS NOT NULL", "turn")
        if self._lost:
            raise UserError("the connection to the database broke while this driver wrote: continue it")

    def leave(self) -> None:
        """End this driver's part in the study."""
        self._end()

    # ----- inside

    def _enter(self) -> None:
        """Open a connection of this driver's own, whose lock is its sign of life."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection: Connection = connection
        self._end = weakref.finalize(self, _close, connection, self._engine)
        for setting in ("idle", "interval"):
            connection.exec_driver_sql(f"SET tcp_keepalives_{setting} = {KEEPALIVE}")
        connection.exec_driver_sql("SET tcp_keepalives_count = 3")
        self._do("SELECT pg_advisory_lock(:key)", f"driver/{self.name}")

    def _take(self) -> None:
        self._lost = False
        self._ask("SELECT pg_advisory_lock(:key)", "turn")
        self._lost = False  # a connection that broke before the turn was taken does no harm

    def _give(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        with suppress(SQLAlchemyError):  # where the connection broke, the server has freed its locks
            self._do("SELECT pg_advisory_unlock(:key)", "turn")

    def _held(self, purpose: str) -> bool:
        """Return whether any session holds a lock."""
        # The server's table says so: to try the lock could keep another driver from having it at that moment.
        question = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND (classid::bigint << 32) | objid::bigint = :key"
        )
        return bool(self._ask(question, purpose))

    def _ask(self, question: str, purpose: str) -> Any:
        """Return the answer to a question, over a new connection where the old one broke."""
        from sqlalchemy.exc import DBAPIError, InvalidRequestError

        try:
            return self._do(question, purpose)
        except (DBAPIError, InvalidRequestError) as error:
            if isinstance(error, DBAPIError) and not error.connection_invalidated:
                raise
        self._lost = True
        self._end.detach()
        with suppress(Exception):
            self._connection.close()
        self._enter()
        if self._leads and not self._do("SELECT pg_try_advisory_lock(:key)", "lead"):
            raise UserError("the connection to the database broke, and another driver leads now: join it")
        return self._do(question, purpose)

    def _do(self, question: str, purpose: str) -> Any:
        from sqlalchemy import text

        return self._connection.execute(text(question), {"key": self._key(purpose)}).scalar()

    def _key(self, purpose: str) -> int:
        digest = hashlib.sha256(f"partune/{self._study}/{purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)


def _close(connection: Connection, engine: Engine) -> None:
    """Free a session's locks, and close it."""
    # Locks first, as the server may learn late of the end. Invalidated, as the pool would keep the session open.
    with suppress(Exception):
        connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")
    with suppress(Exception):
        connection.invalidate()
        connection.close()
    engine.dispose()
