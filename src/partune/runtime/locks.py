"""Lock files. The system releases a lock when its process ends, even after a crash."""

from __future__ import annotations

from typing import IO

from partune.errors import UserError


def lock(file: IO[bytes], shared: bool = False) -> None:
    """Lock an open file, or fail at once. The lock ends when the file is closed.

    Args:
        file: A file that is open for reading or writing.
        shared: Whether other processes may hold a shared lock on the file too.

    Raises:
        OSError: Another process holds a lock, or the file system has no locks.
        UserError: The operating system is not a POSIX system.
    """
    try:
        import fcntl  # imported here, so that a configuration can be read on every system
    except ImportError:
        raise UserError("partune needs Linux or macOS to run a study in a directory, because it locks files") from None
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
