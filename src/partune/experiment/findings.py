"""What an experiment found, from its studies' records: as data for scripts, as sentences and tables for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partune.experiment import calibration
from partune.experiment.calibration import EPOCHS
from partune.experiment.protocol import CALIBRATION, SAMPLING, Plan, dump
from partune.repeats import differences
from partune.report import compare, words
from partune.report.compare import Section
from partune.report.facts import Facts
from partune.report.summary import Summary
from partune.storage import Record
from partune.trial import Status

if TYPE_CHECKING:
    from rich.console import Console

Scored = tuple[float, float | None]  # a score and its standard error

SEARCH, VERDICT, TEST = "search items", "verdict items", "test: "
LOWER, UPPER = "lower bound", "upper bound"


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
        return {name: study for name, study in found.items() if name not in SAMPLING} or found

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
    samplers = [name for name in by_name if name in SAMPLING]
    rows = [_row(f"{LOWER}: {name}, the mean sample", map(_samples, by_name[name])) for name in samplers]
    rows += [_row(f"{LOWER}: {name}, its winner", map(_winner, by_name[name])) for name in samplers]
    one_a_seed = list({study.header["seed"]: study for study in studies}.values())  # the same whatever searched
    for name, label in (("base", "untouched base"), ("defaults", "the field's defaults")):
        if scored := [study.scored[name] for study in one_a_seed if name in study.scored]:
            rows.append(_row(label, map(_anchor, scored)))
    rows += [_row(f"{name}, its winner", map(_winner, own)) for name, own in by_name.items() if name not in SAMPLING]
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


# ----- in words


def headline(found: Summary) -> str:
    """Do algorithms differ, and are their winners better than the base?"""
    return " ".join(filter(None, [_differing(found["comparison"]), _leading(found), _judged(found["better"])]))


def badge(found: Summary) -> tuple[str, str]:
    """The first answer in a few words, and its kind: good or open."""
    tested = found["comparison"]["differences"]
    if any(each["significant"] for each in tested):
        return "algorithms differ", "good"
    if any(each["shows"] for each in tested):
        return "no difference shown", "open"
    return "too few repeats to tell", "open"


def _differing(compared: Summary) -> str:
    tested = compared["differences"]
    if not tested:
        return "Whether algorithms differ is not tested: it takes two repeats of two algorithms."
    worse: dict[str, list[str]] = {}
    for each in tested:
        if each["significant"]:
            better, other = (each["first"], each["second"]) if each["gain"] > 0 else (each["second"], each["first"])
            worse.setdefault(better, []).append(other)
    if worse:
        told = [f"{better} is better than {words.listed(others)}" for better, others in worse.items()]
        most = max(each["corrected"] for each in tested if each["significant"])
        return f"The algorithms differ: {'; '.join(told)} (p ≤ {words.number(most, 2)}, corrected)."
    least = min(each["corrected"] for each in tested)
    repeats = max(len(own["seeds"]) for own in compared["algorithms"])
    names = words.listed([own["algorithm"] for own in compared["algorithms"]])
    if any(each["shows"] for each in tested):
        return (
            f"That {names} differ is not shown over {words.several(repeats, 'repeat')} "
            f"(smallest corrected {words.chance(least)})."
        )
    return f"{words.several(repeats, 'repeat')} cannot show that {names} differ, whatever the scores."


def _leading(found: Summary) -> str:
    """Who leads, in numbers."""
    compared = found["comparison"]
    best, kind = compared["algorithms"][0], VERDICT if compared["measure"] == "verdict" else SEARCH
    text = f"{best['algorithm']} leads in the mean with {words.number(best['result']['mean'], 3)}"
    others = {row["name"]: row["scores"][kind] for row in found["bounds"] if kind in row["scores"]}
    told = [
        f"{label} {words.number(others[name]['score'], 3)}"
        for name, label in (("untouched base", "untouched base"), ("the field's defaults", "defaults"))
        if name in others
    ]
    return f"{text} ({', '.join([compare.MEASURES[compared['measure']], *told])})."


def _judged(better: Summary | None) -> str:
    if better is None:
        return ""
    return (
        f"{better['than_base']:,} of {words.several(better['studies'], 'winner')} are shown to be better than the "
        f"untouched base model, {better['than_defaults']:,} than the defaults too."
    )


# ----- as tables


def sections(found: Summary) -> dict[str, list[Section]]:
    """The tables, by the part of the report that they belong to."""
    of_comparison = {each.title: each for each in compare.sections(found["comparison"])}
    return {
        **({"calibration": [_epochs(found["calibration"])]} if found["calibration"] is not None else {}),
        "bounds": [_bound_table(found)],
        "algorithms": [of_comparison["Algorithms"], of_comparison["Significance"]],
        "tests": [each for task, own in found["tests"].items() for each in _test_tables(task, own)],
        "cost": [of_comparison["Time and cost"]],
        "studies": [_unnamed(of_comparison["Studies"])],
    }


def _unnamed(studies: Section) -> Section:
    """Without the studies' folders, which are those of their algorithms and seeds."""
    return studies._replace(headers=studies.headers[1:], rows=[row[1:] for row in studies.rows])


def _bound_table(found: Summary) -> Section:
    rows = found["bounds"]
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["scores"]))
    kinds.sort(key=lambda kind: (kind != SEARCH, kind != VERDICT))
    heads = [kind if len(kinds) > 1 else "score" for kind in kinds]
    cells = [
        [
            row["name"],
            str(row["repeats"]) if row["repeats"] else words.NONE,
            *(_cell(row["scores"].get(kind)) for kind in kinds),
        ]
        for row in rows
    ]
    notes = [
        "Means over repeats with the standard error over them; of a single repeat with that of its items. A seed "
        "decides which items are kept for the verdict, so that base and defaults vary too."
        if VERDICT in kinds
        else "Means over repeats with the standard error over them."
    ]
    if VERDICT in kinds:
        notes.append("The search items chose the winners, so their scores there are too good.")
    if any(row["name"].startswith(UPPER) for row in rows):
        notes.append("The upper bound is what the user's table says of whole tasks.")
    notes += [f"Every trial of {name} failed: it is left out." for name in found["failed"]]
    return Section("Bounds", ["", "repeats", *heads], cells, notes)


def _cell(scored: Mapping[str, Any] | None) -> str:
    return words.NONE if scored is None else words.measured(scored["score"], scored["stderr"])


def _epochs(found: Summary) -> Section:
    scores = np.array([[math.nan if each is None else each for each in row] for row in found["scores"]])
    rows = []
    for k, step in enumerate(found["steps"]):
        column = scores[:, k][~np.isnan(scores[:, k])]
        correlation = step["correlation"]
        rows.append(
            [
                str(step["epochs"]),
                *(
                    [words.number(float(column.mean())), words.number(float(column.max()))]
                    if len(column)
                    else [words.NONE] * 2
                ),
                words.NONE if correlation is None else f"{correlation:.2f}",
                words.NONE if step["leader"] is None else words.number(step["leader"]),
                "enough" if step["epochs"] == found[EPOCHS] else "",
            ]
        )
    most = found["steps"][-1]["epochs"]
    n = len(found["configurations"])
    note = (
        f"{words.several(n, 'configuration')} from a Latin hypercube, each trained for 1 to {most} epochs with a "
        f"schedule of its own. Enough is the smallest number from which the rank correlation (Spearman) with the "
        f"training of {most} epochs is {found['sufficient']:g} or more: {found[EPOCHS]}, which all studies have."
    )
    notes = [note]
    if found[EPOCHS] == most:
        notes.append("Fewer do not keep the order, so the full number is taken.")
    heads = ["epochs", "mean score", "best", "rank correlation", "its best one, fully trained", ""]
    return Section("How many epochs are enough", heads, rows, notes)


def _test_tables(task: str, own: Summary) -> list[Section]:
    tried = any(each["scores"] is not None for each in own["algorithms"])
    rows = [
        [
            each["algorithm"],
            str(len(each["seeds"])),
            words.number(each["result"]),
            *(
                [
                    words.NONE if each["scores"] is None else words.number(each["scores"][name])
                    for name in compare.QUARTILES
                ]
                if tried
                else []
            ),
        ]
        for each in own["algorithms"]
    ]
    heads = [
        "algorithm",
        "repeats",
        "winner's score",
        *([f"trials: {name}" for name in compare.QUARTILES] if tried else []),
    ]
    note = "Means over repeats. No optimiser saw this task: it chose no winner."
    tested = compare.significance(own["differences"], f"winners' scores on {task}", f"Significance on {task}")
    return [Section(f"Test task {task}", heads, rows, [note]), tested]


def show(outcome: Outcome, quiet: bool = False, console: Console | None = None) -> None:
    """Prints the headline and the tables; quiet: the headline only."""
    if quiet:
        print(outcome.summary["headline"])
        return
    compare.tell([each for part in sections(outcome.summary).values() for each in part], console)
    print(outcome.summary["headline"])
