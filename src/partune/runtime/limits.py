"""Refuse a request for more processes or threads than a machine can hold, with the reason, before anything starts.

The limits are far above useful numbers, and far below those that would bring a machine down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from partune.errors import UserError

CGROUP = Path("/sys/fs/cgroup")
EACH_CORE = 16  # processes, or threads, that may share a core
EACH_PROCESS = 8  # a worker process and its threads count as at least this many in the system's limit to tasks
EACH_MEMORY = 128 * 2**20  # bytes that a worker process takes before it loads a model
EACH_FILES = 3  # open files of the driver per worker: connections and output
OWN_FILES = 64  # open files of the driver for other purposes


def require_workers(workers: int) -> None:
    """Raise UserError if this machine cannot hold a number of worker processes."""
    most, reason = min(_for_processes())
    if workers > most:
        raise UserError(
            f"{workers} worker processes are more than this machine can hold: {most} at most, because {reason}. "
            "Use fewer (`--workers`), or the workers of a cluster (`--scheduler`, `--cluster`)"
        )


def require_connections(workers: int) -> None:
    """Raise UserError if this process cannot be connected to a number of workers on any machines."""
    most, reason = _for_connections()
    if workers > most:
        raise UserError(f"{workers} workers are more than one process can drive: {most} at most, because {reason}")


def require_threads(threads: int | None) -> None:
    """Raise UserError if a number of CPU threads is too large for the cores. None is always accepted."""
    most, reason = _for_cores()
    if threads is not None and threads > most:
        raise UserError(f"{threads} CPU threads are more than this machine can hold: {most} at most, because {reason}")


def _for_processes() -> Iterator[tuple[int, str]]:
    """Yield limits to the number of worker processes, each with its reason."""
    import psutil

    yield _for_cores()
    free = psutil.virtual_memory().available
    # In a container psutil reports the memory of the machine. The control group has the limit of the container.
    if (most := _cgroup("memory.max")) is not None:
        free = min(free, most - (_cgroup("memory.current") or 0))
    yield free // EACH_MEMORY, f"each takes {EACH_MEMORY >> 20} MiB of memory, and {free / 2**30:.1f} GiB are free"
    if (tasks := _tasks()) is not None:
        yield tasks // EACH_PROCESS, f"each takes {EACH_PROCESS} of the {tasks} processes and threads that you may have"
    yield _for_connections()


def _for_cores() -> tuple[int, str]:
    # A batch job may use only some of the cores, which cpu_count does not know. macOS has no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return EACH_CORE * cores, f"{EACH_CORE} may share each of its {cores} cores"


def _for_connections() -> tuple[int, str]:
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:  # -1 on Linux, which would make the result below negative
        files = 2**20
    return (files - OWN_FILES) // EACH_FILES, f"each takes {EACH_FILES} of the {files} files that a process may open"


def _tasks() -> int | None:
    """Return the limit to this user's processes and threads, or None if there is no limit."""
    import resource

    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    limits = (processes if processes != resource.RLIM_INFINITY else None, _cgroup("pids.max"))
    return min((limit for limit in limits if limit is not None), default=None)


def _cgroup(name: str) -> int | None:
    """Return the number in a file of the control group, or None if there is no file or no limit in it."""
    try:
        return int((CGROUP / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
