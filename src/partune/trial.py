"""A trial: one configuration with its seed and fidelity, and all that became of it. Nothing here changes in place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

Value = bool | int | float | str
Config = Mapping[str, Value]
Point = tuple[float, ...]

RUNG = "rung/"  # and a number: a score on the way, at a share of the trial's steps


class Status(StrEnum):
    """Where a trial stands. DONE, FAILED and STOPPED are final."""

    PROPOSED = "proposed"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def final(self) -> bool:
        return self in (Status.DONE, Status.FAILED, Status.STOPPED)


@dataclass(frozen=True)
class Observation:
    """What an objective answers for one configuration; higher scores are better.

    scores: named scores; "score" is the one that the optimiser is told (of a stopped trial, its last on the way).
    stderr: standard error of "score", in its units; None if unknown.
    cost: what it took, by name ("seconds", "train_seconds", ...); "worker_seconds" are those of all workers, busy or
        not, since the result that was told before it, and "search_seconds" the optimiser's.
    error: why it failed, in one line.
    items: per-item results by name, arrays of equal order for every trial of a study (for the paired tests).
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    stderr: float | None = None
    status: Status = Status.DONE
    cost: Mapping[str, float] = field(default_factory=dict)
    fidelity: float = 1.0
    error: str | None = None
    items: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        scored = self.status is Status.DONE or (self.scores and self.status is not Status.FAILED)
        if scored and not math.isfinite(self.scores.get("score", math.nan)):
            raise ValueError(
                f"an observation that did not fail needs a finite scores['score'], got {dict(self.scores)}"
            )

    @classmethod
    def of(cls, result: Observation | float) -> Observation:
        """A bare number is the score; a number that is not finite is a failure."""
        if isinstance(result, Observation):
            return result
        score = float(result)
        if not math.isfinite(score):
            return cls.failure(f"the score is {score}")
        return cls(scores={"score": score})

    @classmethod
    def failure(cls, error: str, cost: Mapping[str, float] | None = None) -> Observation:
        return cls(status=Status.FAILED, error=error, cost=cost or {})

    @property
    def score(self) -> float:
        """The score; -inf for a trial that failed (it counts as the worst, and nothing imputed is stored)."""
        return self.scores["score"] if self.status is not Status.FAILED else -math.inf

    def blinded(self) -> Observation:
        """What an optimiser may see: scores and their error, never the verdict items or the test tasks."""
        scores = {name: value for name, value in self.scores.items() if name == "score" or name.startswith(RUNG)}
        return dataclasses.replace(self, scores=scores, items={}, error=None)


@dataclass(frozen=True)
class Proposal:
    """A configuration that an optimiser wants scored.

    number: 0, 1, ... in the order of asking.
    point: the configuration's place in the unit cube, exactly `space.encode(config)` for history-based optimisers.
    notes: what the optimiser inferred since its last proposal; recorded with it and replayed, never recomputed.
    """

    number: int
    point: Point
    config: Config
    notes: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Trial:
    """A proposal on its way: proposed, running -> done, failed or stopped.

    seed: of the trial's own randomness (initialisation, dropout).
    told_before: how many results the optimiser had been told when it proposed this.
    told: this result's place in the order of telling; None until it is final.
    attempts: how often it was started.
    """

    number: int
    config: Config
    point: Point = ()
    seed: int = 0
    fidelity: float = 1.0
    status: Status = Status.PROPOSED
    notes: tuple[Mapping[str, Any], ...] = ()
    told_before: int = 0
    told: int | None = None
    attempts: int = 0
    observation: Observation | None = None

    @property
    def proposal(self) -> Proposal:
        return Proposal(self.number, self.point, self.config, self.notes)

    @property
    def score(self) -> float:
        """The score as an optimiser sees it: -inf where there is none (failed or not finished)."""
        return self.observation.score if self.observation is not None else -math.inf

    def started(self) -> Trial:
        return dataclasses.replace(self, status=Status.RUNNING, attempts=self.attempts + 1)

    def finished(self, observation: Observation, told: int) -> Trial:
        return dataclasses.replace(self, status=observation.status, observation=observation, told=told)
