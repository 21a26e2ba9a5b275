"""Collect the facts of a study's report: the data of its summary, and analyses that only a report makes.

Slow analyses are computed once, at their first use.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partune.errors import UserError
from partune.optimizers import optimizer as make_optimizer
from partune.optimizers.base import Optimizer
from partune.record.record import CONFIG, Record
from partune.report import words
from partune.report.analysis.cells import Partition, partition
from partune.report.analysis.courses import Course, courses
from partune.report.analysis.importance import Importance, importance
from partune.report.analysis.slices import FEWEST, Model
from partune.report.plain_data import Summary
from partune.report.summary import summarise
from partune.runtime import rounding, strict_yaml
from partune.space import Choice, Float, Int, Space
from partune.trial import Status, Trial
from partune.trial.goals import Goal, goal_of, goal_on_test
from partune.verdict.winner import confirmations, ranked

EDGE = 0.02  # a value this close to an end of its range (as a share of the range) counts as at the end
NEAR = 0.2  # a value this close to an end of its range (as a share of the range) counts as near the end
LEADERS = 3  # advice about a bound needs this many trials with scores
SURE = 2.0  # a difference of more standard errors counts as real


@dataclass(frozen=True)
class Failure:
    """Trials that failed for the same cause.

    Attributes:
        cause: The error of the first trial. The errors of the other trials are the same up to their numbers.
        trials: The numbers of the trials.
        config: The configuration of the first trial.
    """

    cause: str
    trials: list[int]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of the time that a study took.

    Attributes:
        name: What the time was used for.
        seconds: The sum of the seconds of all workers.
    """

    name: str
    seconds: float


class Facts:
    """Everything that a report shows of a record, at the time when the object is made."""

    def __init__(self, record: Record) -> None:
        self.summary: Summary = summarise(record)
        self.directory = record.directory
        self.name = "in memory" if record.directory is None else record.directory.absolute().name
        self.space: Space = record.space
        self.header = dict(record.header)
        self.contents = record.contents
        self.trials: list[Trial] = record.trials()[: len(self.summary["trials"])]
        self.baselines = record.anchors()
        self.courses: Mapping[str, Course] = courses(record, self.winner)
        path = None if record.directory is None else record.directory / CONFIG
        self.config = _text(path) if path is not None and path.is_file() else None

    @property
    def goal(self) -> Goal:
        """What the scores measure."""
        return goal_of(self.summary["loaded"])

    def goal_on(self, task: str) -> Goal:
        """Return what the scores on a test task measure."""
        return goal_on_test(self.summary["loaded"], task)

    # ----- progress

    @property
    def budget(self) -> int:
        """The number of trials that the study may start; without a budget, the number on record."""
        return self.summary["budget"] or len(self.trials)

    @property
    def over(self) -> bool:
        """Whether the search is over, and no verdict is missing.

        A verdict is due if there are a winner and a base model.
        """
        open_verdict = self.summary["base"] is not None and self.summary["verdict"] is None
        return self.searched and not (open_verdict and self.winner is not None)

    @property
    def searched(self) -> bool:
        """Whether the budget is used up, or all of a finite space is tried, and all trials have ended.

        If the hours of a study ended its search, trials that were interrupted before do not count.
        """
        if self.summary["time_limits"].get("over"):
            return True
        endless = self.summary["budget"] is None and self.summary["time_limits"]
        most = min(math.inf if endless else self.budget, self.space.size or math.inf)
        return len(self.trials) >= most and all(trial.status.final for trial in self.trials)

    # ----- trials

    @property
    def done(self) -> list[Trial]:
        """The trials that have a score."""
        return [trial for trial in self.trials if trial.status is Status.DONE]

    @property
    def winner(self) -> Trial | None:
        """The study's winner; None while no trial has a score."""
        best = self.summary["best"]
        return None if best is None else self.trials[best["trial"]]

    @property
    def again(self) -> dict[int, list[Trial]]:
        """The confirmation runs, which have fresh seeds, by the number of the trial that they repeat."""
        return confirmations(self.baselines)

    @functools.cached_property
    def n_init(self) -> int:
        """The number of trials in the initial design."""
        return 0 if self._optimizer is None else min(self._optimizer.n_init, len(self.trials))

    @property
    def best_so_far(self) -> list[tuple[int, float]]:
        """For each trial since the first score: the number of the trial, and the best score up to this trial."""
        best, course = -math.inf, []
        for trial in self.trials:
            if trial.status is Status.DONE:
                best = max(best, trial.score)
            if best > -math.inf:
                course.append((trial.number, best))
        return course

    @property
    def failures(self) -> list[Failure]:
        """The failed trials by their cause, the most frequent first."""
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.status is Status.FAILED and trial.observation is not None:
                # Errors that differ only in numbers (a step, a size, an address) have the same cause.
                groups.setdefault(re.sub(r"\d+", "#", trial.observation.error or ""), []).append(trial)
        failures = [
            Failure(self._cause(trials[0]), [trial.number for trial in trials], trials[0].config)
            for trials in groups.values()
        ]
        return sorted(failures, key=lambda failure: -len(failure.trials))

    @staticmethod
    def _cause(trial: Trial) -> str:
        return (trial.observation.error if trial.observation is not None else None) or "no cause is on record"

    # ----- hyperparameters

    @property
    def hints(self) -> list[str]:
        """Advice about each bound of the space that the winner has reached.

        A bound is left out unless half of the best trials are near it too. There is no advice if the winner is not
        above the base model.
        """
        if self.winner is None or not self._above_base:
            return []
        hints = []
        for name, setting in self.winner.config.items():
            parameter = self.space.hyperparameters[name]
            if isinstance(parameter, Choice):
                continue
            assert isinstance(parameter, (Float, Int))
            u = parameter.encode(setting)
            top = setting == parameter.high if isinstance(parameter, Int) else u >= 1 - EDGE
            bottom = setting == parameter.low if isinstance(parameter, Int) else u <= EDGE
            if not self._crowded(name, parameter, 1.0 if top else 0.0):
                continue
            if top:
                hints.append(f"{name} is at the top of its range, {words.value(parameter.high)}: widen it.")
            elif bottom and (parameter.low == 0):
                hints.append(f"{name} is at the bottom of its range, {words.value(parameter.low)}: try without it.")
            elif bottom and isinstance(parameter, Int) and parameter.low == 1:
                hints.append(f"{name} is at the bottom of its range, 1.")
            elif bottom:
                hints.append(f"{name} is at the bottom of its range, {words.value(parameter.low)}: widen it.")
        return hints

    @property
    def _above_base(self) -> bool:
        """Whether the winner beats the base model on the search items, beyond chance; true without a base model."""
        base, best = self.summary["base"], self.summary["best"]
        if base is None or best is None or base["score"] is None:
            return True
        return bool(best["score"] - base["score"] > _joint(best["stderr"], base["stderr"]))

    def _crowded(self, name: str, parameter: Float | Int, end: float) -> bool:
        """Return whether half of the best quarter of the trials (at least LEADERS) are near an end of a range."""
        leaders = [trial for trial in ranked(self.trials) if name in trial.config]
        leaders = leaders[: max(LEADERS, len(leaders) // 4)]
        near = sum(abs(parameter.encode(trial.config[name]) - end) <= NEAR for trial in leaders)
        return len(leaders) >= LEADERS and 2 * near >= len(leaders)

    @functools.cached_property
    def importance(self) -> Importance | None:
        """How much each hyperparameter matters; None if scores or hyperparameters do not vary."""
        return importance(self.space, self.done)

    @property
    def leading(self) -> list[str]:
        """The names of the hyperparameters, the most important first."""
        shares = {} if self.importance is None else self.importance.shares
        return [*shares, *(name for name in self.space.names if name not in shares)]

    @functools.cached_property
    def model(self) -> Model | None:
        """The surrogate (a Gaussian process); None if there are too few scores to fit it."""
        if self.winner is None or len(self.done) < FEWEST:
            return None
        return Model(self.space, self.done, self.winner)

    @functools.cached_property
    def partition(self) -> Partition | None:
        """The regions into which a partition algorithm cut the space; None for other algorithms."""
        return None if self._optimizer is None else partition(self._optimizer, self.trials)

    @functools.cached_property
    def _optimizer(self) -> Optimizer | None:
        """The study's optimiser before its first trial; None if it is the user's own and cannot be loaded."""
        header = self.header
        try:
            return make_optimizer(header["algorithm"], self.space, seed=header["seed"], **header["options"])
        except UserError:
            return None

    # ----- baselines, test tasks and overfitting

    @property
    def scored(self) -> dict[str, Summary]:
        """The rows that have a score: base, defaults (the first baseline), further baselines, best (the winner)."""
        further = {row["name"]: row for row in self.summary["baselines"]}
        named = self.summary
        rows = {"base": named["base"], "defaults": named["defaults"], **further, "best": named["best"]}
        return {name: row for name, row in rows.items() if row is not None and row["score"] is not None}

    @property
    def tests(self) -> list[str]:
        """The names of the test tasks."""
        return words.tests_of([*self.scored.values(), *self.summary["trials"]])

    @property
    def overfitting(self) -> list[str]:
        """Sentences on overfitting, if it is beyond chance.

        Overfitting means that the winner's gain over the base model is smaller on the held-out items than on the search
        items, or that the winner scores below the base model on a test task.
        """
        base, best, verdict = self.summary["base"], self.summary["best"], self.summary["verdict"]
        if base is None or best is None or base["score"] is None:
            return []
        flags = []
        if verdict is not None:
            gain, stderr = best["score"] - base["score"], _joint(best["stderr"], base["stderr"])
            over = verdict["over_base"]
            if gain - over["gain"] > SURE * _joint(stderr, over["stderr"]):
                flags.append(
                    f"The winner gained {rounding.difference(gain, stderr, sign='')} on the search items, which chose "
                    f"it, but {rounding.difference(over['gain'], over['stderr'])} on the held-out items: it is "
                    "overfitted to the search items. More validation items or `--confirm` help."
                )
        for task, score in best["test"].items():
            if task not in base["test"]:
                continue
            gain = score["score"] - base["test"][task]["score"]
            stderr = _joint(score["stderr"], base["test"][task]["stderr"])
            if gain < -SURE * stderr:
                goal, lost = self.goal_on(task), rounding.difference(-gain, stderr, sign="")
                worse = (
                    f"winner's {goal.name} is {lost} above that of"
                    if goal.lower_is_better
                    else (f"winner scores {lost} below")
                )
                flags.append(
                    f"On {task} the {worse} the untouched base model: tuning has cost some of the base model's "
                    "abilities."
                )
        return flags

    def agreement(self, task: str) -> tuple[float, int] | None:
        """Return Spearman's correlation of the trials' scores with those on a test task, and the number of trials.

        The correlation needs at least 5 trials with scores that differ; otherwise return None.
        """
        rows = [row for row in self.summary["trials"] if row["status"] == Status.DONE and task in row["test"]]
        pairs = [(row["score"], row["test"][task]["score"]) for row in rows]
        if len(pairs) < 5 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
            return None
        from scipy.stats import spearmanr

        return float(spearmanr(np.array(pairs)).statistic), len(pairs)

    # ----- time and device

    @property
    def parts(self) -> list[Part]:
        """The study's time by what it was used for.

        Waiting is the time in which workers had no trial, without the optimiser's own time. The optimiser's time counts
        for one worker only, because other workers may have run trials meanwhile.
        """
        seconds = self.summary["seconds"]
        other = seconds["trials"] - seconds["training"] - seconds["scoring"]
        busy = self.summary["utilisation"]
        waiting = 0.0 if busy is None else max(0.0, (1 - busy) * seconds["workers"])
        search = min(waiting, seconds["search"])
        split = seconds["training"] + seconds["scoring"] > 0
        parts = [
            Part("training", seconds["training"]),
            Part("scoring", seconds["scoring"]),
            Part("rest of the trials" if split else "trials", max(0.0, other)),
            Part("base, defaults, confirmation, verdict", seconds["anchors"]),
            Part("search", search),
            Part("waiting", waiting - search),
        ]
        return [part for part in parts if part.seconds > 0]

    @property
    def device(self) -> str | None:
        """The device that the study ran on; None if it is not on record."""
        device = self.summary["loaded"].get("device")
        return None if device is None else str(device)

    @property
    def unit(self) -> str:
        """The unit of a worker's time: CPU-hours or GPU-hours."""
        return "CPU-hours" if self.device is None or self.device.startswith("cpu") else "GPU-hours"


def _joint(*errors: float | None) -> float:
    """Return the standard error of a sum of independent numbers; an unknown error counts as 0."""
    return math.sqrt(sum(error**2 for error in errors if error is not None and math.isfinite(error)))


def counts(trials: Sequence[Trial]) -> str:
    """Return the number of trials by status, such as "12 done, 2 failed"."""
    numbers = {status: sum(trial.status is status for trial in trials) for status in Status}
    return ", ".join(f"{n:,} {status}" for status, n in numbers.items() if n) or "none yet"


def _text(path: Path) -> str:
    """Return the text of a study's file; raise UserError if it is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    strict_yaml.parse(content, path)
    return content.decode()
