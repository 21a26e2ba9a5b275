"""The interfaces of objectives: an Objective evaluates trials; an Anchored also scores baselines and the winner."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from partune.errors import UserError
from partune.runtime.disk import blames_disk
from partune.runtime.failures import OF_USERS
from partune.runtime.plugins import qualified_name
from partune.space import Space
from partune.trial import Config, Observation, Trial, Value
from partune.trial.contents import Contents
from partune.trial.rungs import Judge


class Objective(ABC):
    """A black box that scores configurations. An evaluation is expensive and noisy, and may fail."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings that decide a trial's score, as plain data; recorded, and compared when a study is resumed."""
        return {}

    @property
    def name(self) -> str:
        """The name of the class or of the function called; recorded, and compared when a study is resumed."""
        return qualified_name(type(self))

    @property
    def contents(self) -> Contents:
        """Digests of what scores depend on besides the settings, such as the files that are read."""
        return {}

    def expect(self, contents: Contents) -> None:  # noqa: B027
        """Set the digests that are on record. Any process that loads the objective must find the same contents."""

    def count_slots(self) -> int:
        """Return the best number of trials to evaluate at once, one per thread; may load a model and measure."""
        return 1

    @property
    def even(self) -> bool:
        """Whether trials that begin at the same time also end at the same time."""
        return True

    @property
    def stoppable(self) -> bool:
        """Whether trials can be stopped early with `evaluate_judged`."""
        return False

    def prepare(self) -> None:  # noqa: B027
        """Load everything that evaluations share; further calls do nothing."""

    @abstractmethod
    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        """Score a trial.

        Args:
            trial: The configuration and its seed.
            adapter: The folder for the trained adapter; None keeps no adapter.
        """

    def evaluate_judged(self, trial: Trial, adapter: Path | None, judge: Judge) -> Observation:
        """Score a trial that may be stopped early.

        Args:
            trial: The configuration and its seed.
            adapter: The folder for the trained adapter; None keeps no adapter.
            judge: Decides at each rung (a fixed share of the training) whether the trial continues.

        Returns:
            The observation. Its status is STOPPED if the judge stopped the trial.
        """
        raise TypeError(f"{type(self).__name__} cannot stop its trials")

    def recall(self, loaded: Mapping[str, Any]) -> None:  # noqa: B027
        """Adopt the recorded `summary` of a study that is resumed; called before anything is loaded."""

    def interrupt(self) -> None:  # noqa: B027
        """Make evaluations in other threads raise an exception soon."""


class Anchored(Objective):
    """An objective that can also score baselines, with which a study compares its winner.

    The base model, the defaults and the winner are scored on all items: search items, verdict items (held out, so that
    no optimiser sees their scores) and the items of test tasks.
    """

    @property
    @abstractmethod
    def defaults(self) -> Config:
        """The first baseline, as a configuration: the field's defaults, or a recipe that the user named."""

    @property
    def further(self) -> Mapping[str, Config]:
        """The configurations of the second and further baselines, by name, in the order in which they are tested."""
        return {}

    @property
    @abstractmethod
    def zero(self) -> Config:
        """The defaults with learning rate 0, so that training leaves the model unchanged."""

    @property
    @abstractmethod
    def summary(self) -> Mapping[str, Any]:
        """What was loaded, as it is recorded; `summary["scoring"]["metric"]` is the metric that the verdict uses."""

    def fixed(self, searched: Space) -> Mapping[str, Value]:
        """Return the hyperparameters of a space that the objective's settings fix, with their fixed values."""
        return {}

    def vet(self, searched: Space) -> None:
        """Raise UserError for a setting that would have no effect in a new study of this space."""

    def declare(self, searched: Space) -> None:
        """Set the space without loading anything; raise UserError if it cannot be searched."""

    @abstractmethod
    def check(self, searched: Space) -> None:
        """Load everything before any trial runs; raise UserError for any bad input."""

    @abstractmethod
    def score_base(self) -> Observation:
        """Score the untouched base model on all items."""

    @abstractmethod
    def score_zero(self, trial: Trial) -> Observation:
        """Train with learning rate 0 for a few steps, through the code that trials use, and score the search items."""

    @abstractmethod
    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        """Train a baseline and score all items.

        Args:
            trial: The configuration of the defaults or of a further baseline, and its seed.
            adapter: The folder for the trained adapter.
        """

    @abstractmethod
    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        """Train a trial with its own seeds, even if the settings fix a seed, and score search and verdict items.

        Args:
            trial: The configuration with fresh seeds of the training and of the order of the data.
            adapter: The folder for the trained adapter.
        """

    @abstractmethod
    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        """Score the winner's adapter on all items; train the winner again if its adapter is gone.

        Args:
            trial: The winner.
            adapter: The folder of its adapter.
        """

    def reload(self, trial: Trial, adapter: Path, scored: Observation) -> Observation | None:
        """Load a saved adapter from disk, as its users will, and score a few items again.

        Args:
            trial: The trial that trained the adapter.
            adapter: The folder of the adapter.
            scored: The earlier observation of the adapter, with per-item results.

        Returns:
            An observation with the number of items scored (`scores["items"]`); a failed one with the reason if the
            adapter does not load or its answers have changed; None if there is nothing to load.
        """
        return None

    @abstractmethod
    def disagreement(self, base: Observation, zero: Observation) -> str | None:
        """Describe how the answers of the run with learning rate 0 differ from those of the base model.

        Args:
            base: The observation of the untouched base model, with per-item results.
            zero: The observation of the run with learning rate 0, with per-item results.

        Returns:
            The difference; None if the answers agree.
        """


def not_searched(fixed: Mapping[str, Value]) -> str:
    """Return the line that says which hyperparameters of the space are fixed by settings."""
    return f"Not searched, because they are set: {', '.join(f'{name}={value}' for name, value in fixed.items())}."


def observed(objective: Objective, trial: Trial, adapter: Path | None, judge: Judge | None = None) -> Observation:
    """Evaluate a trial and record its duration.

    Args:
        objective: The objective that evaluates the trial.
        trial: The trial.
        adapter: The folder for the trained adapter; None keeps no adapter.
        judge: Decides at each rung whether the trial continues; None never stops it early.

    Returns:
        The observation. If the evaluation raises an exception, the observation says that the trial failed.

    Raises:
        UserError: The cause would affect every trial, such as a wrong input or a full disk.
    """
    if judge is None:
        return _timed(lambda: objective.evaluate(trial, adapter))
    return _timed(lambda: objective.evaluate_judged(trial, adapter, judge))


def observed_baseline(objective: Anchored, trial: Trial, adapter: Path) -> Observation:
    """Train and score a baseline, and record its duration; an exception makes the observation of a failed run.

    Args:
        objective: The objective that evaluates the baseline.
        trial: The configuration of the baseline.
        adapter: The folder for the trained adapter.
    """
    return _timed(lambda: objective.score_defaults(trial, adapter))


def observed_fresh(objective: Anchored, trial: Trial, adapter: Path) -> Observation:
    """Evaluate a fresh run (another training of a configuration, for the verdict) and record its duration.

    Args:
        objective: The objective that evaluates the run.
        trial: The configuration with fresh seeds.
        adapter: The folder for the trained adapter.
    """
    return _timed(lambda: objective.score_fresh(trial, adapter))


def _timed(evaluate: Callable[[], Observation]) -> Observation:
    began = time.perf_counter()
    try:
        observation = Observation.of(evaluate())
    except UserError:
        raise
    except OF_USERS as error:
        observation = Observation.raised(error)
    cost = {"seconds": time.perf_counter() - began, **observation.cost}
    return unspoilt(dataclasses.replace(observation, cost=cost))


def unspoilt(observation: Observation) -> Observation:
    """Return an observation; raise UserError if it failed because the disk is full or not writable.

    If it were recorded, the optimiser would take the configuration for a bad one.
    """
    if observation.error is not None and blames_disk(observation.error):
        raise UserError(f"{observation.error}; correct this and resume the study; nothing is lost")
    return observation
