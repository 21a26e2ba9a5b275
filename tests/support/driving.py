"""Processes that drive studies together, for the tests of several drivers."""

from __future__ import annotations

import os
import time
from pathlib import Path

from partune import Study, study
from partune.trial import Config
from tests.study.test_study import PLANE, himmelblau

BUDGET = 20


def slow(config: Config) -> float:
    """Takes a time that is random to the search: the drivers' trials end in any order. Failures among them."""
    time.sleep((hash(config["x"]) % 1000) * 4e-5)
    if float(config["x"]) > 4.5:
        raise RuntimeError("too far")
    return himmelblau(config)


class Driver:
    """An objective that notes in a file who ran what."""

    def __init__(self, directory: Path, name: str, gate: Path | None = None) -> None:
        self.calls = directory / f"calls-{name}"
        self.gate = gate

    def __call__(self, config: Config) -> float:
        with self.calls.open("a") as calls:
            calls.write(f"{dict(config)}\n")
        while self.gate is not None and not self.gate.exists():
            time.sleep(0.005)
        return slow(config)


def drive(root: Path, algorithms: list[str], index: int, count: int, storage: str | None) -> None:
    """Drives one study after the other, with `count` processes at once; the first of them leads."""
    study.study.POLL = 0.05  # these trials take milliseconds
    for number, algorithm in enumerate(algorithms):
        directory = root / f"{number:02d}"
        driven = Study(
            PLANE,
            Driver(root, f"{number:02d}-{index}"),
            algorithm,
            seed=5,
            directory=directory,
            resume=True,
            join=index > 0,
            storage=storage,
        )
        (root / f"ready-{number:02d}-{index}").touch()
        while len(list(root.glob(f"ready-{number:02d}-*"))) < count:
            time.sleep(0.005)
        driven.run(BUDGET)
        driven.close()


def drive_one(directory: Path, name: str, gate: Path | None, join: bool, budget: int, storage: str | None) -> None:
    """Drives one study; its trials wait until the gate is there."""
    driver = Driver(directory.parent, name, gate)
    driven = Study(PLANE, driver, "lhs", seed=5, directory=directory, resume=True, join=join, storage=storage)
    driven.run(budget)
    driven.close()
    os._exit(0)
