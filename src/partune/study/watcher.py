"""Watchers: what a study tells of its progress, and what they see of the study."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from partune.objectives.base import Objective
from partune.trial import Trial
from partune.trial.names import RunName
from partune.verdict.paired import Limits


class Watched(Protocol):
    """What a watcher sees of its study.

    Attributes:
        objective: What is searched for.
    """

    objective: Objective

    @property
    def directory(self) -> Path | None:
        """The study's folder; None for a study in memory."""

    @property
    def trials(self) -> Sequence[Trial]:
        """The optimiser's trials in the order of their numbers."""


class Watcher:
    """What a study tells of its progress. This one only warns; front ends override what they show."""

    def noted(self, line: str) -> None:
        """Take note, before anything runs, of something that the user may not expect."""
        warnings.warn(line, stacklevel=4)

    def began(self, study: Watched, budget: int) -> None:
        """Take note that a run begins.

        Args:
            study: The study.
            budget: The trials that it is to make in all.
        """

    def phase(self, name: str) -> None:
        """Take note that another part of the run begins, such as "search" or a baseline, by its name."""

    def loaded(self, summary: Mapping[str, Any]) -> None:
        """Take note of what the objective loaded."""

    def limited(self, limits: Limits) -> None:
        """Take note, once the base is scored, of the smallest gain that the verdict items can show."""
        if limits.gain is None:
            self.noted(limits.sentence)

    def anchored(self, name: RunName, trial: Trial) -> None:
        """Take note of the result of a run that is not one of the search's trials.

        Args:
            name: Which run it is.
            trial: The run, with its result.
        """

    def started(self, trial: Trial) -> None:
        """Take note that a trial starts."""

    def finished(self, trial: Trial) -> None:
        """Take note of a trial's result, also of one that another driver ran."""

    def exhausted(self) -> None:
        """Take note that every configuration of the space has been tried."""

    def ended(self) -> None:
        """Take note that a run is over, however it ended."""
