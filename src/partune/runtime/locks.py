"""Locks of files, which the system takes back when their process ends, however it ends."""

from __future__ import annotations

from typing import IO

from partune.errors import UserError


def lock(file: IO[bytes], shared: bool = False) -> None:
    """Lock an open file, or fail at once; the lock ends when the file is closed.

    Args:
        file: Open for reading or writing.
        shared: Whether others may hold a shared lock on the file, too.

    Raises:
        OSError: Another process holds a lock, or the file system knows none.
        UserError: The operating system is not one of POSIX.
    """
    try:
        import fcntl  # within the function, so that reading a configuration works on every system
    except ImportError:
        raise UserError("partune needs Linux or macOS to run a study in a directory, for locks of files") from None
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
