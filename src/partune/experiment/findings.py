"""What an experiment found, from its studies' records, as data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from partune.experiment import calibration
from partune.experiment.calibration import EPOCHS
from partune.experiment.protocol import CALIBRATION, Plan, dump, samples
from partune.experiment.sentences import BASE, DEFAULTS, LOWER, SEARCH, TEST, UPPER, VERDICT, headline
from partune.repeats import differences
from partune.report import compare
from partune.report.facts import Facts
from partune.report.summary import Summary
from partune.storage import Record
from partune.trial import Status

Scored = tuple[float, float | None]  # a score and its standard error


@dataclass(frozen=True)
class Outcome:
    """An experiment that is over. studies: all of them, by their folders' names."""

    plan: Plan
    calibration: Facts | None
    studies: Mapping[str, Facts]

    @classmethod
    def read(cls, plan: Plan) -> Outcome:
        ladder = opened(plan.directory / CALIBRATION) if plan.calibrated else None
        return cls(plan, ladder, {name: opened(plan.directory / name) for name in plan.studies(None)})

    @property
    def scored(self) -> list[Facts]:
        """The studies that can be compared: any trial of theirs has a score."""
        return [study for study in self.studies.values() if study.winner is not None]

    @property
    def courses(self) -> dict[str, Facts]:
        """The studies that are drawn, by algorithm: the first seed's of those that learn; of all where none does."""
        found: dict[str, Facts] = {}
        for study in self.scored:
            found.setdefault(study.header["algorithm"], study)
        return {name: study for name, study in found.items() if not samples(name)} or found

    @property
    def tests(self) -> list[str]:
        """The test tasks that the trials were scored on, or base, defaults and winners only."""
        return list(dict.fromkeys(task for study in self.scored for task in study.tests))

    @cached_property
    def summary(self) -> Summary:
        """Every number of the tables and figures as plain data."""
        compared = compare.compare(self.scored)
        found = {
            "experiment": str(self.plan.directory),
            "calibration": None if self.calibration is None else _calibrated(self.calibration, self.plan),
            "bounds": _bounds(self),
            "comparison": compared,
            "tests": {task: _on_test(self.scored, task) for task in self.tests},
            "better": _better(self.scored),
            "failed": [name for name, study in self.studies.items() if study.winner is None],
            "file": dump(self.plan.experiment),
            "versions": self.scored[0].summary["versions"],
        }
        return {"headline": headline(found), **found}


def opened(directory: Path) -> Facts:
    return Facts(Record.open(directory, read_only=True))


# ----- as data


def _calibrated(facts: Facts, plan: Plan) -> Summary:
    configs, table = calibration.scores(facts.trials)
    steps = calibration.steps(table)
    return {
        "configurations": configs,
        "scores": [[None if math.isnan(each) else each for each in row] for row in table.tolist()],
        "steps": [step._asdict() for step in steps],
        "sufficient": plan.protocol.sufficient,
        EPOCHS: calibration.enough(steps, plan.protocol.sufficient),
        "seconds": sum(part.seconds for part in facts.parts),
    }


def _bounds(outcome: Outcome) -> list[Summary]:
    """The bounds, and between them base, defaults and winners: on each kind of items the mean over repeats.

    The standard error is that over repeats; of a single one that of its items.
    """
    studies = outcome.scored
    by_name: dict[str, list[Facts]] = {}
    for study in studies:
        by_name.setdefault(study.header["algorithm"], []).append(study)
    samplers = [name for name in by_name if samples(name)]
    rows = [_row(f"{LOWER}: {name}, the mean sample", map(_samples, by_name[name])) for name in samplers]
    rows += [_row(f"{LOWER}: {name}, its winner", map(_winner, by_name[name])) for name in samplers]
    one_a_seed = list({study.header["seed"]: study for study in studies}.values())  # the same whatever searched
    for name, label in (("base", BASE), ("defaults", DEFAULTS)):
        if scored := [study.scored[name] for study in one_a_seed if name in study.scored]:
            rows.append(_row(label, map(_anchor, scored)))
    rows += [_row(f"{name}, its winner", map(_winner, own)) for name, own in by_name.items() if name not in samplers]
    if upper := outcome.plan.upper():
        rows.append({"name": f"{UPPER}: as given", "repeats": 0, "scores": _given(upper, outcome)})
    return rows


def _row(name: str, repeats: Iterable[Mapping[str, Scored]]) -> Summary:
    """repeats: the scores by kind of items."""
    found = list(repeats)
    kinds = [kind for kind in found[0] if all(kind in each for each in found)]
    return {
        "name": name,
        "repeats": len(found),
        "scores": {kind: _mean([each[kind] for each in found]) for kind in kinds},
    }


def _mean(scored: Sequence[Scored]) -> Summary:
    values = [score for score, _ in scored]
    stderr = scored[0][1] if len(values) == 1 else float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"score": float(np.mean(values)), "stderr": stderr}


def _samples(study: Facts) -> dict[str, Scored]:
    """The mean over trials; its standard error is that over them."""
    kinds: dict[str, list[float]] = {SEARCH: [trial.score for trial in study.done]}
    for task in study.tests:
        kinds[TEST + task] = _tested(study, task)
    return {
        kind: (float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values)) if values[1:] else None)
        for kind, values in kinds.items()
        if values
    }


def _winner(study: Facts) -> dict[str, Scored]:
    return _anchor(study.summary["best"])


def _anchor(row: Summary) -> dict[str, Scored]:
    found: dict[str, Scored] = {SEARCH: (row["score"], row["stderr"])}
    if row["verdict"] is not None:
        found[VERDICT] = row["verdict"]["score"], row["verdict"]["stderr"]
    return found | {TEST + task: (each["score"], each["stderr"]) for task, each in row["test"].items()}


def _given(upper: Mapping[str, float], outcome: Outcome) -> Summary:
    """The upper bound's scores, which are of whole tasks; of several validation tasks their mean, as the search has."""
    validation = [] if outcome.plan.base.validation is None else outcome.plan.base.validation.tasks
    names = [Path(name).stem for name in validation]
    found = {TEST + task: {"score": upper[task], "stderr": None} for task in outcome.tests if task in upper}
    if names and all(name in upper for name in names):
        whole = {"score": float(np.mean([upper[name] for name in names])), "stderr": None}
        found |= {SEARCH: whole, VERDICT: whole}
    return found


def _tested(study: Facts, task: str) -> list[float]:
    """The trials' scores on a test task."""
    rows = study.summary["trials"]
    return [row["test"][task]["score"] for row in rows if row["status"] == Status.DONE and task in row["test"]]


def _on_test(studies: Sequence[Facts], task: str) -> Summary:
    """Mean, quartiles and maximum of the trials by algorithm, and the winners, tested against each other."""
    groups: dict[str, list[Facts]] = {}
    for study in studies:
        if task in study.summary["best"]["test"]:
            groups.setdefault(compare.label(study), []).append(study)
    results = {
        name: {study.header["seed"]: float(study.summary["best"]["test"][task]["score"]) for study in own}
        for name, own in groups.items()
    }
    ordered = sorted(groups, key=lambda name: -np.mean([*results[name].values()]))
    return {
        "algorithms": [
            {
                "algorithm": name,
                "seeds": sorted(results[name]),
                "result": float(np.mean([*results[name].values()])),
                "scores": _quartiles([_tested(study, task) for study in groups[name]]),
            }
            for name in ordered
        ],
        "differences": [compare.plainly(each) for each in differences({name: results[name] for name in ordered})],
    }


def _quartiles(repeats: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """In the mean over repeats; None where trials were not tested."""
    found = [compare.quartiles(scores) for scores in repeats if scores]
    return {name: float(np.mean([each[name] for each in found])) for name in compare.QUARTILES} if found else None


def _better(studies: Sequence[Facts]) -> Summary | None:
    """How many winners are shown better; None where there is no base."""
    verdicts = [study.summary["verdict"] for study in studies if study.summary["verdict"] is not None]
    if not verdicts:
        return None
    return {
        "studies": len(verdicts),
        "than_base": sum(bool(verdict["better_than"]) for verdict in verdicts),
        "than_defaults": sum("defaults" in verdict["better_than"] for verdict in verdicts),
    }
