"""Read training curves from the record: the loss of each step, and the scores at points of the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from partune.errors import UserError
from partune.record.place import Shelf
from partune.record.record import Record
from partune.trial import Status, Trial
from partune.trial.names import POINTS, TRAINING_LOSS, Baseline, RunName
from partune.verdict.winner import further_baselines

SHOWN = 200  # the largest number of points of a smoothed curve

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Course:
    """The curves of one training.

    Attributes:
        losses: (steps,), the mean loss per trained token of each step's batch.
        points: (n, 2), the number of steps and the score at each point; n may be 0.
        selected: The number of steps after which the adapter was kept; None if it is the last one.
    """

    losses: Array
    points: Array
    selected: int | None

    @property
    def smoothed(self) -> tuple[Array, Array]:
        """The last step and the mean loss of each of at most SHOWN intervals of equal length."""
        width = -(-len(self.losses) // SHOWN)
        starts = np.arange(0, len(self.losses), width)
        sizes = np.diff([*starts, len(self.losses)])
        return starts + sizes.astype(float), np.add.reduceat(self.losses, starts) / sizes


def courses(record: Record, winner: Trial | None) -> dict[str, Course]:
    """Return the curves of the baselines and of the winner's first run, as far as they are on record.

    The names are those of `Facts.scored`: "defaults" (the first baseline), the names of further ones, "best" (the
    winner).

    Args:
        record: The record of the study.
        winner: The winner; None while no trial has a score.
    """
    runs = record.anchors()
    named: dict[str, RunName] = {"defaults": Baseline.DEFAULTS, **{name.name: name for name in further_baselines(runs)}}
    found = {
        called: _course(record, "anchors", runs[name])
        for called, name in named.items()
        if name in runs and runs[name].status is Status.DONE
    }
    if winner is not None:
        found["best"] = _course(record, "search", winner)
    return {name: course for name, course in found.items() if course is not None}


def _course(record: Record, shelf: Shelf, trial: Trial) -> Course | None:
    try:
        items = record.items(shelf, trial.number)
    except UserError:  # a report is complete without curves, and the verdict checks the files that it needs
        return None
    if TRAINING_LOSS not in items or not len(items[TRAINING_LOSS]):
        return None
    scores = {} if trial.observation is None else trial.observation.scores
    selected = int(scores["selected"]) if "selected" in scores else None
    return Course(
        np.asarray(items[TRAINING_LOSS], float), np.asarray(items.get(POINTS, np.empty((0, 2))), float), selected
    )
