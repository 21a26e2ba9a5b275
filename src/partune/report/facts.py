"""What a study's report says, on a page or as Markdown: the summary's data, and what only a report draws from a record.

What takes time is computed when it is first asked for.
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
from partune.report.analysis.importance import Importance, importance
from partune.report.analysis.slices import FEWEST, Model
from partune.report.plain_data import Summary
from partune.report.summary import summarise
from partune.runtime import rounding, strict_yaml
from partune.space import Choice, Float, Int, Space
from partune.trial import Status, Trial
from partune.verdict.winner import confirmations, ranked

EDGE = 0.02  # of a range: what counts as its end
NEAR = 0.2  # of a range: what counts as near its end
LEADERS = 3  # trials that have to be there for an end to be where the good ones are
SURE = 2.0  # standard errors, beyond which a difference is taken for one


@dataclass(frozen=True)
class Failure:
    """Trials that failed for one cause. cause: the first one's error; others may differ in its numbers."""

    cause: str
    trials: list[int]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """Some of the time that a study took. seconds: of all its workers."""

    name: str
    seconds: float


class Facts:
    """Everything that a report shows of a record, as it was when this was made."""

    def __init__(self, record: Record) -> None:
        self.summary: Summary = summarise(record)
        self.directory = record.directory
        self.name = "in memory" if record.directory is None else record.directory.absolute().name
        self.space: Space = record.space
        self.header = dict(record.header)
        self.contents = record.contents
        self.trials: list[Trial] = record.trials()[: len(self.summary["trials"])]
        self.anchors = record.anchors()
        path = None if record.directory is None else record.directory / CONFIG
        self.config = _text(path) if path is not None and path.is_file() else None

    # ----- how far it is

    @property
    def budget(self) -> int:
        return self.summary["budget"] or len(self.trials)

    @property
    def over(self) -> bool:
        """The budget is spent, or the space, all trials have ended, and a winner that can be judged is judged."""
        open_verdict = self.summary["base"] is not None and self.summary["verdict"] is None
        return self.searched and not (open_verdict and self.winner is not None)

    @property
    def searched(self) -> bool:
        """The budget is spent, or the space, and all trials have ended."""
        spent = len(self.trials) >= min(self.budget, self.space.size or math.inf)
        return spent and all(trial.status.final for trial in self.trials)

    # ----- trials

    @property
    def done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status is Status.DONE]

    @property
    def winner(self) -> Trial | None:
        best = self.summary["best"]
        return None if best is None else self.trials[best["trial"]]

    @property
    def again(self) -> dict[int, list[Trial]]:
        """Further runs with fresh seeds, by the number of the trial."""
        return confirmations(self.anchors)

    @functools.cached_property
    def n_init(self) -> int:
        """Trials of the initial design."""
        return 0 if self._optimizer is None else min(self._optimizer.n_init, len(self.trials))

    @property
    def best_so_far(self) -> list[tuple[int, float]]:
        """(number, best score among the trials that are done up to it), (n,)."""
        best, found = -math.inf, []
        for trial in self.trials:
            if trial.status is Status.DONE:
                best = max(best, trial.score)
            if best > -math.inf:
                found.append((trial.number, best))
        return found

    @property
    def failures(self) -> list[Failure]:
        """By falling frequency."""
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.status is Status.FAILED and trial.observation is not None:
                groups.setdefault(re.sub(r"\d+", "#", trial.observation.error or ""), []).append(trial)
        found = [
            Failure(self._cause(trials[0]), [trial.number for trial in trials], trials[0].config)
            for trials in groups.values()
        ]
        return sorted(found, key=lambda each: -len(each.trials))

    @staticmethod
    def _cause(trial: Trial) -> str:
        return (trial.observation.error if trial.observation is not None else None) or "no cause is on record"

    # ----- hyperparameters

    @property
    def hints(self) -> list[str]:
        """Return what to do where the winner and half of the best trials sit near a bound of the space.

        A winner that is not above the base, or that leads alone, is no reason to search further out.
        """
        if self.winner is None or not self._above_base:
            return []
        found = []
        for name, given in self.winner.config.items():
            parameter = self.space.hyperparameters[name]
            if isinstance(parameter, Choice):
                continue
            assert isinstance(parameter, (Float, Int))
            u = parameter.encode(given)
            top = given == parameter.high if isinstance(parameter, Int) else u >= 1 - EDGE
            bottom = given == parameter.low if isinstance(parameter, Int) else u <= EDGE
            if not self._crowded(name, parameter, 1.0 if top else 0.0):
                continue
            if top:
                found.append(f"{name} is at the top of its range, {words.value(parameter.high)}: widen it.")
            elif bottom and (parameter.low == 0):
                found.append(f"{name} is at the bottom of its range, {words.value(parameter.low)}: try without it.")
            elif bottom and isinstance(parameter, Int) and parameter.low == 1:
                found.append(f"{name} is at the bottom of its range, 1.")
            elif bottom:
                found.append(f"{name} is at the bottom of its range, {words.value(parameter.low)}: widen it.")
        return found

    @property
    def _above_base(self) -> bool:
        """Whether the winner's search score is above the base's by more than chance; so where there is no base."""
        base, best = self.summary["base"], self.summary["best"]
        if base is None or best is None or base["score"] is None:
            return True
        return bool(best["score"] - base["score"] > _joint(best["stderr"], base["stderr"]))

    def _crowded(self, name: str, parameter: Float | Int, end: float) -> bool:
        """Return whether half of the best quarter of the trials, of LEADERS at least, lie near an end of a range."""
        leaders = [trial for trial in ranked(self.trials) if name in trial.config]
        leaders = leaders[: max(LEADERS, len(leaders) // 4)]
        near = sum(abs(parameter.encode(trial.config[name]) - end) <= NEAR for trial in leaders)
        return len(leaders) >= LEADERS and 2 * near >= len(leaders)

    @functools.cached_property
    def importance(self) -> Importance | None:
        return importance(self.space, self.done)

    @property
    def leading(self) -> list[str]:
        """The hyperparameters that matter, the most important first."""
        shares = {} if self.importance is None else self.importance.shares
        return [*shares, *(name for name in self.space.names if name not in shares)]

    @functools.cached_property
    def model(self) -> Model | None:
        """The surrogate; None where there are too few scores for one."""
        if self.winner is None or len(self.done) < FEWEST:
            return None
        return Model(self.space, self.done, self.winner)

    @functools.cached_property
    def partition(self) -> Partition | None:
        return None if self._optimizer is None else partition(self._optimizer, self.trials)

    @functools.cached_property
    def _optimizer(self) -> Optimizer | None:
        """As the study began with it; None where it cannot be made again (it came from the user's own code)."""
        header = self.header
        try:
            return make_optimizer(header["algorithm"], self.space, seed=header["seed"], **header["options"])
        except UserError:
            return None

    # ----- is it real?

    @property
    def scored(self) -> dict[str, Summary]:
        """base, defaults and best, where they have a score."""
        rows = {name: self.summary[name] for name in ("base", "defaults", "best")}
        return {name: row for name, row in rows.items() if row is not None and row["score"] is not None}

    @property
    def tests(self) -> list[str]:
        """The test tasks."""
        rows = [*self.scored.values(), *self.summary["trials"]]
        return list(dict.fromkeys(name for row in rows for name in row["test"]))

    @property
    def overfitting(self) -> list[str]:
        """Where the winner's gain over the base does not hold, each beyond what chance explains."""
        base, best, verdict = self.summary["base"], self.summary["best"], self.summary["verdict"]
        if base is None or best is None or base["score"] is None:
            return []
        found = []
        if verdict is not None:
            gain, stderr = best["score"] - base["score"], _joint(best["stderr"], base["stderr"])
            over = verdict["over_base"]
            if gain - over["gain"] > SURE * _joint(stderr, over["stderr"]):
                found.append(
                    f"The winner gained {rounding.difference(gain, stderr, sign='')} on the search items, which chose "
                    f"it, and {rounding.difference(over['gain'], over['stderr'])} on the held-out items, which did "
                    "not: it is fitted to the search items. More validation items or --confirm help."
                )
        for task, score in best["test"].items():
            if task not in base["test"]:
                continue
            gain = score["score"] - base["test"][task]["score"]
            stderr = _joint(score["stderr"], base["test"][task]["stderr"])
            if gain < -SURE * stderr:
                found.append(
                    f"On {task} the winner scores {rounding.difference(-gain, stderr, sign='')} below the untouched "
                    "base model: tuning cost some of what the base could do."
                )
        return found

    def agreement(self, task: str) -> tuple[float, int] | None:
        """Spearman's correlation of score and score on a test task over trials, and their number; five at least."""
        rows = [row for row in self.summary["trials"] if row["status"] == Status.DONE and task in row["test"]]
        pairs = [(row["score"], row["test"][task]["score"]) for row in rows]
        if len(pairs) < 5 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
            return None
        from scipy.stats import spearmanr

        return float(spearmanr(np.array(pairs)).statistic), len(pairs)

    # ----- what it took

    @property
    def parts(self) -> list[Part]:
        """The study's time by what it went into.

        Waiting is the workers' time without a trial. What the optimiser took of it counts for one worker: others may
        have had something to do meanwhile.
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
            Part("around them" if split else "trials", max(0.0, other)),
            Part("base, defaults, confirmation, verdict", seconds["anchors"]),
            Part("search", search),
            Part("waiting", waiting - search),
        ]
        return [part for part in parts if part.seconds > 0]

    @property
    def device(self) -> str | None:
        found = self.summary["loaded"].get("device")
        return None if found is None else str(found)

    @property
    def unit(self) -> str:
        """What an hour of a worker is."""
        return "CPU-hours" if self.device is None or self.device.startswith("cpu") else "GPU-hours"


def _joint(*errors: float | None) -> float:
    """The standard error of a sum of independent numbers; what is unknown counts as none."""
    return math.sqrt(sum(each**2 for each in errors if each is not None and math.isfinite(each)))


def counts(trials: Sequence[Trial]) -> str:
    """How the trials ended, in words."""
    numbers = {status: sum(trial.status is status for trial in trials) for status in Status}
    return ", ".join(f"{n:,} {status}" for status, n in numbers.items() if n) or "none yet"


def _text(path: Path) -> str:
    """Return the text of a study's file; raises UserError where it is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    strict_yaml.parse(content, path)
    return content.decode()
