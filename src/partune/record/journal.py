"""The journal file: Optuna's append-only journal, one JSON object a line, of which no failed write spoils a line.

A line without its end was torn by a crash and never happened. Nothing is appended after one: it is cut before. Where a
line cannot be written whole, because the disk is full say, what was written of it is taken back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from partune.errors import UserError
from partune.runtime.disk import kept, persistent


def created(journal: Path) -> JournalStorage:
    """A new, empty journal, in a directory that is not a study's yet; raises OSError, and so do its writes."""
    return JournalStorage(JournalFileBackend(str(journal)))


def opened(journal: Path) -> JournalStorage:
    """A study's journal, to be appended to. Raises UserError where it is damaged."""
    return _replayed(Journal(journal), journal)


def read(journal: Path) -> JournalStorage:
    """A study's journal as it stands now. Raises UserError where it is damaged."""
    return _replayed(Reader(journal), journal)


def mend(journal: Path) -> None:
    """Cuts a torn last line, and the lock of a driver that died; nobody else writes now.

    Raises UserError where a line before it is damaged.
    """
    with kept(journal.parent):
        lock = journal.with_name(f"{journal.name}.lock")
        if lock.is_symlink():
            lock.unlink()
        with journal.open("rb+", buffering=0) as file:
            _lines(file.read(), journal)
            _cut(file)


class Journal(JournalFileBackend):
    """A journal to append to; a line that cannot be written is not there at all, and raises UserError.

    line: the number of the last one that was read.
    """

    def __init__(self, journal: Path) -> None:
        self._directory = journal.parent
        self.line = 0
        super().__init__(str(journal), Lock(str(journal)))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        with kept(self._directory):
            for self.line, log in enumerate(super().read_logs(log_number_from), start=log_number_from + 1):
                yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        with kept(self._directory):
            persistent(lambda: self._append(text.encode()))

    def _append(self, content: bytes) -> None:
        self._lock.acquire()
        try:
            with open(self._file_path, "rb+", buffering=0) as file:  # never a new file: the old one may have gone
                _append(file, content)
        finally:
            self._lock.release()


class Lock(JournalFileSymlinkLock):
    """Optuna's lock, which other programs that write a journal heed too; giving it back never fails."""

    def release(self) -> None:
        with suppress(RuntimeError):  # the directory has gone, or became read-only: the next write says so
            super().release()


class Reader:
    """A journal as it stands now, as a backend of Optuna's: reading neither waits for a writer nor disturbs it."""

    def __init__(self, journal: Path) -> None:
        with kept(journal.parent):
            self._logs = _lines(journal.read_bytes(), journal)
        self.line = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        for log in self._logs[log_number_from:]:
            self.line += 1
            yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise RuntimeError("this record was opened for reading only")


def _replayed(backend: Journal | Reader, journal: Path) -> JournalStorage:
    """Optuna's storage. Raises UserError for a line that Optuna does not understand."""
    try:
        return JournalStorage(backend)  # type: ignore[arg-type]
    except UserError:
        raise
    except Exception as error:  # Optuna asserts, and looks keys up
        raise UserError(
            f"{journal} is damaged in line {backend.line}, or that line is of a newer Optuna: update it, or "
            "restore the file from a copy"
        ) from error


def _lines(content: bytes, journal: Path) -> list[dict[str, Any]]:
    """The journal's whole lines."""
    logs = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            log = json.loads(line)
        except (ValueError, RecursionError):
            log = None
        if not isinstance(log, dict):
            raise UserError(f"{journal} is damaged in line {number}: restore it from a copy")
        logs.append(log)
    return logs


def _append(file: IO[bytes], content: bytes) -> None:
    """Appends whole lines to an unbuffered file, and has them on disk; none of them where this raises."""
    end = _cut(file)
    try:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):  # what stays is cut before the next line
            file.truncate(end)
        raise


def _cut(file: IO[bytes]) -> int:
    """Cuts what follows the last whole line of an unbuffered file; stands at the end then, and returns it."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) in (b"\n", b""):
        return end
    file.seek(0)
    end = file.read().rfind(b"\n") + 1
    file.truncate(end)
    os.fsync(file.fileno())
    return file.seek(end)
