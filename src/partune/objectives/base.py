"""What a study asks of an objective: a configuration in, an observation out; and, if it can, what that is worth."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from partune.errors import UserError
from partune.runtime.disk import blames_disk
from partune.runtime.plugins import qualified_name
from partune.space import Space
from partune.trial import Config, Observation, Trial, Value
from partune.trial.contents import Contents
from partune.trial.rungs import Judge


class Objective(ABC):
    """The black box."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes it this objective, as plain data: recorded, and compared when a study is resumed."""
        return {}

    @property
    def name(self) -> str:
        """Which objective it is, by its class's name: recorded, and compared when a study is resumed."""
        return qualified_name(type(self))

    @property
    def contents(self) -> Contents:
        """What its scores stand on beyond its identity, such as what is in the files that it reads."""
        return {}

    def expect(self, contents: Contents) -> None:  # noqa: B027
        """Told what the study stands on: whoever loads it elsewhere has to find the same."""

    def count_slots(self) -> int:
        """Return how many trials are best evaluated at once, each in a thread of its own; may load and measure."""
        return 1

    @property
    def even(self) -> bool:
        """Whether trials that begin together end together."""
        return True

    @property
    def stoppable(self) -> bool:
        """Whether it has `evaluate_judged`."""
        return False

    def prepare(self) -> None:  # noqa: B027
        """Loads what all evaluations need, once."""

    @abstractmethod
    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        """Scores a trial; what it trains may be left in the folder `adapter`."""

    def evaluate_judged(self, trial: Trial, adapter: Path | None, judge: Judge) -> Observation:
        """The same, by way of rungs at which the judge may stop the trial: its observation is STOPPED then."""
        raise TypeError(f"{type(self).__name__} cannot stop its trials")

    def recall(self, loaded: Mapping[str, Any]) -> None:  # noqa: B027
        """Told, before anything is loaded, what was on record for the study that is resumed."""

    def interrupt(self) -> None:  # noqa: B027
        """Makes evaluations that are under way in other threads end soon, by an exception."""


class Anchored(Objective):
    """An objective that knows what an untouched model scores, so that a study can say what its winner is worth.

    Base, defaults and winner are scored on all items: search items, verdict items (which no optimiser sees) and tests.
    """

    @property
    @abstractmethod
    def defaults(self) -> Config:
        """The field's defaults."""

    @property
    @abstractmethod
    def zero(self) -> Config:
        """The defaults, but with training that leaves the model as it is: learning rate 0."""

    @property
    @abstractmethod
    def summary(self) -> Mapping[str, Any]:
        """What was loaded, for the record; summary["scoring"]["metric"] names the verdict's per-item results."""

    def fixed(self, searched: Space) -> Mapping[str, Value]:
        """Return the hyperparameters of a space that have a value here already, which fixes them."""
        return {}

    def vet(self, searched: Space) -> None:
        """Told the space of a study that begins; raises UserError for a setting that would have no effect."""

    def declare(self, searched: Space) -> None:
        """Told the space; raises UserError where it cannot be searched. Loads nothing."""

    @abstractmethod
    def check(self, searched: Space) -> None:
        """Declares the space, and raises UserError for any bad input, before anything runs."""

    @abstractmethod
    def score_base(self) -> Observation: ...

    @abstractmethod
    def score_zero(self, trial: Trial) -> Observation:
        """Trains with learning rate 0 for a few steps, on the very path that trials take."""

    @abstractmethod
    def score_defaults(self, trial: Trial, adapter: Path) -> Observation: ...

    @abstractmethod
    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        """Train a trial with its own seed and order, whatever the settings fix, and score search and verdict items."""

    @abstractmethod
    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        """Scores a kept adapter, or trains the trial again where it is gone."""

    def reload(self, trial: Trial, adapter: Path, scored: Observation) -> Observation | None:
        """Load a kept adapter from disk as others will load it, and score a handful of items again.

        Args:
            trial: Whose adapter it is.
            adapter: Its folder.
            scored: What it was scored before, with per-item results.

        Returns:
            How many items were scored (`scores["items"]`), or a failure with the reason where the adapter does not load
            or does not answer as it did. None where there is nothing to load.
        """
        return None

    @abstractmethod
    def disagreement(self, base: Observation, zero: Observation) -> str | None:
        """Why the two are not the same model's answers; None where they are."""


def not_searched(fixed: Mapping[str, Value]) -> str:
    """Return what a person is told of hyperparameters that a space has, and a setting fixes."""
    return f"Not searched, as given: {', '.join(f'{name}={value}' for name, value in fixed.items())}."


def observed(objective: Objective, trial: Trial, adapter: Path | None, judge: Judge | None = None) -> Observation:
    """A trial's evaluation and the seconds it took; whatever goes wrong in it, but for bad input, is its result."""
    if judge is None:
        return _timed(lambda: objective.evaluate(trial, adapter))
    return _timed(lambda: objective.evaluate_judged(trial, adapter, judge))


def observed_fresh(objective: Anchored, trial: Trial, adapter: Path) -> Observation:
    """Return the result of a fresh run, and the seconds it took, as `observed` does for a trial."""
    return _timed(lambda: objective.score_fresh(trial, adapter))


def _timed(evaluate: Callable[[], Observation]) -> Observation:
    began = time.perf_counter()
    try:
        observation = Observation.of(evaluate())
    except UserError:
        raise
    except Exception as error:
        observation = Observation.raised(error)
    cost = {"seconds": time.perf_counter() - began, **observation.cost}
    return unspoilt(dataclasses.replace(observation, cost=cost))


def unspoilt(observation: Observation) -> Observation:
    """The observation; raises UserError for one that failed by no fault of its configuration: the disk's."""
    if observation.error is not None and blames_disk(observation.error):
        raise UserError(f"{observation.error}: mend that, and resume the study, which has lost nothing")
    return observation
