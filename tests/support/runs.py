"""Scores of runs, for the tests of the verdict."""

from __future__ import annotations

from typing import Any

import numpy as np

from partune.verdict.runs import Runs

Array = np.ndarray[Any, Any]


def one(*values: Array, **tasks: Array) -> Runs:
    """One run's scores on the items of a task, or of several by name."""
    return Runs.of([tasks or {"task": values[0]}])


def several(values: Array) -> Runs:
    """Runs on one task; values: (S, n)."""
    return Runs.of([{"task": row} for row in values])
