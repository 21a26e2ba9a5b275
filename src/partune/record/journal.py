"""Read and write Optuna's append-only journal file, one JSON object per line, so that a failed write damages no line.

A last line without a line break was left by a crash. It is ignored, and removed before the next line is appended. If a
line cannot be written completely, for example because the disk is full, the part that was written is removed.
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
    """Create an empty journal in the folder of a study that is being created; its writes may raise OSError."""
    return JournalStorage(JournalFileBackend(str(journal)))


def opened(journal: Path) -> JournalStorage:
    """Open a study's journal to append to it; raise UserError if it is damaged."""
    return _replayed(Journal(journal), journal)


def read(journal: Path) -> JournalStorage:
    """Open a snapshot of a study's journal to read it; raise UserError if it is damaged."""
    return _replayed(Reader(journal), journal)


def repair(journal: Path) -> None:
    """Remove an incomplete last line, and the lock of a process that died. Nobody else may write meanwhile.

    Raises:
        UserError: A line before the last is damaged.
    """
    with writing_to(journal.parent):
        # Optuna's lock is a link, which stays when the process that made it is killed. Other processes would wait half
        # a minute for the lock.
        lock = journal.with_name(f"{journal.name}.lock")
        if lock.is_symlink():
            lock.unlink()
        with journal.open("rb+", buffering=0) as file:
            _lines(file.read(), journal)
            _cut(file)


class Journal(JournalFileBackend):
    """Optuna's backend for appending to a journal. It writes a line completely, or raises UserError and writes nothing.

    Args:
        journal: The path of the journal, which exists.

    Attributes:
        line: The number of the line that was read last.
    """

    def __init__(self, journal: Path) -> None:
        self._directory = journal.parent
        self.line = 0
        super().__init__(str(journal), Lock(str(journal)))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the entries from an index on."""
        with writing_to(self._directory):
            for self.line, log in enumerate(super().read_logs(log_number_from), start=log_number_from + 1):
                yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries; while the disk is full, wait for space."""
        text = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        with writing_to(self._directory):
            retry_while_full(lambda: self._append(text.encode()))

    def _append(self, content: bytes) -> None:
        self._lock.acquire()
        try:
            # "rb+" creates no file. "ab" would begin an empty journal if the study's folder was moved away.
            with open(self._file_path, "rb+", buffering=0) as file:
                _append(file, content)
        finally:
            self._lock.release()


class Lock(JournalFileSymlinkLock):
    """Optuna's lock on a journal, which other programs respect too. Releasing it never fails."""

    def release(self) -> None:
        """Release the lock."""
        with suppress(RuntimeError):  # the directory is gone or read-only: the next write reports it
            super().release()


class Reader:
    """Optuna's backend for a snapshot of a journal. It neither waits for a writer nor disturbs one.

    Args:
        journal: The path of the journal.

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
        """Yield the entries of the snapshot from an index on."""
        for log in self._logs[log_number_from:]:
            self.line += 1
            yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raise RuntimeError, because a snapshot is read only."""
        raise RuntimeError("this record was opened for reading only")


def _replayed(backend: Journal | Reader, journal: Path) -> JournalStorage:
    """Return Optuna's storage for a journal; raise UserError for a line that Optuna cannot read."""
    try:
        return JournalStorage(backend)  # type: ignore[arg-type]
    except UserError:
        raise
    except Exception as error:  # Optuna checks little, so a bad line raises AssertionError, KeyError or others
        raise UserError(
            f"{journal} is damaged in line {backend.line}, or a newer Optuna wrote that line: update Optuna, or "
            "restore the file from a copy"
        ) from error


def _lines(content: bytes, journal: Path) -> list[dict[str, Any]]:
    """Return the entries of a journal's complete lines; raise UserError for a line that is not a JSON object."""
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
    """Append complete lines to an unbuffered file and sync it. If this raises, remove all of the new lines."""
    end = _cut(file)
    try:
        rest = memoryview(content)
        while rest:  # an unbuffered write may stop half-way; it raises no error, but returns the number of bytes
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):  # if this fails too, `_cut` removes the incomplete line before the next one is appended
            file.truncate(end)
        raise


def _cut(file: IO[bytes]) -> int:
    """Cut off what follows the last complete line of an unbuffered file, seek to the new end and return it."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) in (b"\n", b""):
        return end
    file.seek(0)
    end = file.read().rfind(b"\n") + 1
    file.truncate(end)
    os.fsync(file.fileno())
    return file.seek(end)
