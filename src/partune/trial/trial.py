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
    """Return a number of any library as a float.

    Args:
        value: A number, or an array of one element.
        what: What it is, for the message.

    Raises:
        ValueError: It is no number; a text that looks like one is none.
    """
    try:
        plain = value.item() if isinstance(value, (np.generic, np.ndarray)) else value  # of one element
        if isinstance(plain, (str, bytes, bytearray)):  # which float() reads
            raise TypeError
        return float(plain)
    except Exception:
        shown = f"{reprlib.repr(value)} ({type(value).__name__})" if value is not None else "None"
        raise ValueError(f"{what} must be a number, got {shown}") from None


def _mapping(given: Any, what: str) -> Iterable[tuple[Any, Any]]:
    """Return a mapping's items; raise ValueError for anything else."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a mapping of names, got {type(given).__name__}")
    return given.items()


def _numbers(given: Any, what: str) -> dict[str, float]:
    """Return a mapping of numbers by name with plain floats; raise ValueError for anything else."""
    return {_named(name, what): number(value, f"{what}[{name!r}]") for name, value in _mapping(given, what)}


def _named(name: Any, what: str) -> str:
    """Return a name as a plain text; raise ValueError for one that a file could not hold."""
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST):
        raise ValueError(f"names in {what} are texts that can be printed, got {reprlib.repr(name)}")
    return str(name)


def _array(name: str, values: Any) -> np.ndarray[Any, Any]:
    """Return per-item results as an array of numbers; raise ValueError for anything else."""
    try:
        array = np.asarray(values)
        # None among numbers makes an array of objects and becomes nan; texts would be read as numbers: refused.
        array = array.astype(float) if array.dtype.kind == "O" and not _texts(array) else array
    except Exception as error:
        raise ValueError(f"items[{name!r}] must be an array of numbers: {reason(error)}") from None
    if array.dtype.kind not in NUMERIC:
        raise ValueError(f"items[{name!r}] must be an array of numbers, got {reprlib.repr(values)}")
    return array


def _texts(objects: np.ndarray[Any, Any]) -> bool:
    return any(isinstance(value, (str, bytes)) for value in objects.flat)


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
        """Whether the trial has ended."""
        return self in (Status.DONE, Status.FAILED, Status.STOPPED)


@dataclass(frozen=True)
class Observation:
    """What an objective returns for one configuration; higher scores are better.

    Numbers of any library become plain ones. A ValueError for what is no number makes the trial fail with that reason.

    Attributes:
        scores: Scores by name. "score" is the one that the optimiser is told; of a stopped trial, the last on the way.
        stderr: Standard error of "score", in its units; None if unknown.
        status: Done, failed or stopped.
        cost: What it took, by name: "seconds", "train_seconds", "examples", ... "worker_seconds" are those of all
            workers, busy or not, since the result that was told before this one; "search_seconds" are the optimiser's.
        fidelity: The share of the full evaluation that was made, from 0 to 1.
        error: Why it failed, in one line.
        items: Per-item results by name: arrays whose order is the same in all trials of a study, for the paired tests.
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
        """Return an objective's answer as an observation.

        Args:
            result: An observation, or a number: the score. A number that is not finite is a failure.

        Raises:
            ValueError: The answer is anything else.
        """
        if isinstance(result, Observation):
            return result
        score = number(result, "an objective's answer")
        if not math.isfinite(score):
            return cls.failure(f"the score is {score}")
        return cls(scores={"score": score})

    @classmethod
    def failure(cls, error: str, cost: Mapping[str, float] | None = None) -> Observation:
        """Return the observation of a trial that failed.

        Args:
            error: Why, in one line.
            cost: What it took.
        """
        return cls(status=Status.FAILED, error=error, cost=cost or {})

    @classmethod
    def raised(cls, error: Exception, cost: Mapping[str, float] | None = None) -> Observation:
        """Return the observation of a trial that an exception ended.

        Args:
            error: The exception.
            cost: What it took.
        """
        return cls.failure(reason(error), cost)

    @property
    def cause(self) -> str | None:
        """The error with its numbers masked, to recognise the same one again; None if no exception ended the trial."""
        return NUMBER.sub("#", self.error) if self.error is not None and RAISED.match(self.error) else None

    @property
    def score(self) -> float:
        """The score; -inf for a trial that failed, which counts as the worst. Nothing imputed is stored."""
        return self.scores.get("score", -math.inf) if self.status is not Status.FAILED else -math.inf

    def blinded(self) -> Observation:
        """Return what an optimiser may see: the score, its standard error, and the scores on the way."""
        return dataclasses.replace(self, scores=without_held_out(self.scores), items={}, error=None)


@dataclass(frozen=True)
class Proposal:
    """A configuration that an optimiser wants scored.

    Attributes:
        number: 0, 1, ... in the order of asking.
        point: The configuration's place in the unit cube, exactly `space.encode(config)` for history-based optimisers.
        config: The configuration.
        notes: What the optimiser inferred since its last proposal; recorded with it and replayed, never recomputed.
    """

    number: int
    point: Point
    config: Config
    notes: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Trial:
    """A proposal on its way: proposed, running, then done, failed or stopped.

    Attributes:
        number: 0, 1, ... in the order of proposing.
        config: The configuration.
        point: Its place in the unit cube.
        seed: Seed of the trial's own randomness (initialisation, dropout).
        order: Seed of the data's order in a run with fresh seeds; None for the study's order, which its trials share.
        fidelity: The share of the full evaluation that is to be made, from 0 to 1.
        status: Where it stands.
        notes: What the optimiser inferred before it proposed this.
        told_before: How many results the optimiser had been told when it proposed this.
        told: This result's place in the order of telling; None until it is final.
        attempts: How often it was started.
        observation: Its result; None until it is final.
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
        """The proposal that this trial began as."""
        return Proposal(self.number, self.point, self.config, self.notes)

    @property
    def score(self) -> float:
        """The score as an optimiser sees it: -inf for a trial that failed or has not ended."""
        return self.observation.score if self.observation is not None else -math.inf

    def started(self) -> Trial:
        """Return the trial as it runs, with one more attempt."""
        return dataclasses.replace(self, status=Status.RUNNING, attempts=self.attempts + 1)

    def finished(self, observation: Observation, told: int) -> Trial:
        """Return the trial with its result.

        Args:
            observation: The result.
            told: Its place in the order of telling.
        """
        return dataclasses.replace(self, status=observation.status, observation=observation, told=told)
