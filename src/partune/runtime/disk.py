"""Write a study's files even if the disk fills up, and report other disk errors in one line.

While the disk is full, writing waits, because somebody may free space. Any other disk error ends the run with a message
of one line. Finished trials are not lost: they are on record, and the study can be resumed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from partune.errors import UserError
from partune.runtime.paths import command_on

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left on the disk, or in the user's quota
GONE = (errno.ENOENT, errno.ESTALE)
PATIENCE = 600.0  # seconds to wait for space
AGAIN = 1.0  # seconds between two attempts

log = logging.getLogger(__name__)


def retry_while_full(write: Callable[[], T]) -> T:
    """Call a function that writes, repeat the call while the disk is full, and return the result.

    Args:
        write: The function, which can be called again after a failure.

    Raises:
        OSError: The function raised an error other than a full disk, or the disk was full for PATIENCE seconds.
    """
    since = time.monotonic()
    warned = False
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL or time.monotonic() - since > PATIENCE:
                raise
            if not warned:
                log.warning("%s: waiting up to %.0f minutes for free space.", error.strerror, PATIENCE / 60)
                warned = True
        time.sleep(AGAIN)


def draft_of(path: Path) -> Path:
    """Return an unused path in the same folder, for a draft that is renamed to `path` when it is complete."""
    return path.with_name(f".partune-{uuid.uuid4().hex}")


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all, and replace an existing one.

    Args:
        path: The path of the file.
        text: The content of the file.

    Raises:
        UserError: The file cannot be written.
    """
    draft = draft_of(path)
    try:
        with draft.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def make_way(path: Path) -> None:
    """Clear a path so that a folder can be renamed to it.

    A folder at the path was made by partune earlier, and is deleted. A file or a link belongs to somebody else. It is
    kept under a new name, and a link is not followed.
    """
    if path.is_symlink() or path.is_file():
        aside = path.with_name(f"{path.name}.aside-{uuid.uuid4().hex[:8]}")
        path.rename(aside)
        log.warning("%s was in the way and was renamed to %s.", path, aside.name)
    elif path.exists():
        shutil.rmtree(path)


def blames_disk(error: str) -> bool:
    """Return whether the text of an error has the system's message for a full or read-only disk."""
    return any(os.strerror(number) in error for number in (*FULL, errno.EROFS))


@contextmanager
def writing_to(study: Path) -> Iterator[None]:
    """Turn an OSError of a study's directory within the context into a UserError that says how to continue."""
    try:
        yield
    except OSError as error:
        if error.errno in GONE:  # a network file system reports ESTALE for a folder that another machine removed
            problem = f"{study} or a part of it is gone. Restore it"
        else:
            problem = f"cannot write {study}: {error.strerror or error}. Fix this"
        again = f"`{command_on('resume', study)}`"
        raise UserError(f"{problem}, and continue with {again}: finished trials are on record") from None
