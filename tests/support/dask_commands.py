"""Dask's own commands: a scheduler and workers as other programs start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def dask_commands() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Lend a function that starts a `dask` command; the commands end with the context."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def scheduler(port: int) -> tuple[str, ...]:
    return ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")


def worker(address: str) -> tuple[str, ...]:
    return ("worker", address, "--nthreads", "8", "--host", "127.0.0.1", "--no-dashboard", "--memory-limit", "0")


def free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
