"""The journal file: Optuna's append-only journal, one JSON object per line; a failed write spoils no line of it.

A line without its end was torn by a crash and never happened. Nothing is appended after such a line: it is cut off
first. Where a line cannot be written whole, because the disk is full say, what was written of it is taken back.
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
from partune.runtime.disk import retry_while_full, writing_to


def created(journal: Path) -> JournalStorage:
    """Create an empty journal, in a directory that is not a study's yet; raise OSError, as its writes do."""
    return JournalStorage(JournalFileBackend(str(journal)))


def opened(journal: Path) -> JournalStorage:
    """Return a study's journal, to be appended to; raise UserError where it is damaged."""
    return _replayed(Journal(journal), journal)


def read(journal: Path) -> JournalStorage:
    """Return a study's journal as it stands now, to be read; raise UserError where it is damaged."""
    return _replayed(Reader(journal), journal)


def repair(journal: Path) -> None:
    """Cut off a torn last line, and remove the lock of a driver that died; nobody else may write meanwhile.

    Raises:
        UserError: A line before the last is damaged.
    """
    with writing_to(journal.parent):
        # Optuna's lock is a link that stays when its process is killed; the others would wait half a minute for it.
        lock = journal.with_name(f"{journal.name}.lock")
        if lock.is_symlink():
            lock.unlink()
        with journal.open("rb+", buffering=0) as file:
            _lines(file.read(), journal)
            _cut(file)


class Journal(JournalFileBackend):
    """A journal to append to; a line that cannot be written whole is not written at all, and raises UserError.

    Args:
        journal: The file, which exists.

    Attributes:
        line: The number of the line that was read last.
    """

    def __init__(self, journal: Path) -> None:
        self._directory = journal.parent
        self.line = 0
        super().__init__(str(journal), Lock(str(journal)))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the entries from a number on, as Optuna's own backend does."""
        with writing_to(self._directory):
            for self.line, log in enumerate(super().read_logs(log_number_from), start=log_number_from + 1):
                yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, and wait for room where the disk is full."""
        text = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        with writing_to(self._directory):
            retry_while_full(lambda: self._append(text.encode()))

    def _append(self, content: bytes) -> None:
        self._lock.acquire()
        try:
            # "rb+" creates no file: where the study's folder was moved away, "ab" would begin a journal without a past.
            with open(self._file_path, "rb+", buffering=0) as file:
                _append(file, content)
        finally:
            self._lock.release()


class Lock(JournalFileSymlinkLock):
    """Optuna's lock, which other programs that write a journal heed too; giving it back never fails."""

    def release(self) -> None:
        """Give the lock back."""
        with suppress(RuntimeError):  # the directory has gone, or became read-only: the next write says so
            super().release()


class Reader:
    """A journal as it stands now, as a backend of Optuna's: reading neither waits for a writer nor disturbs it.

    Args:
        journal: The file.

    Attributes:
        line: The number of the line that was read last.

    Raises:
        UserError: A line is damaged.
    """

    def __init__(self, journal: Path) -> None:
        with writing_to(journal.parent):
            self._logs = _lines(journal.read_bytes(), journal)
        self.line = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from a number on."""
        for log in self._logs[log_number_from:]:
            self.line += 1
            yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse to write: raise RuntimeError."""
        raise RuntimeError("this record was opened for reading only")


def _replayed(backend: Journal | Reader, journal: Path) -> JournalStorage:
    """Return Optuna's storage of a journal; raise UserError for a line that Optuna does not understand."""
    try:
        return JournalStorage(backend)  # type: ignore[arg-type]
    except UserError:
        raise
    except Exception as error:  # Optuna checks little: such a line ends in an assertion, or in a key that is missing
        raise UserError(
            f"{journal} is damaged in line {backend.line}, or that line is of a newer Optuna: update it, or "
            "restore the file from a copy"
        ) from error


def _lines(content: bytes, journal: Path) -> list[dict[str, Any]]:
    """Return the entries of a journal's whole lines; raise UserError for one that is no JSON object."""
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
    """Append whole lines to an unbuffered file, and have them on disk; none of them is there where this raises."""
    end = _cut(file)
    try:
        left = memoryview(content)
        while left:  # an unbuffered write may stop half-way, with the number of bytes and no error
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):  # what stays is cut before the next line
            file.truncate(end)
        raise


def _cut(file: IO[bytes]) -> int:
    """Cut off what follows the last whole line of an unbuffered file; leave it at its end, and return that."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) in (b"\n", b""):
        return end
    file.seek(0)
    end = file.read().rfind(b"\n") + 1
    file.truncate(end)
    os.fsync(file.fileno())
    return file.seek(end)
