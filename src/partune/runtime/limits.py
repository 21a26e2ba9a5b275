"""How much a machine can hold: a user who asks for more is refused before anything starts, with the reason.

The limits are far above what is of use, and far below what brings a machine down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from partune.errors import UserError

CGROUP = Path("/sys/fs/cgroup")
EACH_CORE = 16  # processes, or threads, that may take turns on a core
EACH_PROCESS = 8  # tasks that a worker process has at least, as the system counts them: itself and its threads
EACH_MEMORY = 128 * 2**20  # bytes that a worker process takes before it has loaded anything of its own
EACH_FILES = 3  # open files that the driver has for a worker: connections, and what it writes
OWN_FILES = 64  # open files that the driver has for itself


def require_workers(workers: int) -> None:
    """Check that this machine can hold a number of worker processes; raise UserError where it cannot."""
    most, reason = min(_for_processes())
    if workers > most:
        raise UserError(
            f"{workers} worker processes are more than this machine can hold: {most} at most, as {reason}. "
            "Ask for fewer (--workers), or for a cluster's (--scheduler, --cluster)"
        )


def require_connections(workers: int) -> None:
    """Check that this process can be connected with a number of workers, wherever they are; raise UserError if not."""
    most, reason = _for_connections()
    if workers > most:
        raise UserError(f"{workers} workers are more than one driver can have: {most} at most, as {reason}")


def require_threads(threads: int | None) -> None:
    """Check that a number of CPU threads can take turns on the cores; raise UserError if not; None is fine."""
    most, reason = _for_cores()
    if threads is not None and threads > most:
        raise UserError(f"{threads} CPU threads are more than this machine can hold: {most} at most, as {reason}")


def _for_processes() -> Iterator[tuple[int, str]]:
    """Yield how many worker processes there may be, each time with what the number follows from."""
    import psutil

    yield _for_cores()
    free = psutil.virtual_memory().available
    # In a container psutil sees the memory of the whole machine; what the container may take is its control group's.
    if (most := _cgroup("memory.max")) is not None:
        free = min(free, most - (_cgroup("memory.current") or 0))
    yield free // EACH_MEMORY, f"each takes {EACH_MEMORY >> 20} MiB of memory, and {free / 2**30:.1f} GiB are free"
    if (tasks := _tasks()) is not None:
        yield tasks // EACH_PROCESS, f"each takes {EACH_PROCESS} of the {tasks} processes and threads that you may have"
    yield _for_connections()


def _for_cores() -> tuple[int, str]:
    # A batch job's processes may use some of the cores only, which cpu_count does not know; macOS has no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return EACH_CORE * cores, f"{EACH_CORE} take turns on each of its {cores} cores"


def _for_connections() -> tuple[int, str]:
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:  # -1 on Linux, so that the division below would give a negative number
        files = 2**20
    return (files - OWN_FILES) // EACH_FILES, f"each takes {EACH_FILES} of the {files} files that a process may open"


def _tasks() -> int | None:
    """Return how many processes and threads this user may have in all; None for any number."""
    import resource

    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    limits = (processes if processes != resource.RLIM_INFINITY else None, _cgroup("pids.max"))
    return min((limit for limit in limits if limit is not None), default=None)


def _cgroup(name: str) -> int | None:
    """Return a number from a file of the control group; None where there is no such file, or no limit in it."""
    try:
        return int((CGROUP / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
