"""Writing a study's files, when the disk is full, became read-only, or has gone.

While the disk is full, writing waits, as somebody may make room. Whatever else is wrong with it ends the run in one
line. Trials that have ended are not lost then: they are on record, and the study can be resumed.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from partune.errors import UserError

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left, or none left for this user
GONE = (errno.ENOENT, errno.ESTALE)
PATIENCE = 600.0  # seconds to wait for space
AGAIN = 1.0  # seconds between two attempts

log = logging.getLogger(__name__)


def retry_while_full(write: Callable[[], T]) -> T:
    """Call a function that writes, and return what it returns; while the disk is full, call it again.

    Raises:
        OSError: The function's, at once, or after PATIENCE seconds of a full disk.
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
                log.warning("%s: waiting up to %.0f minutes for room.", error.strerror, PATIENCE / 60)
                warned = True
        time.sleep(AGAIN)


def draft_of(path: Path) -> Path:
    """Return a path beside another that nobody has taken: for what is renamed to the other once it is complete."""
    return path.with_name(f".partune-{uuid.uuid4().hex}")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, instead of one that may exist.

    Args:
        path: The file.
        text: What it is to hold.

    Raises:
        UserError: It cannot be written.
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
    """Clear a path for a folder that is to be renamed to it.

    A folder there is an earlier one of partune's, and is deleted. A file or a link is somebody's own: it is kept under
    another name, and a link is not followed.
    """
    if path.is_symlink() or path.is_file():
        aside = path.with_name(f"{path.name}.aside-{uuid.uuid4().hex[:8]}")
        path.rename(aside)
        log.warning("%s was in the way, and is %s now.", path, aside.name)
    elif path.exists():
        shutil.rmtree(path)


def blames_disk(error: str) -> bool:
    """Return whether an error says, in the system's words, that a disk is full or cannot be written."""
    return any(os.strerror(number) in error for number in (*FULL, errno.EROFS))


@contextmanager
def writing_to(study: Path) -> Iterator[None]:
    """Turn what a study's directory refuses within the context into a UserError that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno in GONE:  # a network file system says ESTALE of a folder that was removed elsewhere
            problem = f"{study}, or a part of it, has gone: put it back"
        else:
            problem = f"cannot write {study}: {error.strerror or error}. Mend that"
        again = f"partune resume {shlex.quote(str(study))}"
        raise UserError(f"{problem}, and continue with {again}: what has ended is on record") from None
