"""The run of a study: baselines, then the search (ask, submit, record, tell), then what the verdict needs."""

from __future__ import annotations

from partune.study.budget import Budget
from partune.study.stopped import FutileError, StoppedError, UntrustworthyError
from partune.study.study import Study
from partune.study.watcher import Watcher, Watchers

__all__ = [
    "Budget",
    "FutileError",
    "StoppedError",
    "Study",
    "UntrustworthyError",
    "Watcher",
    "Watchers",
]
