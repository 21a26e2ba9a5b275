"""Margin and loss of choices by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partune.finetune.scoring.metrics import continuous


def test_margin_and_loss_by_their_definitions() -> None:
    likelihoods = np.array([-4.0, -3.0, -9.0])
    loss, margin = continuous((1,), likelihoods, [2, 4, 3])
    p, q = math.exp(-3), math.exp(-4)
    assert loss == pytest.approx(-3 / 4)
    assert margin == pytest.approx((p - q) / (p + q))
    assert continuous((1,), np.array([-1e6, -1.0, -1e6]), [1, 1, 1])[1] == 1.0
    assert continuous((0, 1), likelihoods, [1, 1, 1]) == (-3.0, pytest.approx(math.tanh(3)))
    assert all(map(math.isnan, continuous((), likelihoods, [1, 1, 1])))
