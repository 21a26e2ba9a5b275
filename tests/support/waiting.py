"""Waiting for what another thread or process does, however busy the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 300.0  # seconds: long, as only a test that fails waits for all of it


def eventually(ask: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Return the first answer that is true; fail where none is in time.

    A condition is asked for again and again, never once at a moment that a faster or slower machine would not meet.

    Args:
        ask: What is asked.
        seconds: How long.
    """
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{answer!r} after {seconds:g} s"
        time.sleep(0.01)
    return answer


@contextmanager
def killed(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Kill a process at the end of the context if it still runs; leaving `with Popen` would wait for it for ever."""
    try:
        yield
    finally:
        process.kill()


def meet(folder: Path, count: int, me: str) -> None:
    """Wait in a folder until `count` calls, of any process, are there: so many are under way at once.

    Args:
        folder: Where they meet; it is made.
        count: How many are to come.
        me: This one's name, of which the calls have one each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / me).touch()
    eventually(lambda: len(list(folder.iterdir())) >= count)
