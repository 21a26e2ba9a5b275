"""The mean of bounded numbers, against binomial tests, closed forms, simulation and its exact level."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from partune.verdict.models.bounded import TINY, chance_at_most, interval


@pytest.mark.parametrize(
    ("won", "of", "mean"), [(1, 1, 0.3), (1, 2, 0.4), (5, 5, 0.5), (13, 20, 0.4), (1500, 2000, 0.74)]
)
def test_zeros_and_ones_are_the_binomial_test_and_clopper_and_pearsons_interval(won: int, of: int, mean: float) -> None:
    values = np.repeat([1.0, 0.0], [won, of - won])
    oracle = stats.binomtest(won, of, mean, alternative="greater")
    assert chance_at_most(mean, values, 0.0) == pytest.approx(oracle.pvalue, abs=1e-9)
    found = stats.binomtest(won, of).proportion_ci(0.95)
    assert interval(values, 0.0, 1.0, 0.05) == pytest.approx((found.low, found.high), abs=1e-7)


@pytest.mark.parametrize("n", [1, 5, 50, 300])
def test_items_that_do_not_differ_show_what_their_number_can(n: int) -> None:
    """A loss of everything on one item in a hundred stays unseen with probability .99^n."""
    assert chance_at_most(-0.01, np.zeros(n), -1.0) == pytest.approx(0.99**n, abs=1e-9)


@pytest.mark.parametrize("n", [2, 5, 30, 300])
def test_other_numbers_are_weighted_at_random(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(0.05, 0.3, n).clip(-1, 1)
    weights = rng.dirichlet(np.ones(n + 1), 20_000)
    oracle = float((weights @ np.append(values, -1.0) <= -0.01).mean())
    assert chance_at_most(-0.01, values, -1.0) == pytest.approx(oracle, abs=4 * math.sqrt(0.25 / 20_000))


def test_the_interval_is_where_the_test_rejects() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.2, 40)
    low, high = interval(values, -1.0, 1.0, 0.05)
    assert chance_at_most(low, values, -1.0) == pytest.approx(0.025, abs=1e-6)
    assert chance_at_most(-high, -values, -1.0) == pytest.approx(0.025, abs=1e-6)
    assert low < values.mean() < high
    mirrored = interval(-values, -1.0, 1.0, 0.05)
    assert mirrored == pytest.approx((-high, -low))


@pytest.mark.slow
def test_for_many_numbers_the_interval_is_students() -> None:
    values = np.random.default_rng(1).normal(0.0, 0.2, 20_000)
    oracle = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval(values, -1.0, 1.0, 0.05) == pytest.approx((oracle.low, oracle.high), abs=1e-4)


def test_what_cannot_be_otherwise() -> None:
    assert chance_at_most(0.5, np.zeros(3), 0.0) == 1.0
    assert chance_at_most(-0.5, np.zeros(3), -0.4) == 0.0
    assert chance_at_most(-0.5, np.ones(500), -1.0) == pytest.approx(TINY)
    assert interval(np.full(9, -1.0), -1.0, 1.0, 0.05)[0] == -1.0


@pytest.mark.slow
@pytest.mark.parametrize("margin", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [5, 15, 40])
def test_the_level_is_kept_exactly_for_wins_and_losses(n: int, margin: float) -> None:
    """Summed over all outcomes of n items that are won, lost or equal, for a model that is worse by the margin."""
    outcomes = [(won, lost) for won, lost in itertools.product(range(n + 1), repeat=2) if won + lost <= n]
    rejected = np.array(
        [
            chance_at_most(-margin, np.repeat([1.0, -1.0, 0.0], [won, lost, n - won - lost]), -1.0) <= 0.05
            for won, lost in outcomes
        ]
    )
    for losing in (margin, margin + 0.01, margin + 0.1, margin + 0.3, (1 + margin) / 2):
        chances = stats.multinomial(n, [losing - margin, losing, 1 + margin - 2 * losing])
        counts = np.array([(won, lost, n - won - lost) for won, lost in outcomes])
        assert chances.pmf(counts)[rejected].sum() <= 0.05 + 1e-9
