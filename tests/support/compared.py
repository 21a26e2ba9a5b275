"""Studies that are compared, and the tables of their comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from partune import Float, Space, Study
from partune.record.record import Record
from partune.report.comparison import tables
from partune.report.facts import Facts
from partune.report.plain_data import Summary
from partune.trial import Config, Observation

PLANE = Space(x=Float(-5, 5), y=Float(-5, 5))


TUNED = Space(learning_rate=Float(1e-6, 1e-2, log=True))


CONFIG = "objective: hill\n"


def hill(config: Config, better: float = 0.0) -> Observation:
    """A trial takes two seconds, a bad one three."""
    score = 1 + better - (float(config["x"]) - 1) ** 2 / 9 - (float(config["y"]) + 2) ** 2 / 40
    return Observation({"score": score}, cost={"seconds": 2.0 if score > 0 else 3.0})


def made(directory: Path, algorithm: str = "random", seed: int = 0, budget: int = 5, **given: Any) -> Path:
    """Run a study in a directory, which is returned; given: over its space, objective and file; budget 0 runs none."""
    options = {"space": PLANE, "objective": hill, "config": CONFIG, **given}
    space, objective = options.pop("space"), options.pop("objective")
    study = Study(space, objective, algorithm, seed=seed, directory=directory, **options)
    if budget:
        study.run(budget)
    study.close()
    return directory


def opened(*directories: Path) -> list[Facts]:
    """Return what is on record in directories."""
    return [Facts(Record.open(directory, read_only=True)) for directory in directories]


def spread(scores: list[float]) -> list[float]:
    """Mean, quartiles and maximum."""
    return [float(np.mean(scores)), *np.quantile(scores, [0.25, 0.5, 0.75, 1])]


def table(found: Summary, title: str) -> list[dict[str, str]]:
    """The rows of a table, each cell under its header."""
    (section,) = [each for each in tables.sections(found) if each.title == title]
    return [dict(zip(section.headers, row, strict=True)) for row in section.rows]
