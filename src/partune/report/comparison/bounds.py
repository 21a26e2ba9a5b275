"""Between which scores winners lie: those of mere samples, of the untouched base and of the field's defaults."""

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

Scored = tuple[float, float | None]  # a score and its standard error

SEARCH, VERDICT, TEST = "search items", "verdict items", "test: "  # before a test task's name
HEADS = {VERDICT: "held-out items"}  # in a table; scripts read the kind
LOWER, BASE, DEFAULTS = "lower bound", "untouched base", "the field's defaults"


def samples(name: str) -> bool:
    """Whether an algorithm learns nothing, so that the best of its samples is a lower bound.

    No, where it cannot be loaded any more: it came from the user's own code.
    """
    try:
        return not algorithm_of(name).learns
    except UserError:
        return False


# ----- as data


def bounds(groups: Mapping[str, Sequence[Facts]]) -> list[Summary]:
    """The bounds, and the winners above them: on each kind of items the mean over repeats.

    groups: the repeats by their algorithm's name; all have one objective.
    The standard error is that over repeats; of a single one that of its items, or of its samples.
    """
    sampled = {name: own for name, own in groups.items() if samples(own[0].header["algorithm"])}
    rows = [_row(f"{LOWER}: {name}, the mean sample", map(_samples, own)) for name, own in sampled.items()]
    rows += [_row(f"{LOWER}: {name}, its winner", map(_winner, own)) for name, own in sampled.items()]
    one_a_seed = {study.header["seed"]: study for own in groups.values() for study in own}  # whatever searched
    for name, label in (("base", BASE), ("defaults", DEFAULTS)):
        if scored := [study.scored[name] for study in one_a_seed.values() if name in study.scored]:
            rows.append(_row(label, map(_anchor, scored)))
    rows += [_row(f"{name}, its winner", map(_winner, own)) for name, own in groups.items() if name not in sampled]
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
    score, stderr = scored[0] if len(scored) == 1 else _over([score for score, _ in scored])
    return {"score": score, "stderr": stderr}


def _over(values: Sequence[float]) -> Scored:
    """The mean, and its standard error over the values; exactly none where they are equal, as a base's are."""
    score = float(statistics.mean(values))
    return score, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _samples(study: Facts) -> dict[str, Scored]:
    """The mean over trials; its standard error is that over them."""
    kinds: dict[str, list[float]] = {SEARCH: [trial.score for trial in study.done]}
    for task in study.tests:
        kinds[TEST + task] = tested(study, task)
    return {kind: _over(values) for kind, values in kinds.items() if values}


def _winner(study: Facts) -> dict[str, Scored]:
    return _anchor(study.summary["best"])


def _anchor(row: Summary) -> dict[str, Scored]:
    found: dict[str, Scored] = {SEARCH: (row["score"], row["stderr"])}
    if row["verdict"] is not None:
        found[VERDICT] = row["verdict"]["score"], row["verdict"]["stderr"]
    return found | {TEST + task: (each["score"], each["stderr"]) for task, each in row["test"].items()}


def tested(study: Facts, task: str) -> list[float]:
    """The trials' scores on a test task."""
    rows = study.summary["trials"]
    return [row["test"][task]["score"] for row in rows if row["status"] == Status.DONE and task in row["test"]]


# ----- as a table


def table(rows: Sequence[Summary]) -> Section:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["scores"]))
    kinds.sort(key=lambda kind: (kind != SEARCH, kind != VERDICT))
    heads = [HEADS.get(kind, kind) if len(kinds) > 1 else "score" for kind in kinds]
    cells = [
        [
            row["name"],
            str(row["repeats"]) if row["repeats"] else rounding.NONE,
            *(words.score_of(row["scores"].get(kind)) for kind in kinds),
        ]
        for row in rows
    ]
    notes = [
        "Means over repeats with the standard error over them; of a single repeat with that of its items, or of its "
        "samples. A seed decides which items are kept for the verdict, so that base and defaults vary too."
        if VERDICT in kinds
        else "Means over repeats with the standard error over them."
    ]
    if VERDICT in kinds:
        notes.append("The search items chose the winners, so their scores there are too good.")
    return Section("Bounds", ["", "repeats", *heads], cells, notes)
