"""Tasks of the harness: the mean over items, and answers of every kind against the harness's own evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from partune import config
from partune.finetune.model import Base
from partune.finetune.scoring.scores import Scorer


def test_unequal_groups_and_unknown_items_are_aggregated(base: Base, task_file: Path) -> None:
    part = Scorer(base, config.Validation(tasks=(str(task_file),)), config.Test(), 0).parts[0]
    values = np.arange(15.0)
    values[3] = np.nan
    mean, error = part.task.aggregate(part.indices, values, "acc")
    known = values[~np.isnan(values)]
    assert (mean, error) == pytest.approx((known.mean(), known.std(ddof=1) / math.sqrt(14)))
    assert all(map(math.isnan, part.task.aggregate(part.indices, np.full(15, np.nan), "acc")))
