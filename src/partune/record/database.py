"""Keep a record in a database: PostgreSQL for any number of drivers (the processes that run a study), SQLite for one.

A password comes with the URL on each call, or from the places that libpq searches (PGPASSWORD, ~/.pgpass). It is never
written to disk, and no message shows it. Anybody may have written the host name in a study's folder. Passwords that
libpq finds by itself are therefore sent only to hosts that the user named.
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

WAIT = 10  # seconds to wait for a connection
KEEPALIVE = 10  # seconds of silence before the other end is probed; after three unanswered probes it counts as dead


def opened(url: str, create: bool = True, named: bool = True) -> BaseStorage:
    """Return Optuna's storage at a URL.

    Args:
        url: The URL of the database.
        create: Whether to create missing tables.
        named: Whether the user named the host. If not, the host comes from a file that anybody may have written.

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
    """Turn a database error within the context into a UserError of one line.

    Args:
        url: The URL of the database.
        named: Whether the user named the host. If not, the message may say how to name it.
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
    """Return the message of a database error, in one line without the password."""
    message = " ".join(str(getattr(error, "orig", None) or error).split())
    if password:
        message = message.replace(str(password), "***")
    return masked(message)


def _libpq(where: URL) -> dict[str, Any]:
    """Return libpq's options for time limits, except those that the URL sets."""
    # Without limits a driver would wait for hours if its server's machine lost power, as no packet reports that.
    limits = {
        "connect_timeout": WAIT,
        "keepalives_idle": KEEPALIVE,
        "keepalives_interval": KEEPALIVE,
        "keepalives_count": 3,
    }
    return {name: value for name, value in limits.items() if name not in where.query}


def _bare(where: URL) -> dict[str, Any]:
    """Return the libpq options that stop libpq from sending a host the passwords that libpq finds by itself.

    Return no options if the user has shown trust in the host: by naming it in PGHOST, by leaving the choice of the host
    to libpq, or by trusting the authority that signs the host's certificate. A host that the password file names gets
    only that file's password.
    """
    query = where.query
    host, port = where.host, str(where.port or 5432)
    if not {"host", "hostaddr", "port", "service"} & query.keys():
        if host is None or (host, port) == (os.environ.get("PGHOST"), os.environ.get("PGPORT", "5432")):
            return {}
        # "system" trusts every public authority, and such an authority certifies any host for whoever owns the host.
        own_authority = "sslrootcert" not in query and os.environ.get("PGSSLROOTCERT") != "system"
        if query.get("sslmode") == "verify-full" and own_authority:
            return {}
        if host in _password_file_hosts() and "passfile" not in query:
            return {"password": where.password or ""}
    delegation = {"gssdelegation": "0"} if "gssdelegation" in query else {}
    # An empty password keeps libpq from using PGPASSWORD. An empty passfile would mean ~/.pgpass, so name a
    # file that cannot exist, because its folder is not a folder.
    return {"password": where.password or "", "passfile": str(Path(os.devnull) / "none"), **delegation}


def _password_file() -> Path:
    return Path(os.environ.get("PGPASSFILE") or "~/.pgpass").expanduser()


def _password_file_hosts() -> set[str]:
    """Return the hosts that the user's password file names. Lines for any host (*) do not count."""
    try:
        lines = _password_file().read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, RuntimeError):  # no such file, or no home directory
        return set()
    return {line.partition(":")[0] for line in lines if not line.startswith(("#", "*"))} - {""}


def _advice(where: URL, shown: str) -> str:
    """Return advice on how to send the host a password that was held back, or an empty text if none was held back."""
    try:
        has_password = "PGPASSWORD" in os.environ or "PGSERVICE" in os.environ or _password_file().is_file()
    except RuntimeError:
        has_password = False
    if where.drivername == "sqlite" or not has_password or "passfile" not in _bare(where):
        return ""
    return (
        ". None of your passwords was sent, because the study's folder names this host and you did not. If you trust "
        f"the host, repeat the command with `--storage {shlex.quote(shown)}`"
    )


def _require_psycopg() -> None:
    try:
        importlib.import_module("psycopg")
    except ImportError as error:  # raised too if psycopg lacks a library that it needs
        raise UserError(f"PostgreSQL needs psycopg: {extras.install_command('postgresql')} ({error})") from None


class Advisory(Drivers):
    """Drivers that detect each other by PostgreSQL's advisory locks, which end with the connection that holds them.

    A connection pooler must keep one server connection per session (PgBouncer: pool_mode = session).

    Args:
        engine: SQLAlchemy's engine for the database.
        study: The study's name in the database.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        super().__init__()
        self._engine = engine
        self._study = study
        self._leads = False
        self._lost = False  # whether the connection broke during the turn
        self._enter()

    def lead(self) -> bool:
        """Try to make this driver the leader, and return whether it leads."""
        self._leads = self._leads or bool(self._ask("SELECT pg_try_advisory_lock(:key)", "lead"))
        return self._leads

    def led(self) -> bool:
        """Return whether any driver leads the study, this one included."""
        return self._held("lead")

    def alive(self, name: str) -> bool:
        """Return whether the driver with a name may still be running."""
        return name == self.name or self._held(f"driver/{name}")

    def confirm(self) -> None:
        """Raise UserError if the connection broke since this driver took its turn."""
        self._ask("SELECT 1 WHERE :key IS NOT NULL", "turn")
        if self._lost:
            again = "resume" if self._leads else "join"
            raise UserError(f"the connection to the database broke while this process wrote: repeat `partune {again}`")

    def leave(self) -> None:
        """Leave the study."""
        self._end()

    # ----- inside

    def _enter(self) -> None:
        """Open this driver's connection, and take the lock that shows that the driver is alive."""
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
        self._lost = False  # only a break during the turn matters

    def _give(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        with suppress(SQLAlchemyError):  # if the connection broke, the server has freed its locks
            self._do("SELECT pg_advisory_unlock(:key)", "turn")

    def _held(self, purpose: str) -> bool:
        """Return whether any session holds the lock for a purpose."""
        # Read the server's table of locks. An attempt to take the lock could make another driver's attempt fail.
        query = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND (classid::bigint << 32) | objid::bigint = :key"
        )
        return bool(self._ask(query, purpose))

    def _ask(self, query: str, purpose: str) -> Any:
        """Return the first value that a query answers, over a new connection if the old one broke."""
        from sqlalchemy.exc import DBAPIError, InvalidRequestError

        try:
            return self._do(query, purpose)
        except (DBAPIError, InvalidRequestError) as error:
            if isinstance(error, DBAPIError) and not error.connection_invalidated:
                raise
        self._lost = True
        self._end.detach()
        with suppress(Exception):
            self._connection.close()
        self._enter()
        if self._leads and not self._do("SELECT pg_try_advisory_lock(:key)", "lead"):
            raise UserError("the connection to the database broke, and another process leads now: use `partune join`")
        return self._do(query, purpose)

    def _do(self, query: str, purpose: str) -> Any:
        from sqlalchemy import text

        return self._connection.execute(text(query), {"key": self._key(purpose)}).scalar()

    def _key(self, purpose: str) -> int:
        digest = hashlib.sha256(f"partune/{self._study}/{purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)


def _close(connection: Connection, engine: Engine) -> None:
    """Free a session's locks and close its connection."""
    # Free the locks first, because the server may notice late that the connection has closed. Invalidate the
    # connection, because the pool would keep the session open.
    with suppress(Exception):
        connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")
    with suppress(Exception):
        connection.invalidate()
        connection.close()
    engine.dispose()
