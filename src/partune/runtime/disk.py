"""What a study keeps on disk, when the disk is full, became read-only, or has gone.

A full disk is waited for, as somebody may make room; whatever else is wrong with it ends the run in one line. Nothing
that has ended is lost then: it is on record, and the study can be resumed.
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


def persistent(write: Callable[[], T]) -> T:
    """What a write answers; while the disk is full it is tried again, PATIENCE seconds at most. Raises OSError."""
    since = time.monotonic()
    told = False
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL or time.monotonic() - since > PATIENCE:
                raise
            if not told:
                log.warning("%s: waiting up to %.0f minutes for room.", error.strerror, PATIENCE / 60)
                told = True
        time.sleep(AGAIN)


def draft_of(path: Path) -> Path:
    """Return a path beside another that nobody else has taken: for what takes the other's place once it is complete."""
    return path.with_name(f".partune-{uuid.uuid4().hex}")


def replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all, in the place of one that is there; raises UserError where that cannot be."""
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
    """Clear a path for a folder that takes its place: delete a folder, and put aside what was never one.

    A link is not followed. A file or a link is somebody's own, and is kept under another name.
    """
    if path.is_symlink() or path.is_file():
        aside = path.with_name(f"{path.name}.aside-{uuid.uuid4().hex[:8]}")
        path.rename(aside)
        log.warning("%s was in the way, and is %s now.", path, aside.name)
    elif path.exists():
        shutil.rmtree(path)


def blamed(error: str) -> bool:
    """Whether an error says, in the system's words, that a disk is full or cannot be written."""
    return any(os.strerror(number) in error for number in (*FULL, errno.EROFS))


@contextmanager
def kept(study: Path) -> Iterator[None]:
    """What a study's directory refuses within becomes a UserError that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno in GONE:
            said = f"{study}, or a part of it, has gone: put it back"
        else:
            said = f"cannot write {study}: {error.strerror or error}. Mend that"
        again = f"partune resume {shlex.quote(str(study))}"
        raise UserError(f"{said}, and continue with {again}: what has ended is on record") from None
