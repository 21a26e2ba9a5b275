"""Watchers, which are notified of a study's progress, and the interface of the study that they use."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from partune.objectives.base import Objective
from partune.study.budget import Budget
from partune.trial import Trial
from partune.trial.names import RunName
from partune.verdict.limits import Limits


class Watched(Protocol):
    """The part of a study that its watcher uses.

    Attributes:
        objective: The objective that is maximised.
    """

    objective: Objective

    @property
    def directory(self) -> Path | None:
        """The study's folder; None for a study in memory."""

    @property
    def trials(self) -> Sequence[Trial]:
        """The optimiser's trials in the order of their numbers."""

    @property
    def anchors(self) -> Mapping[RunName, Trial]:
        """The runs outside the search, by name."""


class Watcher:
    """The receiver of a study's progress. This class only turns notes into warnings; front ends override it."""

    def noted(self, line: str) -> None:
        """Receive a note about something that the user may not expect."""
        warnings.warn(line, stacklevel=4)

    def began(self, study: Watched, budget: Budget) -> None:
        """Receive the beginning of a run.

        Args:
            study: The study.
            budget: What the study may spend.
        """

    def phase(self, name: str) -> None:
        """Receive the name of the phase that begins, such as "search" or the name of a baseline."""

    def loaded(self, summary: Mapping[str, Any]) -> None:
        """Receive a summary of what the objective has loaded."""

    def limited(self, limits: Limits) -> None:
        """Receive the smallest gains that the verdict items can show, once the base model is scored."""
        if limits.hopeless or limits.variation is None:
            self.noted(limits.sentence)

    def anchored(self, name: RunName, trial: Trial) -> None:
        """Receive the result of a run outside the search, such as a baseline.

        Args:
            name: The name of the run.
            trial: The run, with its result.
        """

    def started(self, trial: Trial) -> None:
        """Receive a trial that starts."""

    def finished(self, trial: Trial) -> None:
        """Receive a trial with its result, even if another process ran the trial."""

    def exhausted(self) -> None:
        """Be notified that every configuration of the space has been tried."""

    def ended(self) -> None:
        """Receive the end of a run, whether it succeeded or failed."""


class Watchers(Watcher):
    """Several watchers, which all receive what this one receives.

    Args:
        watchers: The watchers, in the order in which they are told.
    """

    def __init__(self, *watchers: Watcher) -> None:
        self.watchers = watchers

    def noted(self, line: str) -> None:
        """Pass on a note."""
        for watcher in self.watchers:
            watcher.noted(line)

    def began(self, study: Watched, budget: Budget) -> None:
        """Pass on the beginning of a run."""
        for watcher in self.watchers:
            watcher.began(study, budget)

    def phase(self, name: str) -> None:
        """Pass on the part of the run that begins now."""
        for watcher in self.watchers:
            watcher.phase(name)

    def loaded(self, summary: Mapping[str, Any]) -> None:
        """Pass on what the objective has loaded."""
        for watcher in self.watchers:
            watcher.loaded(summary)

    def limited(self, limits: Limits) -> None:
        """Pass on the smallest gain that the verdict items can show."""
        for watcher in self.watchers:
            watcher.limited(limits)

    def anchored(self, name: RunName, trial: Trial) -> None:
        """Pass on a run outside the search."""
        for watcher in self.watchers:
            watcher.anchored(name, trial)

    def started(self, trial: Trial) -> None:
        """Pass on a trial that starts."""
        for watcher in self.watchers:
            watcher.started(trial)

    def finished(self, trial: Trial) -> None:
        """Pass on a trial with its result."""
        for watcher in self.watchers:
            watcher.finished(trial)

    def exhausted(self) -> None:
        """Pass on that every configuration has been tried."""
        for watcher in self.watchers:
            watcher.exhausted()

    def ended(self) -> None:
        """Pass on the end of a run."""
        for watcher in self.watchers:
            watcher.ended()
