"""Measure how long training steps and scoring take, by short trainings through the engine that trials use."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from partune.errors import UserError
from partune.finetune.engines import RUNG, Outcome
from partune.finetune.failures import cause
from partune.objectives.finetune import FineTune
from partune.trial import Trial
from partune.trial.names import ItemSet, ResultName

SHORT, LONG = 2, 6  # the numbers of steps of the two trainings whose difference is timed
REPEATS = 2  # how often each of them runs


@dataclass(frozen=True)
class Speed:
    """The speed of some trials that train and are scored at once.

    Attributes:
        trials: The number of trials.
        step: The seconds of an optimiser step of all of them together.
        item: The seconds of scoring an item by all of them together.
    """

    trials: int
    step: float
    item: float


@dataclass(frozen=True)
class Pace:
    """What a probe measured.

    Attributes:
        alone: The speed of a single trial.
        together: The speed of as many trials as train at once.
        seconds: The seconds that the probe took.
        items: The untouched base model's results per item on some search items, by their names on record.
    """

    alone: Speed
    together: Speed
    seconds: float
    items: Mapping[str, np.ndarray[Any, Any]]

    def speed(self, trials: float) -> tuple[float, float]:
        """Return the seconds of a step, and of scoring an item, of some trials at once, by linear interpolation.

        Args:
            trials: The number of trials, from 1 to those of `together`.
        """
        share = (trials - 1) / max(1, self.together.trials - 1)
        alone, together = self.alone, self.together
        return alone.step + share * (together.step - alone.step), alone.item + share * (together.item - alone.item)


def measure(objective: FineTune) -> Pace:
    """Measure the pace of a study's trials, with the settings of its first baseline. No file is written.

    Args:
        objective: The objective, which has been checked.

    Raises:
        UserError: A training or the scoring fails.
    """
    began = time.perf_counter()
    slots = objective.count_slots()
    base = objective.engine.score_base(objective.training.dtype, RUNG)
    if isinstance(base.scores, Exception):
        raise UserError(f"the untouched base model cannot be scored: {cause(base.scores)}") from base.scores
    alone = _speed(objective, 1)
    together = alone if slots == 1 else _speed(objective, slots)
    return Pace(alone, together, time.perf_counter() - began, base.scores.items)


def _speed(objective: FineTune, trials: int) -> Speed:
    _run(objective, trials, SHORT)  # the first steps are slower, because they allocate memory
    outcomes: dict[int, list[list[Outcome]]] = {SHORT: [], LONG: []}
    for _ in range(REPEATS):
        for steps, found in outcomes.items():
            found.append(_run(objective, trials, steps))
    # The minimum is best, because other processes only add time. The difference leaves out what a training costs once.
    short, long = (min(_total(each, "train_seconds") for each in found) for found in outcomes.values())
    step = (long - short) / (LONG - SHORT)
    if step <= 0:  # something else slowed the shorter trainings down
        step = long / LONG
    items = sum(len(part.indices) for part in objective.engine.materials.scorer.rungs)
    scored = min(_total(each, "score_seconds") for found in outcomes.values() for each in found)
    return Speed(trials, step, scored / items)


def _run(objective: FineTune, trials: int, steps: int) -> list[Outcome]:
    """Train some equal trials at once for a few steps, and score them on the items of a rung."""
    assignments = []
    for number in range(trials):
        assignment = objective.assign(Trial(number, objective.defaults, seed=number))
        training = assignment.settings.training.model_copy(update={"steps": steps})
        settings = assignment.settings._replace(training=training)
        short = dataclasses.replace(assignment, settings=settings, parts=RUNG, slots=trials, points=0, select="last")
        assignments.append(short)
    with ThreadPoolExecutor(trials) as pool:
        outcomes = list(pool.map(objective.engine.evaluate, assignments))
    for outcome in outcomes:
        if isinstance(outcome.scores, Exception):
            raise UserError(f"the first training, {steps} steps, failed: {cause(outcome.scores)}") from outcome.scores
    return outcomes


def _total(outcomes: list[Outcome], name: str) -> float:
    """Return the sum of a cost over trials; each has its share of the time that they spend together."""
    return sum(outcome.cost.get(name, 0.0) for outcome in outcomes)


def scored_on_rung(items: Mapping[str, np.ndarray[Any, Any]], metrics: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of each task's metric on the items of a rung, from results per item.

    Args:
        items: The results per item, by their names on record.
        metrics: The metric of each task.
    """
    return {task: items[str(ResultName(ItemSet.RUNG, task, metric))] for task, metric in metrics.items()}
