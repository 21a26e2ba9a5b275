"""Where a record is: a journal in the study's directory, or a database by its URL."""

from __future__ import annotations

import functools
import json
import logging
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from partune.errors import UserError
from partune.record import database
from partune.record.drivers import Alone, Drivers, Files
from partune.runtime import urls
from partune.space.distributions import quiet

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


JOURNAL = "journal.log"


STORAGE = "storage.json"


NAME = re.compile(r"[\w.-]{1,100}-[0-9a-f]{12}")  # of a study in a database: its directory's, and what makes it unique


Shelf = Literal["search", "anchors"]


SHELVES: tuple[Shelf, ...] = ("search", "anchors")


SQLITE = (
    "SQLite takes one driver at a time, as each write locks its whole file, and its locks do not hold on network file "
    "systems. For several, leave --storage out or give it PostgreSQL"
)


log = logging.getLogger(__name__)


class _Place:
    """Where the two studies are.

    url: of their database, None for a journal. name: what theirs begin with there. named: whether the user gave the
    URL, and not the study's folder, which somebody else may have written.
    """

    def __init__(self, url: str | None = None, name: str | None = None, named: bool = True) -> None:
        self.url = url
        self.named = named
        self.name = name
        self.sqlite = url is not None and urls.parsed(url).drivername == "sqlite"

    @classmethod
    def new(cls, directory: Path, url: str) -> _Place:
        stem = re.sub(r"[^\w.-]", "_", directory.name, flags=re.ASCII)[:100]
        return cls(url, f"{stem}-{uuid.uuid4().hex[:12]}")

    @classmethod
    def recorded(cls, directory: Path, url: str | None) -> _Place:
        """As a directory says it. Raises UserError where its file is not what `write` wrote."""
        try:
            form = json.loads((directory / STORAGE).read_text(encoding="utf-8"))
            found, name = form["url"], form["study"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{directory / STORAGE} is damaged: restore it from a copy") from None
        if not (isinstance(found, str) and isinstance(name, str) and NAME.fullmatch(name)):
            raise UserError(f"{directory / STORAGE} names no study of partune's")
        return cls(url or found, name, named=url is not None)

    def begin(self, draft: Path, header: Mapping[str, Any]) -> None:
        """Writes the two studies, and into the draft of the directory where they are."""
        if self.url is None:
            from partune.record import journal

            _begin(journal.created(draft / JOURNAL), header)
            return
        form = {"url": urls.public(self.url), "study": self.name}
        (draft / STORAGE).write_text(json.dumps(form, indent=2) + "\n", encoding="utf-8")
        with database.guarded(self.url):
            _begin(database.opened(self.url), header, f"{self.name}/")

    def reader(self, directory: Path) -> BaseStorage:
        if self.url is not None:
            return database.opened(self.url, create=False, named=self.named)
        from partune.record import journal

        return journal.read(directory / JOURNAL)

    def opened(self, directory: Path) -> BaseStorage | None:
        """The database; None for a journal, which has to be mended first."""
        return None if self.url is None else database.opened(self.url, named=self.named)

    def drivers(self, directory: Path, storage: BaseStorage | None, join: bool) -> Drivers:
        if self.sqlite:
            if join:
                raise UserError(SQLITE)
            return Alone(directory / ".driver")
        if storage is not None:
            return database.Advisory(database.engine_of(storage), str(self.name))
        return Files(directory, functools.partial(_mend, directory / JOURNAL))

    def holder(self, directory: Path) -> str:
        """Return the file, or the database, that holds the record."""
        return str(directory / JOURNAL) if self.url is None else f"the database of {directory}"

    def refusal(self, directory: Path) -> str:
        """Why nobody else can lead the study now."""
        busy = f"{directory} is being run already"
        return f"{busy}. {SQLITE}" if self.sqlite else f"{busy}: wait for that run, stop it, or join it"

    def find(self, storage: BaseStorage, shelf: Shelf) -> int:
        name = shelf if self.name is None else f"{self.name}/{shelf}"
        try:
            return storage.get_study_id_from_name(name)
        except KeyError:
            where = JOURNAL if self.url is None else urls.public(self.url)
            raise UserError(f"{where} holds no study {name}: restore it from a copy") from None


def _check_name(directory: Path) -> None:
    """Raises UserError for a path whose bytes are no UTF-8: no adapter could be read from there."""
    try:
        str(directory.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"cannot write {directory.absolute()}: its name is not UTF-8, and weights are read by such names only"
        ) from None


def _begin(storage: BaseStorage, header: Mapping[str, Any], prefix: str = "") -> BaseStorage:
    from optuna.study import StudyDirection

    with quiet():
        storage.create_new_study([StudyDirection.MAXIMIZE], f"{prefix}anchors")
        search = storage.create_new_study([StudyDirection.MAXIMIZE], f"{prefix}search")
    storage.set_study_user_attr(search, "partune", json.loads(json.dumps(header)))
    return storage


def _mend(path: Path) -> None:
    from partune.record import journal

    journal.mend(path)


def _journal(path: Path) -> BaseStorage:
    from partune.record import journal

    return journal.opened(path)
