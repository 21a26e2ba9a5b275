"""Where a record is: in memory, in a journal in the study's directory, or in a database by its URL."""

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
from partune.space.distributions import quiet

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL = "journal.log"
STORAGE = "storage.json"
STUDY = re.compile(r"[\w.-]{1,100}-[0-9a-f]{12}")  # a name in a database: the directory's, and what makes it unique

Shelf = Literal["search", "anchors"]
SHELVES: tuple[Shelf, ...] = ("search", "anchors")

SQLITE = (
    "SQLite takes one driver at a time, as each write locks its whole file, and its locks do not hold on network file "
    "systems. For several, leave --storage out or give it PostgreSQL"
)


class Place(Protocol):
    """Where the two Optuna studies of a record are, and how to get at them."""

    @property
    def url(self) -> str | None:
        """The URL of the database as it was opened, with its password; None without a database."""

    @property
    def given(self) -> str | None:
        """The database's URL where the user gave it; None where only the study's folder names it."""

    @property
    def prefix(self) -> str:
        """What the names of the two studies begin with."""

    @property
    def holder(self) -> str:
        """What holds the record, as a message names it."""

    def begin(self, draft: Path, header: Mapping[str, Any]) -> None:
        """Create the two studies with the header of the record.

        Args:
            draft: The folder that becomes the study's directory, once everything in it is complete.
            header: What the study is.
        """

    def read(self) -> BaseStorage:
        """Return Optuna's storage, to be read only."""

    def drive(self, join: bool) -> tuple[BaseStorage, Drivers]:
        """Return Optuna's storage to be written, and this process among those that drive the study.

        Args:
            join: Whether to take part where another process leads, instead of insisting on the lead.

        Raises:
            UserError: Another process leads the study, or the record is damaged.
        """

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that turns errors of a database into a UserError."""


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
        """Return the storage, and a driver that has no others beside it."""
        return self._storage, Alone()

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()


class JournalPlace:
    """A journal in the study's directory, which drivers take turns to write.

    Args:
        directory: The study's.
    """

    url = given = None
    prefix = ""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def holder(self) -> str:
        """The journal."""
        return str(self._directory / JOURNAL)

    def begin(self, draft: Path, header: Mapping[str, Any]) -> None:
        """Create the two studies with the header of the record."""
        from partune.record import journal

        begin_studies(journal.created(draft / JOURNAL), header)

    def read(self) -> BaseStorage:
        """Return the journal as it stands now."""
        from partune.record import journal

        return journal.read(self._directory / JOURNAL)

    def drive(self, join: bool) -> tuple[BaseStorage, Drivers]:
        """Return the repaired journal, to be appended to, and this process among its drivers."""
        from partune.record import journal

        path = self._directory / JOURNAL
        repair = functools.partial(journal.repair, path)
        busy = f"{self._directory} is being run already: wait for that run, stop it, or join it"
        with _leading(Files(self._directory, repair), join, busy) as drivers:
            # In a turn, so that what looks torn is not a line that another driver is writing just now.
            with drivers.turn():
                repair()
            return journal.opened(path), drivers

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()


class DatabasePlace:
    """A database: PostgreSQL, which drivers share, or SQLite, which takes one at a time.

    Args:
        directory: The study's.
        url: The URL of the database.
        study: What makes the two studies' names unique in the database.
        named: Whether the user named the host, and not the study's folder, which somebody else may have written.
    """

    def __init__(self, directory: Path, url: str, study: str, named: bool = True) -> None:
        self._directory = directory
        self._url = url
        self._study = study
        self._named = named
        self._sqlite = urls.parsed(url).drivername == "sqlite"

    @classmethod
    def new(cls, directory: Path, url: str) -> DatabasePlace:
        """Return the place of a new record, under a name that no other study has.

        Args:
            directory: The study's, whose name the studies in the database begin with.
            url: The URL of the database, as the user gave it.
        """
        stem = re.sub(r"[^\w.-]", "_", directory.name, flags=re.ASCII)[:100]
        return cls(directory, url, f"{stem}-{uuid.uuid4().hex[:12]}")

    @classmethod
    def recorded(cls, directory: Path, url: str | None = None) -> DatabasePlace:
        """Return the place that a directory's storage.json names.

        Args:
            directory: The study's.
            url: Where the database is now, if the user says so: it may need a password, or have moved.

        Raises:
            UserError: The file is not what `begin` wrote.
        """
        try:
            form = json.loads((directory / STORAGE).read_text(encoding="utf-8"))
            written, study = form["url"], form["study"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{directory / STORAGE} is damaged: restore it from a copy") from None
        if not (isinstance(written, str) and isinstance(study, str) and STUDY.fullmatch(study)):
            raise UserError(f"{directory / STORAGE} names no study of partune's: restore it from a copy")
        return cls(directory, url or written, study, named=url is not None)

    @property
    def url(self) -> str | None:
        """The URL of the database, with its password."""
        return self._url

    @property
    def given(self) -> str | None:
        """The same URL where the user gave it; None where only the study's folder names it."""
        return self._url if self._named else None

    @property
    def prefix(self) -> str:
        """What the names of the two studies begin with."""
        return f"{self._study}/"

    @property
    def holder(self) -> str:
        """The database, without its password."""
        return f"the database of {self._directory} ({urls.public(self._url)})"

    def begin(self, draft: Path, header: Mapping[str, Any]) -> None:
        """Create the two studies with the header of the record."""
        form = {"url": urls.public(self._url), "study": self._study}
        (draft / STORAGE).write_text(json.dumps(form, indent=2) + "\n", encoding="utf-8")
        with database.guarded(self._url):
            begin_studies(database.opened(self._url), header, self.prefix)

    def read(self) -> BaseStorage:
        """Return the database, to be read only."""
        return database.opened(self._url, create=False, named=self._named)

    def drive(self, join: bool) -> tuple[BaseStorage, Drivers]:
        """Return the database, to be written, and this process among its drivers."""
        with database.guarded(self._url, self._named):
            storage = database.opened(self._url, named=self._named)
            busy = f"{self._directory} is being run already"
            candidate: Drivers
            if self._sqlite:
                if join:
                    raise UserError(SQLITE)
                candidate, busy = Alone(self._directory / LEADER), f"{busy}. {SQLITE}"
            else:
                candidate = database.Advisory(database.engine_of(storage), self._study)
                busy = f"{busy}: wait for that run, stop it, or join it"
            with _leading(candidate, join, busy) as drivers:
                return storage, drivers

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that turns errors of the database into a UserError."""
        return database.guarded(self._url)


def place_of(directory: Path, url: str | None = None) -> Place:
    """Return where the record of a study's directory is.

    Args:
        directory: The study's.
        url: The URL of the database, where it needs a password or has moved since.

    Raises:
        UserError: The directory holds no study, or a URL is given for one that has no database.
    """
    if (directory / STORAGE).is_file():
        return DatabasePlace.recorded(directory, url)
    if not (directory / JOURNAL).is_file():
        raise UserError(f"no study in {directory}: {JOURNAL} is missing")
    if url is not None:
        raise UserError(f"{directory} keeps its record in {JOURNAL}, in no database: leave --storage out")
    return JournalPlace(directory)


def find_study(storage: BaseStorage, place: Place, shelf: Shelf) -> int:
    """Return Optuna's number of one of the two studies of a record.

    Args:
        storage: Optuna's storage at the place.
        place: Where the record is.
        shelf: Which of the two studies.

    Raises:
        UserError: There is no study of that name.
    """
    name = f"{place.prefix}{shelf}"
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        raise UserError(f"{place.holder} holds no study {name}: restore it from a copy") from None


def begin_studies(storage: BaseStorage, header: Mapping[str, Any], prefix: str = "") -> None:
    """Create the two Optuna studies of a record.

    Args:
        storage: Optuna's storage, in which they do not exist yet.
        header: What the study is; written as JSON.
        prefix: What their names begin with.
    """
    from optuna.study import StudyDirection

    with quiet():
        storage.create_new_study([StudyDirection.MAXIMIZE], f"{prefix}anchors")
        search = storage.create_new_study([StudyDirection.MAXIMIZE], f"{prefix}search")
    # JSON makes lists of tuples: the header of a new record is then what a reader of the journal gets.
    storage.set_study_user_attr(search, "partune", json.loads(json.dumps(header)))


def require_utf8(directory: Path) -> None:
    """Check that a path can be read by all libraries.

    Raises:
        UserError: Its bytes are not UTF-8: safetensors could load no adapter from there.
    """
    try:
        str(directory.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"cannot write {directory.absolute()}: its name is not UTF-8, and weights are read by such names only"
        ) from None


@contextmanager
def _leading(drivers: Drivers, join: bool, busy: str) -> Iterator[Drivers]:
    """Make a driver the leader unless it joins; it leaves the study if that, or what follows within, fails."""
    try:
        if not (join or drivers.lead()):
            raise UserError(busy)
        yield drivers
    except BaseException:
        drivers.leave()
        raise
