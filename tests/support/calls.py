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
from tests.support.waiting import eventually, meet

LINE = Space(x=Float(0, 1))  # the space of `square`


def pid(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def meeting(folder: Path, count: int, me: str) -> int:
    """Return in which process this runs, once all that are to run at the same time do."""
    meet(folder, count, me)
    return os.getpid()


def staying(path: Path) -> int:
    """Return in which process this runs the second time; the first time it stays until its worker has gone."""
    if not path.exists():
        path.touch()
        time.sleep(600.0)
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


def saving_once(path: Path) -> int:
    """Save itself when it is told to go; called again, say in which process it runs."""
    if not path.exists():
        saving(path)
    return os.getpid()


def wait_for(path: Path) -> None:
    eventually(path.exists)


def square(config: pt.Config) -> float:
    time.sleep(0.05)
    return -((config["x"] - 0.3) ** 2)  # type: ignore[operator]
