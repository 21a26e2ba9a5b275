"""The run of a study: ask, submit, record, tell; baselines before, the verdict after."""

from __future__ import annotations

from partune.study.stopped import FutileError, StoppedError, UntrustworthyError
from partune.study.study import Study
from partune.study.watcher import Watcher

__all__ = [
    "FutileError",
    "StoppedError",
    "Study",
    "UntrustworthyError",
    "Watcher",
]
