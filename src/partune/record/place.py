"""Locate and open a record: in memory, in a journal in the study's directory, or in a database."""

from __future__ import annotations

import functools
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from partune.errors import UserError
from partune.record import database
from partune.record.drivers import LEADER, Alone, Drivers, Files
from partune.runtime import urls
from partune.runtime.paths import command_on
from partune.space.distributions import quiet

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL = "journal.log"
STORAGE = "storage.json"
# A study's name in a database: its directory's name and a unique suffix.
STUDY = re.compile(r"[\w.-]{1,100}-[0-9a-f]{12}")

Shelf = Literal["search", "anchors"]
SHELVES: tuple[Shelf, ...] = ("search", "anchors")

SQLITE = (
    "SQLite takes one process at a time, because each write locks its file, and its locks do not work on network file "
    "systems. For several processes, use PostgreSQL, or begin a study without `--storage`"
)


class Place(Protocol):
    """The storage of a record's two Optuna studies: "search" for trials, "anchors" for other runs."""

    @property
    def url(self) -> str | None:
        """The URL of the database as it was opened, with its password; None without a database."""

    @property
    def given(self) -> str | None:
        """The URL of the database if the user passed it; None if only the study's folder names it."""

    @property
    def prefix(self) -> str:
        """The beginning of the names of the two studies."""

    @property
    def holder(self) -> str:
        """The name of the storage in messages."""

    def begin(self, draft: Path, header: Mapping[str, Any]) -> None:
        """Create the two studies with the header of the record.

        Args:
            draft: The folder that becomes the study's directory when everything in it is complete.
            header: The study's settings, such as its space, algorithm and seed.
        """

    def read(self) -> BaseStorage:
        """Return Optuna's storage for reading."""

    def drive(self, join: bool) -> tuple[BaseStorage, Drivers]:
        """Return Optuna's storage for writing, and this process as one of the study's drivers.

        Args:
            join: Whether to take part without leading. Otherwise this process becomes the leader.

        Raises:
            UserError: This process cannot become the leader, or the record is damaged.
        """

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that turns an error of a database into a UserError."""


class MemoryPlace:
    """A record in memory, which ends with the process."""

    url = given = None
    prefix = ""
    holder = "the record in memory"

    def __init__(self) -> None:
        from optuna.storages import InMemoryStorage

        self._storage = InMemoryStorage()

    def begin(self, draft: Path, header: Mapping[str, Any]) -> None:
        """Create the two studies with the header of the record."""
        begin_studies(self._storage, header)

    def read(self) -> BaseStorage:
        """Return the storage in memory."""
        return self._storage

    def drive(self, join: bool) -> tuple[BaseStorage, Drivers]:
        """Return the storage, and the only driver of the study."""
        return self._storage, Alone()

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()


class JournalPlace:
    """A journal in the study's directory, which drivers take turns to write.

    Args:
        directory: The study's directory.
    """

    url = given = None
    prefix = ""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def holder(self) -> str:
        """The path of the journal."""
        return str(self._directory / JOURNAL)

    def begin(self, draft: Path, header: Mapping[str, Any]) -> None:
        """Create the two studies with the header of the record."""
        from partune.record import journal

        begin_studies(journal.created(draft / JOURNAL), header)

    def read(self) -> BaseStorage:
        """Return a snapshot of the journal."""
        from partune.record import journal

        return journal.read(self._directory / JOURNAL)

    def drive(self, join: bool) -> tuple[BaseStorage, Drivers]:
        """Return the repaired journal for appending, and this process as one of its drivers."""
        from partune.record import journal

        path = self._directory / JOURNAL
        repair = functools.partial(journal.repair, path)
        busy = f"{self._directory} is already being run: {_wait(self._directory)}"
        with _leading(Files(self._directory, repair), join, busy) as drivers:
            # In a turn, no other driver is writing, so an incomplete last line is the result of a crash.
            with drivers.turn():
                repair()
            return journal.opened(path), drivers

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()


class DatabasePlace:
    """A record in a database: PostgreSQL, which drivers share, or SQLite, which takes one driver at a time.

    Args:
        directory: The study's directory.
        url: The URL of the database.
        study: The study's unique name in the database, which the names of the two Optuna studies begin with.
        named: Whether the user named the host. If not, the host comes from the study's folder, which somebody else may
            have written.
    """

    def __init__(self, directory: Path, url: str, study: str, named: bool = True) -> None:
        self._directory = directory
        self._url = url
        self._study = study
        self._named = named
        self._sqlite = urls.parsed(url).drivername == "sqlite"

    @classmethod
    def new(cls, directory: Path, url: str) -> DatabasePlace:
        """Return the place of a new record, with a unique name for the study.

        Args:
            directory: The study's directory. Its name becomes part of the unique name.
            url: The URL of the database, as the user passed it.
        """
        stem = re.sub(r"[^\w.-]", "_", directory.name, flags=re.ASCII)[:100]
        return cls(directory, url, f"{stem}-{uuid.uuid4().hex[:12]}")

    @classmethod
    def recorded(cls, directory: Path, url: str | None = None) -> DatabasePlace:
        """Return the place that a directory's storage.json names.

        Args:
            directory: The study's directory.
            url: The URL of the database, if it needs a password or has moved; None takes the URL in the file.

        Raises:
            UserError: The file is damaged, or is not one that `begin` wrote.
        """
        try:
            form = json.loads((directory / STORAGE).read_text(encoding="utf-8"))
            recorded_url, study = form["url"], form["study"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{directory / STORAGE} is damaged: restore it from a copy") from None
        if not (isinstance(recorded_url, str) and isinstance(study, str) and STUDY.fullmatch(study)):
            raise UserError(f"{directory / STORAGE} names no study of partune: restore the file from a copy")
        return cls(directory, url or recorded_url, study, named=url is not None)

    @property
    def url(self) -> str | None:
        """The URL of the database, with its password."""
        return self._url

    @property
    def given(self) -> str | None:
        """The URL of the database if the user passed it; None if only the study's folder names it."""
        return self._url if self._named else None

    @property
    def prefix(self) -> str:
        """The beginning of the names of the two studies."""
        return f"{self._study}/"

    @property
    def holder(self) -> str:
        """The name of the database in messages: the study's directory, and the URL without the password."""
        return f"the database of {self._directory} ({urls.public(self._url)})"

    def begin(self, draft: Path, header: Mapping[str, Any]) -> None:
        """Create the two studies with the header of the record."""
        form = {"url": urls.public(self._url), "study": self._study}
        (draft / STORAGE).write_text(json.dumps(form, indent=2) + "\n", encoding="utf-8")
        with database.guarded(self._url):
            begin_studies(database.opened(self._url), header, self.prefix)

    def read(self) -> BaseStorage:
        """Return the database for reading."""
        return database.opened(self._url, create=False, named=self._named)

    def drive(self, join: bool) -> tuple[BaseStorage, Drivers]:
        """Return the database for writing, and this process as one of the study's drivers."""
        with database.guarded(self._url, self._named):
            storage = database.opened(self._url, named=self._named)
            busy = f"{self._directory} is already being run"
            candidate: Drivers
            if self._sqlite:
                if join:
                    raise UserError(SQLITE)
                candidate, busy = Alone(self._directory / LEADER), f"{busy}. {SQLITE}"
            else:
                candidate = database.Advisory(database.engine_of(storage), self._study)
                busy = f"{busy}: {_wait(self._directory)}"
            with _leading(candidate, join, busy) as drivers:
                return storage, drivers

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that turns an error of the database into a UserError."""
        return database.guarded(self._url, self._named)


def place_of(directory: Path, url: str | None = None) -> Place:
    """Return the place of the record of a study.

    Args:
        directory: The study's directory.
        url: The URL of the database, if it needs a password or has moved; None takes the recorded URL.

    Raises:
        UserError: The directory holds no study, or a URL is passed for a study that has no database.
    """
    if (directory / STORAGE).is_file():
        return DatabasePlace.recorded(directory, url)
    if not (directory / JOURNAL).is_file():
        raise UserError(f"no study in {directory}: {JOURNAL} is missing")
    if url is not None:
        raise UserError(f"{directory} keeps its record in {JOURNAL} and not in a database: leave out `--storage`")
    return JournalPlace(directory)


def find_study(storage: BaseStorage, place: Place, shelf: Shelf) -> int:
    """Return Optuna's ID of one of the two studies of a record.

    Args:
        storage: Optuna's storage at the place.
        place: The place of the record.
        shelf: Which of the two studies.

    Raises:
        UserError: The storage has no such study.
    """
    name = f"{place.prefix}{shelf}"
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        raise UserError(f"{place.holder} holds no study {name}: restore it from a copy") from None


def begin_studies(storage: BaseStorage, header: Mapping[str, Any], prefix: str = "") -> None:
    """Create the two Optuna studies of a record.

    Args:
        storage: Optuna's storage, which does not have the two studies yet.
        header: The study's settings, which are written as JSON.
        prefix: The beginning of the names of the two studies.
    """
    from optuna.study import StudyDirection

    with quiet():
        storage.create_new_study([StudyDirection.MAXIMIZE], f"{prefix}anchors")
        search = storage.create_new_study([StudyDirection.MAXIMIZE], f"{prefix}search")
    # Through JSON, tuples become lists, so a new record has the same header as one that is read from a journal.
    storage.set_study_user_attr(search, "partune", json.loads(json.dumps(header)))


def require_utf8(directory: Path) -> None:
    """Check that all libraries can read files at a path.

    Raises:
        UserError: The path is not UTF-8, so safetensors could load no adapter from there.
    """
    try:
        str(directory.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"cannot write {directory.absolute()}: its name is not UTF-8, and weights can be read only from UTF-8 paths"
        ) from None


def _wait(directory: Path) -> str:
    """Return advice for a user whose study another process leads."""
    return f"wait for that run, stop it, or help it with `{command_on('join', directory)}`"


@contextmanager
def _leading(drivers: Drivers, join: bool, busy: str) -> Iterator[Drivers]:
    """Make a driver the leader, unless it only joins. If this or the code in the context fails, the driver leaves."""
    try:
        if not (join or drivers.lead()):
            raise UserError(busy)
        yield drivers
    except BaseException:
        drivers.leave()
        raise
