"""A trial: one configuration with its seed and fidelity, and all that became of it. Nothing here changes in place."""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from partune.errors import LONGEST, reason
from partune.trial.names import without_held_out

Value = bool | int | float | str
Config = Mapping[str, Value]
Point = tuple[float, ...]

RAISED = re.compile(r"[^\W\d]\w*: ")  # how `reason` begins: the exception's class
NUMBER = re.compile(r"0x[0-9a-f]+|[-+]?\d+(\.\d+)?(e[-+]?\d+)?")  # an address, or any other
NUMERIC = "biuf"  # kinds of arrays that per-item results are: booleans, integers, reals


def number(value: Any, what: str) -> float:
    """Return a number of any library as a float; raises ValueError where it is none."""
    try:
        plain = value.item() if isinstance(value, (np.generic, np.ndarray)) else value  # of one element
        if isinstance(plain, (str, bytes, bytearray)):  # which float() reads
            raise TypeError
        return float(plain)
    except Exception:
        shown = f"{reprlib.repr(value)} ({type(value).__name__})" if value is not None else "None"
        raise ValueError(f"{what} must be a number, got {shown}") from None


def _mapping(given: Any, what: str) -> Iterable[tuple[Any, Any]]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a mapping of names, got {type(given).__name__}")
    return given.items()


def _numbers(given: Any, what: str) -> dict[str, float]:
    return {_named(name, what): number(value, f"{what}[{name!r}]") for name, value in _mapping(given, what)}


def _named(name: Any, what: str) -> str:
    """Return a name as a plain text; raises ValueError for one that a file could not hold."""
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST):
        raise ValueError(f"names in {what} are texts that can be printed, got {reprlib.repr(name)}")
    return str(name)


def _array(name: str, values: Any) -> np.ndarray[Any, Any]:
    """Return per-item results as an array of numbers; raises ValueError where they are none."""
    try:
        found = np.asarray(values)
        found = found.astype(float) if found.dtype.kind == "O" and not _texts(found) else found
    except Exception as error:
        raise ValueError(f"items[{name!r}] must be an array of numbers: {reason(error)}") from None
    if found.dtype.kind not in NUMERIC:
        raise ValueError(f"items[{name!r}] must be an array of numbers, got {reprlib.repr(values)}")
    return found


def _texts(objects: np.ndarray[Any, Any]) -> bool:
    return any(isinstance(each, (str, bytes)) for each in objects.flat)


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
    cost: what it took, by name ("seconds", "train_seconds", "examples", ...); "worker_seconds" are those of all
        workers, busy or not, since the result that was told before it, and "search_seconds" the optimiser's.
    error: why it failed, in one line.
    items: per-item results by name, arrays of equal order for every trial of a study (for the paired tests).

    Numbers of any library become plain ones, whatever answers `float()` but texts. Raises ValueError for what is no
    number, so that a trial whose objective answers it fails with the reason.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    stderr: float | None = None
    status: Status = Status.DONE
    cost: Mapping[str, float] = field(default_factory=dict)
    fidelity: float = 1.0
    error: str | None = None
    items: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        stderr = None if self.stderr is None else number(self.stderr, "stderr")
        plain = {
            "scores": _numbers(self.scores, "scores"),
            "stderr": None if stderr is None or math.isnan(stderr) else stderr,
            "status": Status(self.status),
            "cost": _numbers(self.cost, "cost"),
            "fidelity": number(self.fidelity, "fidelity"),
            "error": None if self.error is None else str(self.error),
            "items": {_named(name, "items"): _array(name, values) for name, values in _mapping(self.items, "items")},
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if not self.status.final:
            raise ValueError(f"an observation is done, failed or stopped, got status {self.status}")
        if self.stderr is not None and not 0 <= self.stderr < math.inf:
            raise ValueError(f"stderr is a finite number from 0 on, or None, got {self.stderr}")
        if not all(map(math.isfinite, self.cost.values())):
            raise ValueError(f"costs are finite numbers, got {dict(self.cost)}")
        scored = self.status is Status.DONE or (self.scores and self.status is not Status.FAILED)
        if scored and not math.isfinite(self.scores.get("score", math.nan)):
            raise ValueError(
                f"an observation that did not fail needs a finite scores['score'], got {dict(self.scores)}"
            )

    @classmethod
    def of(cls, result: Any) -> Observation:
        """Return what an objective answered as an observation.

        A bare number is the score; one that is not finite is a failure. Raises ValueError for anything else.
        """
        if isinstance(result, Observation):
            return result
        score = number(result, "an objective's answer")
        if not math.isfinite(score):
            return cls.failure(f"the score is {score}")
        return cls(scores={"score": score})

    @classmethod
    def failure(cls, error: str, cost: Mapping[str, float] | None = None) -> Observation:
        return cls(status=Status.FAILED, error=error, cost=cost or {})

    @classmethod
    def raised(cls, error: Exception, cost: Mapping[str, float] | None = None) -> Observation:
        """Return the failure of an evaluation that an exception ended."""
        return cls.failure(reason(error), cost)

    @property
    def cause(self) -> str | None:
        """The exception that ended the evaluation, but for its numbers; None where no exception did."""
        return NUMBER.sub("#", self.error) if self.error is not None and RAISED.match(self.error) else None

    @property
    def score(self) -> float:
        """The score; -inf for a trial that failed (it counts as the worst, and nothing imputed is stored)."""
        return self.scores.get("score", -math.inf) if self.status is not Status.FAILED else -math.inf

    def blinded(self) -> Observation:
        """What an optimiser may see: scores and their error, never the verdict items or the test tasks."""
        return dataclasses.replace(self, scores=without_held_out(self.scores), items={}, error=None)


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
    order: seed of the data's order in a run with fresh seeds; None for the study's order, which its trials share.
    told_before: how many results the optimiser had been told when it proposed this.
    told: this result's place in the order of telling; None until it is final.
    attempts: how often it was started.
    """

    number: int
    config: Config
    point: Point = ()
    seed: int = 0
    order: int | None = None
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
