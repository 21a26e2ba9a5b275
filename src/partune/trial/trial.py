"""Trials, proposals and observations, as immutable records.

A trial is one configuration with its seed and fidelity, its status and its result.
"""

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

RAISED = re.compile(r"[^\W\d]\w*: ")  # the exception's class: a text made by `reason` begins with it
NUMBER = re.compile(r"0x[0-9a-f]+|[-+]?\d+(\.\d+)?(e[-+]?\d+)?")  # a memory address or any other number
NUMERIC = "biuf"  # NumPy's kinds that arrays of per-item results may have: booleans, integers, reals


def number(value: Any, what: str) -> float:
    """Convert a number of any library into a float.

    Args:
        value: A number, or an array of one element.
        what: The name of the value in error messages.

    Raises:
        ValueError: The value is not a number. A text that looks like a number is not one either.
    """
    try:
        plain = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
        if isinstance(plain, (str, bytes, bytearray)):  # float() would accept texts such as "1.5"
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
    """Convert a mapping from names to numbers into one with plain floats; raise ValueError for anything else."""
    return {_named(name, what): number(value, f"{what}[{name!r}]") for name, value in _mapping(given, what)}


def _named(name: Any, what: str) -> str:
    """Return a name as a plain string; raise ValueError if it is empty, too long or not printable."""
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST):
        raise ValueError(
            f"names in {what} must be printable texts of at most {LONGEST} characters, got {reprlib.repr(name)}"
        )
    return str(name)


def _array(name: str, values: Any) -> np.ndarray[Any, Any]:
    """Convert per-item results into an array of numbers, or keep an array of texts; raise ValueError for others."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return values
    try:
        array = np.asarray(values)
        # Numbers mixed with None make an array of objects; None becomes nan. `astype` would also parse texts, so an
        # array with texts stays as it is, and is refused below.
        array = array.astype(float) if array.dtype.kind == "O" and not _texts(array) else array
    except Exception as error:
        raise ValueError(f"items[{name!r}] must be an array of numbers: {reason(error)}") from None
    if array.dtype.kind not in NUMERIC:
        raise ValueError(f"items[{name!r}] must be an array of numbers, got {reprlib.repr(values)}")
    return array


def _texts(objects: np.ndarray[Any, Any]) -> bool:
    return any(isinstance(value, (str, bytes)) for value in objects.flat)


class Status(StrEnum):
    """The state of a trial. DONE, FAILED and STOPPED are final."""

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
    """The result of evaluating one configuration; higher scores are better.

    Numbers of any library are converted to plain ones. Anything that is not a number raises ValueError, with which the
    trial fails.

    Attributes:
        scores: The scores by name. The optimiser is told the one named "score". For a stopped trial, that is the score
            at its last rung.
        stderr: The standard error of "score", in its units; None if unknown.
        status: Done, failed or stopped.
        cost: The costs by name: "seconds", "train_seconds", "examples", ... "worker_seconds" is the time of all
            workers, busy or idle, since the previous result was told; "search_seconds" is the time of the optimiser.
        fidelity: The share of the full evaluation that was made, from 0 to 1.
        error: The reason for a failure, in one line.
        items: Per-item results by name, for the paired tests: arrays in the same order in all trials of a study.
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
            raise ValueError(f"the status of an observation must be done, failed or stopped, got {self.status}")
        if self.stderr is not None and not 0 <= self.stderr < math.inf:
            raise ValueError(f"stderr must be a finite number of at least 0, or None, got {self.stderr}")
        if not all(map(math.isfinite, self.cost.values())):
            raise ValueError(f"costs must be finite numbers, got {dict(self.cost)}")
        scored = self.status is Status.DONE or (self.scores and self.status is not Status.FAILED)
        if scored and not math.isfinite(self.scores.get("score", math.nan)):
            raise ValueError(
                f"an observation that did not fail needs a finite scores['score'], got {dict(self.scores)}"
            )

    @classmethod
    def of(cls, result: Any) -> Observation:
        """Convert the value that an objective returned into an observation.

        Args:
            result: An observation, or the score as a number. A number that is not finite becomes a failure.

        Raises:
            ValueError: The value is anything else.
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
            error: The reason, in one line.
            cost: The costs by name.
        """
        return cls(status=Status.FAILED, error=error, cost=cost or {})

    @classmethod
    def raised(cls, error: BaseException, cost: Mapping[str, float] | None = None) -> Observation:
        """Return the observation of a trial that raised an exception.

        Args:
            error: The exception.
            cost: The costs by name.
        """
        return cls.failure(reason(error), cost)

    @property
    def cause(self) -> str | None:
        """The error with its numbers masked, so that equal causes compare equal; None if no exception was raised."""
        return NUMBER.sub("#", self.error) if self.error is not None and RAISED.match(self.error) else None

    @property
    def score(self) -> float:
        """The score; -inf for a failed trial, which counts as the worst. The -inf is not stored in `scores`."""
        return self.scores.get("score", -math.inf) if self.status is not Status.FAILED else -math.inf

    def blinded(self) -> Observation:
        """Return a copy with only what an optimiser may see: no held-out scores, per-item results or error."""
        return dataclasses.replace(self, scores=without_held_out(self.scores), items={}, error=None)


@dataclass(frozen=True)
class Proposal:
    """A configuration that an optimiser wants scored.

    Attributes:
        number: 0, 1, ... in the order in which the optimiser made its proposals.
        point: The configuration as a point of the unit cube. A `Sampler` proposes exactly `space.encode(config)`. A
            `Sequential` proposes the centre of a cell, which rounding to a configuration may have moved.
        config: The configuration.
        notes: The optimiser's inferences since its last proposal. They are recorded, and replayed instead of recomputed
            when a study is resumed.
    """

    number: int
    point: Point
    config: Config
    notes: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Trial:
    """A configuration that is run once: its proposal, seeds, status and result.

    Attributes:
        number: 0, 1, ... in the order of the proposals.
        config: The configuration.
        point: The configuration as a point of the unit cube.
        seed: The seed of the trial's own randomness (initialisation, dropout).
        order: The seed of the order of the data, for a fresh run; None for the order that all trials of a study share.
        fidelity: The share of the full evaluation to make, from 0 to 1.
        status: The state of the trial.
        notes: The optimiser's inferences before it made this proposal.
        told_before: The number of results that the optimiser had been told when it made this proposal.
        told: The position of this trial's result in the order in which the optimiser was told results; None until the
            status is final.
        attempts: The number of times that the trial was started.
        observation: The result; None until the status is final.
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
        """The optimiser's proposal from which this trial was made."""
        return Proposal(self.number, self.point, self.config, self.notes)

    @property
    def score(self) -> float:
        """The score as an optimiser sees it: -inf for a trial that failed or has not ended."""
        return self.observation.score if self.observation is not None else -math.inf

    def started(self) -> Trial:
        """Return the trial with status RUNNING and one more attempt."""
        return dataclasses.replace(self, status=Status.RUNNING, attempts=self.attempts + 1)

    def finished(self, observation: Observation, told: int) -> Trial:
        """Return the trial with its result.

        Args:
            observation: The result.
            told: The position of the result in the order in which the optimiser is told results.
        """
        return dataclasses.replace(self, status=observation.status, observation=observation, told=told)
