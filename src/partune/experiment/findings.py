"""What an experiment found, from its studies' records, as data."""

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
    """An experiment that is over.

    Attributes:
        plan: Its plan.
        calibration: The study that found the number of epochs; None where there was none.
        studies: All its studies, by their folders' names.
    """

    plan: Plan
    calibration: Facts | None
    studies: Mapping[str, Facts]

    @classmethod
    def read(cls, plan: Plan) -> Outcome:
        """Return the outcome of a plan whose studies are on record."""
        ladder = opened(plan.directory / CALIBRATION) if plan.calibrated else None
        return cls(plan, ladder, {name: opened(plan.directory / name) for name in plan.studies(None)})

    @property
    def scored(self) -> list[Facts]:
        """The studies that can be compared: a trial of theirs has a score."""
        return [study for study in self.studies.values() if study.winner is not None]

    @property
    def courses(self) -> dict[str, Facts]:
        """The studies that are drawn, by algorithm: the first seed's of those that learn, or of all where none does."""
        by_algorithm: dict[str, Facts] = {}
        for study in self.scored:
            by_algorithm.setdefault(study.header["algorithm"], study)
        return {name: study for name, study in by_algorithm.items() if not samples(name)} or by_algorithm

    @cached_property
    def summary(self) -> Summary:
        """Every number of the tables and figures as plain data."""
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
    """Return what is on record of a study."""
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
    """Return the bounds and what lies between them.

    Args:
        outcome: The experiment.
        tasks: The test tasks.
    """
    rows = bounds.bounds(compare.grouped(outcome.scored, lambda study: study.header["algorithm"]))
    if upper := outcome.plan.upper():
        rows.append({"name": f"{UPPER}: as given", "repeats": 0, "scores": _given(upper, outcome, tasks)})
    return rows


def _given(upper: Mapping[str, float], outcome: Outcome, tasks: Collection[str]) -> Summary:
    """Return the upper bound's scores, which are of whole tasks; of several validation tasks their mean.

    Args:
        upper: The user's scores by task.
        outcome: The experiment.
        tasks: The test tasks.
    """
    validation = [] if outcome.plan.base.validation is None else outcome.plan.base.validation.tasks
    names = [Path(name).stem for name in validation]
    scores = {TEST + task: {"score": upper[task], "stderr": None} for task in tasks if task in upper}
    if names and all(name in upper for name in names):
        whole = {"score": float(np.mean([upper[name] for name in names])), "stderr": None}
        scores |= {SEARCH: whole, VERDICT: whole}
    return scores


def _better(studies: Sequence[Facts]) -> Summary | None:
    """Return how many winners are shown better; None where there is no base."""
    verdicts = [study.summary["verdict"] for study in studies if study.summary["verdict"] is not None]
    if not verdicts:
        return None
    return {
        "studies": len(verdicts),
        "than_base": sum(bool(verdict["better_than"]) for verdict in verdicts),
        "than_defaults": sum("defaults" in verdict["better_than"] for verdict in verdicts),
        "adapters": sum(not verdict["seeds"] for verdict in verdicts),
    }
