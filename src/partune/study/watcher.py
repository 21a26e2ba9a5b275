"""Whoever is told of a study's progress."""

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
    """What a watcher sees of its study."""

    objective: Objective

    @property
    def directory(self) -> Path | None: ...

    @property
    def trials(self) -> Sequence[Trial]: ...


class Watcher:
    """Told of a study's progress; does nothing but warn. Front ends derive from it."""

    def noted(self, line: str) -> None:
        """Told, before anything runs, what a study does otherwise than its user may expect."""
        warnings.warn(line, stacklevel=4)

    def began(self, study: Watched, budget: int) -> None: ...

    def phase(self, name: str) -> None: ...

    def loaded(self, summary: Mapping[str, Any]) -> None: ...

    def limited(self, limits: Limits) -> None:
        """Told, once the base is scored, what the verdict items can show."""
        if limits.gain is None:
            self.noted(limits.sentence)

    def anchored(self, name: RunName, trial: Trial) -> None: ...

    def started(self, trial: Trial) -> None: ...

    def finished(self, trial: Trial) -> None: ...

    def exhausted(self) -> None: ...

    def ended(self) -> None: ...
