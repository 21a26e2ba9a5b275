"""Who won a study, and whether it is better than what it is compared with.

The best of many noisy scores is too good: part of it is luck (the winner's curse). Confirmation runs the best k again
with fresh seeds, then the better half of these once more, and so on, and the winner is the one whose scores are best in
the mean: sequential halving, Karnin, Koren and Somekh 2013, begun with the scores of the search.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from partune.statistics import Verdict, verdict
from partune.storage import Record
from partune.trial import Status, Trial

CONFIRM = "confirm/"  # the name of a further run: confirm/<number of the trial>/<which, from 1>


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that are done, by falling score, the first of equals first."""
    return sorted(
        (trial for trial in trials if trial.status is Status.DONE), key=lambda trial: (-trial.score, trial.number)
    )


def confirm_name(trial: Trial, run: int) -> str:
    return f"{CONFIRM}{trial.number}/{run}"


def confirmations(anchors: Mapping[str, Trial]) -> dict[int, list[Trial]]:
    """The further runs of each trial that has any, in their order; by its number."""
    found: dict[int, dict[int, Trial]] = {}
    for name, again in anchors.items():
        if name.startswith(CONFIRM):
            number, run = map(int, name.removeprefix(CONFIRM).split("/"))
            found.setdefault(number, {})[run] = again
    return {number: [runs[run] for run in sorted(runs)] for number, runs in found.items()}


def pooled(trial: Trial, again: Sequence[Trial]) -> float:
    """The mean of a trial's score and of its further runs'; -inf where one of them failed."""
    if any(each.status is not Status.DONE for each in again):
        return -math.inf
    return (trial.score + sum(each.score for each in again)) / (1 + len(again))


def halvings(k: int) -> list[int]:
    """How many run in each round of a confirmation of the best k: k, the better half, ..., two."""
    sizes = [k] if k else []
    while sizes and (half := math.ceil(sizes[-1] / 2)) > 1 and half < sizes[-1]:
        sizes.append(half)
    return sizes


def due(trials: Iterable[Trial], anchors: Mapping[str, Trial], k: int) -> tuple[list[Trial], int]:
    """The trials to run once more now, in a confirmation of the best k, and which further run it is, from 1.

    None where all rounds are over. What was run before, for another k or a shorter search, is not run again.
    """
    again = confirmations(anchors)
    alive = ranked(trials)
    for run, size in enumerate(halvings(k), start=1):
        alive = alive[:size]
        missing = [trial for trial in alive if len(again.get(trial.number, ())) < run]
        if missing:
            return missing, run
        alive.sort(key=lambda trial: -pooled(trial, again[trial.number][:run]))
    return [], 0


def best(trials: Iterable[Trial], anchors: Mapping[str, Trial] | None = None) -> Trial | None:
    """The best finished trial, the first of equals: of those confirmed by the pooled score, where any is."""
    leaders = ranked(trials)
    again = confirmations(anchors or {})
    confirmed = [trial for trial in leaders if trial.number in again]
    if confirmed:
        return max(confirmed, key=lambda trial: pooled(trial, again[trial.number]))
    return leaders[0] if leaders else None


def is_judged(winner: Trial, anchors: Mapping[str, Trial]) -> bool:
    """Whether the anchors hold this winner's scores on the verdict items and test tasks."""
    return "winner" in anchors and dict(anchors["winner"].config) == dict(winner.config)


def judge(record: Record) -> Verdict | None:
    """The verdict on a record's winner; None while it is not scored on the verdict items."""
    anchors = record.anchors()
    winner = best(record.trials(), anchors)
    if winner is None or not is_judged(winner, anchors):
        return None
    metric = record.loaded["scoring"]["metric"]

    def items(name: str) -> dict[str, np.ndarray[Any, Any]] | None:
        if name not in anchors or anchors[name].status is not Status.DONE:
            return None
        packed = record.items("anchors", anchors[name].number)
        return {key: packed[key] for key in packed if key.startswith("verdict/") and key.endswith(f"/{metric}")}

    winning, base = items("winner"), items("base")
    return None if winning is None or base is None else verdict(winning, base, items("defaults"))
