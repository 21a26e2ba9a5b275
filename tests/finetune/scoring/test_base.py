"""Requests that are asked once, and weighted means, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from partune.finetune.scoring.base import Continuation, distinct, weighted_mean


def test_equal_requests_are_asked_once() -> None:
    requests: list[Continuation] = [(("a", "b"), [1], [2]), (("c", "d"), [1], [2, 3]), (("e", "f"), [1], [2])]
    unique, places = distinct(requests)
    assert (unique, places) == (requests[:2], [0, 1, 0])


def test_equal_weights_give_the_mean_and_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=9)
    mean, error = weighted_mean(values, np.full(9, 1 / 9))
    assert (mean, error) == pytest.approx((values.mean(), stats.sem(values)))
    assert math.isnan(weighted_mean(values[:1], np.ones(1))[1])


def test_a_weighted_means_error_is_that_of_many_draws() -> None:
    """Items with their weights are drawn again and again; the weighted means spread as the error says."""
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(4000):
        tokens = rng.integers(1, 40, 60).astype(float)
        values = rng.normal(size=60)
        mean, error = weighted_mean(values, tokens / tokens.sum())
        means.append(mean)
        errors.append(error)
    assert np.std(means) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.05)
