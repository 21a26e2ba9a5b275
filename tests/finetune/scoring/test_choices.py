"""Margin and loss of choices by their definitions, and the mean over items."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from partune import config
from partune.finetune.model import Base
from partune.finetune.scoring.choices import Item, continuous
from partune.finetune.scoring.scores import Scorer


def test_margin_and_loss_by_their_definitions() -> None:
    item = Item(0, 0, {}, (1,), 3, slice(0, 3))
    likelihoods = np.array([-4.0, -3.0, -9.0])
    loss, margin = continuous(item, likelihoods, [2, 4, 3])
    p, q = math.exp(-3), math.exp(-4)
    assert loss == pytest.approx(-3 / 4)
    assert margin == pytest.approx((p - q) / (p + q))
    assert continuous(item, np.array([-1e6, -1.0, -1e6]), [1, 1, 1])[1] == 1.0
    several = Item(0, 0, {}, (0, 1), 3, slice(0, 3))
    assert continuous(several, likelihoods, [1, 1, 1]) == (-3.0, pytest.approx(math.tanh(3)))
    assert all(map(math.isnan, continuous(Item(0, 0, {}, (), 3, slice(0, 3)), likelihoods, [1, 1, 1])))


def test_unequal_groups_and_unknown_items_are_aggregated(base: Base, task_file: Path) -> None:
    part = Scorer(base, config.Validation(tasks=(str(task_file),)), config.Test(), 0).parts[0]
    values = np.arange(15.0)
    values[3] = np.nan
    mean, error = part.task.aggregate(part.indices, values, "acc")
    known = values[~np.isnan(values)]
    assert (mean, error) == pytest.approx((known.mean(), known.std(ddof=1) / math.sqrt(14)))
    assert all(map(math.isnan, part.task.aggregate(part.indices, np.full(15, np.nan), "acc")))
