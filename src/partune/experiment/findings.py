"""Collect the results of an experiment from its studies' records, as plain data."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from partune.experiment import calibration
from partune.experiment.calibration import EPOCHS
from partune.experiment.protocol import CALIBRATION, Plan, dump
from partune.experiment.sentences import UPPER, headline
from partune.record.record import Record
from partune.report.comparison import bounds
from partune.report.comparison import data as compare
from partune.report.comparison.bounds import SEARCH, TEST, VERDICT, samples
from partune.report.facts import Facts
from partune.report.plain_data import Summary


@dataclass(frozen=True)
class Outcome:
    """A finished experiment.

    Attributes:
        plan: The experiment's plan.
        calibration: The study that found the number of epochs; None if there was no calibration.
        studies: The studies of the algorithms, by the names of their folders.
    """

    plan: Plan
    calibration: Facts | None
    studies: Mapping[str, Facts]

    @classmethod
    def read(cls, plan: Plan) -> Outcome:
        """Read the studies of a plan from their records."""
        ladder = opened(plan.directory / CALIBRATION) if plan.calibrated else None
        return cls(plan, ladder, {name: opened(plan.directory / name) for name in plan.studies(None)})

    @property
    def scored(self) -> list[Facts]:
        """The studies that can be compared: those with a score."""
        return [study for study in self.studies.values() if study.winner is not None]

    @property
    def courses(self) -> dict[str, Facts]:
        """The studies that are drawn: for each algorithm the first one with a score, by the algorithm's name.

        Algorithms that learn nothing from scores are left out, unless there are no others.
        """
        by_algorithm: dict[str, Facts] = {}
        for study in self.scored:
            by_algorithm.setdefault(study.header["algorithm"], study)
        return {name: study for name, study in by_algorithm.items() if not samples(name)} or by_algorithm

    @cached_property
    def summary(self) -> Summary:
        """All numbers of the tables and figures as plain data."""
        compared, tests = compare.comparison(self.scored), compare.on_tests(self.scored)
        summary = {
            "experiment": str(self.plan.directory),
            "calibration": None if self.calibration is None else _calibrated(self.calibration, self.plan),
            "bounds": _bounds(self, tests),
            "comparison": compared,
            "tests": tests,
            "better": _better(self.scored),
            "failed": [name for name, study in self.studies.items() if study.winner is None],
            "file": dump(self.plan.experiment),
            "versions": self.scored[0].summary["versions"],
        }
        return {"headline": headline(summary), **summary}


def opened(directory: Path) -> Facts:
    """Read the study in a folder from its record."""
    return Facts(Record.open(directory, read_only=True))


# ----- as data


def _calibrated(facts: Facts, plan: Plan) -> Summary:
    configs, table = calibration.scores(facts.trials)
    steps = calibration.steps(table)
    return {
        "configurations": configs,
        "scores": [[None if math.isnan(score) else score for score in row] for row in table.tolist()],
        "steps": [step._asdict() for step in steps],
        "sufficient": plan.protocol.sufficient,
        EPOCHS: calibration.enough(steps, plan.protocol.sufficient),
        "seconds": sum(part.seconds for part in facts.parts),
    }


def _bounds(outcome: Outcome, tasks: Collection[str]) -> list[Summary]:
    """Return the rows of the table of bounds, with the winners' scores among them.

    Args:
        outcome: The finished experiment.
        tasks: The names of the test tasks.
    """
    rows = bounds.bounds(compare.grouped(outcome.scored, lambda study: study.header["algorithm"]))
    if upper := outcome.plan.upper():
        rows.append({"name": f"{UPPER}: as given", "repeats": 0, "scores": _given(upper, outcome, tasks)})
    return rows


def _given(upper: Mapping[str, float], outcome: Outcome, tasks: Collection[str]) -> Summary:
    """Return the upper bound's scores by kind of items.

    A user's score is of all items of a task, so search items and verdict items have the same score. For several
    validation tasks, it is the mean of their scores.

    Args:
        upper: The user's scores by task.
        outcome: The finished experiment.
        tasks: The names of the test tasks.
    """
    validation = [] if outcome.plan.base.validation is None else outcome.plan.base.validation.tasks
    names = [Path(name).stem for name in validation]
    scores = {TEST + task: {"score": upper[task], "stderr": None} for task in tasks if task in upper}
    if names and all(name in upper for name in names):
        whole = {"score": float(np.mean([upper[name] for name in names])), "stderr": None}
        scores |= {SEARCH: whole, VERDICT: whole}
    return scores


def _better(studies: Sequence[Facts]) -> Summary | None:
    """Return how many winners are shown to be better than base and defaults; None if no study has a verdict."""
    verdicts = [study.summary["verdict"] for study in studies if study.summary["verdict"] is not None]
    if not verdicts:
        return None
    return {
        "studies": len(verdicts),
        "than_base": sum(bool(verdict["better_than"]) for verdict in verdicts),
        "than_defaults": sum("defaults" in verdict["better_than"] for verdict in verdicts),
        "adapters": sum(not verdict["seeds"] for verdict in verdicts),
    }
