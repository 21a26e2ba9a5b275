"""Who won a study, and whether it is better than what it is compared with.

The best of many noisy scores is too good: part of it is luck (the winner's curse). Confirmation runs the best few again
with fresh seeds, and the winner is the one whose two scores are best in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from partune.statistics import Verdict, verdict
from partune.storage import Record
from partune.trial import Status, Trial

CONFIRM = "confirm/"  # and a trial's number: the name of its second run


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that are done, by falling score, the first of equals first."""
    return sorted(
        (trial for trial in trials if trial.status is Status.DONE), key=lambda trial: (-trial.score, trial.number)
    )


def confirmations(anchors: Mapping[str, Trial]) -> dict[int, Trial]:
    """The second runs, by the number of the trial."""
    return {int(name.removeprefix(CONFIRM)): each for name, each in anchors.items() if name.startswith(CONFIRM)}


def pooled(trial: Trial, again: Trial) -> float:
    """The mean of a trial's score and of its second run's; -inf where that failed."""
    return (trial.score + again.score) / 2 if again.status is Status.DONE else -math.inf


def best(trials: Iterable[Trial], anchors: Mapping[str, Trial] | None = None) -> Trial | None:
    """The best finished trial, the first of equals: of those confirmed by the pooled score, where any is."""
    leaders = ranked(trials)
    second = confirmations(anchors or {})
    confirmed = [trial for trial in leaders if trial.number in second]
    if confirmed:
        return max(confirmed, key=lambda trial: pooled(trial, second[trial.number]))
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
