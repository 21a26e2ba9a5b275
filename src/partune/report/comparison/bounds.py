"""Compare winners with bounds: the scores of random samples, of the untouched base and of the field's defaults.

The bounds come as plain data and as a table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from partune.errors import UserError
from partune.optimizers import algorithm_of
from partune.report import words
from partune.report.facts import Facts
from partune.report.plain_data import Summary
from partune.report.tables import Section
from partune.runtime import rounding
from partune.trial import Status
from partune.trial.goals import GOALS, SCORE, Goal

Scored = tuple[float, float | None]  # a score and its standard error

# The kinds of items. The last is the prefix of a test task's name.
SEARCH, VERDICT, TEST = "search items", "verdict items", "test: "
HEADS = {VERDICT: "held-out items"}  # headings that differ from the kind of items
LOWER, BASE, DEFAULTS = "lower bound", "untouched base", "the field's defaults"


def samples(name: str) -> bool:
    """Return whether an algorithm learns nothing from scores, so that its best sample is a lower bound.

    A user's own algorithm that can no longer be loaded counts as one that learns.
    """
    try:
        return not algorithm_of(name).learns
    except UserError:
        return False


# ----- as data


def bounds(groups: Mapping[str, Sequence[Facts]]) -> list[Summary]:
    """Return the rows of bounds and winners, with the mean score over repeats on each kind of items.

    The standard error is over repeats. A single repeat has the standard error over its items or its samples.

    Args:
        groups: The repeats by the name of their algorithm. All have the same objective.
    """
    sampled = {name: repeats for name, repeats in groups.items() if samples(repeats[0].header["algorithm"])}
    rows = [_row(f"{LOWER}: {name}, the mean sample", map(_samples, repeats)) for name, repeats in sampled.items()]
    rows += [_row(f"{LOWER}: {name}, its winner", map(_winner, repeats)) for name, repeats in sampled.items()]
    # The baselines depend on the seed only, so one study of each seed is enough, whatever its algorithm.
    one_a_seed = {study.header["seed"]: study for repeats in groups.values() for study in repeats}
    for name, label in _baselines(one_a_seed.values()).items():
        if scored := [study.scored[name] for study in one_a_seed.values() if name in study.scored]:
            rows.append(_row(label, map(_baseline, scored)))
    rows += [
        _row(f"{name}, its winner", map(_winner, repeats)) for name, repeats in groups.items() if name not in sampled
    ]
    return rows


def _baselines(studies: Iterable[Facts]) -> dict[str, str]:
    """Return the names of the baselines in `Facts.scored`, and their names in the table."""
    names = {"base": BASE, "defaults": DEFAULTS}
    for study in studies:
        if (first := study.summary["defaults"]) is not None and first["name"] is not None:
            names["defaults"] = first["called"]
        names |= {row["name"]: row["called"] for row in study.summary["baselines"]}
    return names


def _row(name: str, repeats: Iterable[Mapping[str, Scored]]) -> Summary:
    """Return the row of a bound.

    Args:
        name: The name of the bound.
        repeats: The scores of each repeat by kind of items.
    """
    scores = list(repeats)
    kinds = [kind for kind in scores[0] if all(kind in repeat for repeat in scores)]
    return {
        "name": name,
        "repeats": len(scores),
        "scores": {kind: _mean([repeat[kind] for repeat in scores]) for kind in kinds},
    }


def _mean(scored: Sequence[Scored]) -> Summary:
    """Return the mean of scores and its standard error; a single score keeps its own standard error."""
    score, stderr = scored[0] if len(scored) == 1 else _over([score for score, _ in scored])
    return {"score": score, "stderr": stderr}


def _over(values: Sequence[float]) -> Scored:
    """Return the mean of values and its standard error, which is None for a single value."""
    score = float(statistics.mean(values))
    # statistics.mean is exact, so equal values have error 0. A sum of floats would leave an error in the last digit.
    return score, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _samples(study: Facts) -> dict[str, Scored]:
    """Return the mean score over trials and its standard error, by kind of items."""
    kinds: dict[str, list[float]] = {SEARCH: [trial.score for trial in study.done]}
    for task in study.tests:
        kinds[TEST + task] = tested(study, task)
    return {kind: _over(values) for kind, values in kinds.items() if values}


def _winner(study: Facts) -> dict[str, Scored]:
    return _baseline(study.summary["best"])


def _baseline(row: Summary) -> dict[str, Scored]:
    scores: dict[str, Scored] = {SEARCH: (row["score"], row["stderr"])}
    if row["verdict"] is not None:
        scores[VERDICT] = row["verdict"]["score"], row["verdict"]["stderr"]
    return scores | {TEST + task: (test["score"], test["stderr"]) for task, test in row["test"].items()}


def tested(study: Facts, task: str) -> list[float]:
    """Return the scores on a test task of all trials that are done.

    Args:
        study: The facts of the study.
        task: The test task's name.
    """
    rows = study.summary["trials"]
    return [row["test"][task]["score"] for row in rows if row["status"] == Status.DONE and task in row["test"]]


# ----- as a table


def goals(compared: Summary, tests: Mapping[str, Summary]) -> dict[str, Goal]:
    """Return what the scores on each kind of items measure.

    Args:
        compared: The comparison of the algorithms.
        tests: The comparison on each test task.
    """
    whole = GOALS[compared["studies"][0]["goal"]]
    return {SEARCH: whole, VERDICT: whole, **{TEST + task: GOALS[found["goal"]] for task, found in tests.items()}}


def table(rows: Sequence[Summary], measured: Mapping[str, Goal]) -> Section:
    """Return the bounds as a table.

    Args:
        rows: The bounds and the winners.
        measured: What the scores on each kind of items measure.
    """
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["scores"]))
    kinds.sort(key=lambda kind: (kind != SEARCH, kind != VERDICT))
    shown = {kind: measured.get(kind, SCORE) for kind in kinds}
    heads = [
        (HEADS.get(kind, kind) + (f", {goal.label}" if goal.label else "")) if len(kinds) > 1 else goal.name
        for kind, goal in shown.items()
    ]
    cells = [
        [
            row["name"],
            str(row["repeats"]) if row["repeats"] else rounding.NONE,
            *(words.score_of(row["scores"].get(kind), goal) for kind, goal in shown.items()),
        ]
        for row in rows
    ]
    notes = [
        "Means and their standard errors over repeats; a single repeat has the standard error over its items or "
        "samples. The seed decides which items are held out for the verdict, so base and defaults vary too."
        if VERDICT in kinds
        else "Means and their standard errors over repeats."
    ]
    if VERDICT in kinds:
        notes.append("The search items chose the winners, so the winners' scores on them are too good.")
    return Section("Bounds", ["", "repeats", *heads], cells, notes)
