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
    """The black box: scores a configuration, by an evaluation that is expensive, noisy and may fail."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings that decide a trial's score, as plain data: recorded, and compared when a study is resumed."""
        return {}

    @property
    def name(self) -> str:
        """The name of its class, or of the function that it calls: recorded, and compared when a study is resumed."""
        return qualified_name(type(self))

    @property
    def contents(self) -> Contents:
        """Digests of what its scores depend on beyond its settings, such as the files that it reads."""
        return {}

    def expect(self, contents: Contents) -> None:  # noqa: B027
        """Take note of the digests on record: a process that loads the objective elsewhere has to find the same."""

    def count_slots(self) -> int:
        """Return how many trials are best evaluated at once, each in a thread of its own; may load and measure."""
        return 1

    @property
    def even(self) -> bool:
        """Whether trials that begin together end together."""
        return True

    @property
    def stoppable(self) -> bool:
        """Whether trials can be stopped early: whether `evaluate_judged` works."""
        return False

    def prepare(self) -> None:  # noqa: B027
        """Load what all evaluations need, once."""

    @abstractmethod
    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        """Score a trial.

        Args:
            trial: The configuration and its seed.
            adapter: A folder for the adapter that is trained; None to keep none.
        """

    def evaluate_judged(self, trial: Trial, adapter: Path | None, judge: Judge) -> Observation:
        """Score a trial with early stopping.

        Args:
            trial: The configuration and its seed.
            adapter: A folder for the adapter that is trained; None to keep none.
            judge: Asked at each rung whether the trial goes on.

        Returns:
            The observation; its status is STOPPED if the judge ended the trial.
        """
        raise TypeError(f"{type(self).__name__} cannot stop its trials")

    def recall(self, loaded: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over, before anything is loaded, what a resumed study has on record about what it loaded."""

    def interrupt(self) -> None:  # noqa: B027
        """Make evaluations in other threads end soon, by an exception."""


class Anchored(Objective):
    """An objective that can score baselines, so that a study can say what its winner is worth.

    Base, defaults and winner are scored on all items: search items, verdict items (held out: no optimiser sees their
    scores) and those of test tasks.
    """

    @property
    @abstractmethod
    def defaults(self) -> Config:
        """The field's defaults, as a configuration."""

    @property
    @abstractmethod
    def zero(self) -> Config:
        """The defaults, but with training that leaves the model as it is: learning rate 0."""

    @property
    @abstractmethod
    def summary(self) -> Mapping[str, Any]:
        """What was loaded, for the record; `summary["scoring"]["metric"]` is the metric that the verdict compares."""

    def fixed(self, searched: Space) -> Mapping[str, Value]:
        """Return the hyperparameters of a space that the objective's own settings fix, with their values."""
        return {}

    def vet(self, searched: Space) -> None:
        """Raise UserError for a setting that would have no effect in a study that begins with this space."""

    def declare(self, searched: Space) -> None:
        """Take note of the space, without loading anything; raise UserError if it cannot be searched."""

    @abstractmethod
    def check(self, searched: Space) -> None:
        """Load everything, and raise UserError for any bad input, before anything runs."""

    @abstractmethod
    def score_base(self) -> Observation:
        """Score the untouched base on all items."""

    @abstractmethod
    def score_zero(self, trial: Trial) -> Observation:
        """Train with learning rate 0 for a few steps, through the code that trials use, and score the search items."""

    @abstractmethod
    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        """Train the defaults and score all items.

        Args:
            trial: The defaults with their seed.
            adapter: The folder to keep the adapter in.
        """

    @abstractmethod
    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        """Train a trial with its own seed and order, whatever the settings fix, and score search and verdict items.

        Args:
            trial: The configuration with fresh seeds.
            adapter: The folder to keep the adapter in.
        """

    @abstractmethod
    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        """Score an adapter on all items.

        Args:
            trial: The trial that it was trained by, which is trained again if the adapter is gone.
            adapter: The adapter's folder.
        """

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
        """Return in what the run with learning rate 0 answers otherwise than the base; None if they agree.

        Args:
            base: The untouched base, with per-item results.
            zero: The run with learning rate 0, with per-item results.
        """


def not_searched(fixed: Mapping[str, Value]) -> str:
    """Return the line that tells a person which hyperparameters of the space are fixed by settings."""
    return f"Not searched, as given: {', '.join(f'{name}={value}' for name, value in fixed.items())}."


def observed(objective: Objective, trial: Trial, adapter: Path | None, judge: Judge | None = None) -> Observation:
    """Evaluate a trial, and note the seconds that it took.

    Args:
        objective: What evaluates it.
        trial: The trial.
        adapter: A folder for the adapter that is trained; None to keep none.
        judge: Asked at each rung whether the trial goes on; None to run it to its end.

    Returns:
        The observation. An exception in the evaluation is a failed observation.

    Raises:
        UserError: Something that every trial would meet is wrong, such as an input or a full disk.
    """
    if judge is None:
        return _timed(lambda: objective.evaluate(trial, adapter))
    return _timed(lambda: objective.evaluate_judged(trial, adapter, judge))


def observed_fresh(objective: Anchored, trial: Trial, adapter: Path) -> Observation:
    """Evaluate a fresh run as `observed` does a trial.

    Args:
        objective: What evaluates it.
        trial: The configuration with fresh seeds.
        adapter: The folder to keep the adapter in.
    """
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
    """Return an observation; raise UserError if it failed because the disk is full or cannot be written.

    On record as a failure it would tell the optimiser that its configuration is bad.
    """
    if observation.error is not None and blames_disk(observation.error):
        raise UserError(f"{observation.error}: correct that, and resume the study, which has lost nothing")
    return observation
