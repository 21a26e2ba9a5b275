"""Calls for worker processes to make: they are pickled by their names, so they live in a module of their own."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import partune as pt
from partune.runtime.preemption import PreemptedError, noticed, saving_on_notice
from partune.space import Float, Space

LINE = Space(x=Float(0, 1))  # the space of `square`


def pid(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("no such thing")


def warn() -> None:
    logging.getLogger("partune.anything").warning("the disk of this node is full")


def saving(path: Path) -> None:
    """What saves itself when it is told to go, and takes its time for it."""
    with saving_on_notice():
        path.with_suffix(".begun").touch()
        while not noticed():
            time.sleep(0.02)
        time.sleep(1.5)
        path.write_text("saved")
    raise PreemptedError


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.02)


def square(config: pt.Config) -> float:
    time.sleep(0.05)
    return -((config["x"] - 0.3) ** 2)  # type: ignore[operator]
