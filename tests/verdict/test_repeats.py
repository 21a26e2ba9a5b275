"""Tests over repeats against closed forms, SciPy's tables and simulation."""

import itertools
import math

import numpy as np
import pytest

from partune.verdict.repeats import differences, fewest, holm, interval, rank_sum, signed_rank


def test_holm_by_hand() -> None:
    """Holm 1979: the smallest times their number, the next times one less, never falling, at most 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_signed_ranks_are_counted() -> None:
    values = [1.5, -0.5, 2.0, 3.0, 1.0, 4.0]
    ranks = [3, 1, 4, 5, 2, 6]
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in itertools.product((0, 1), repeat=6)]
    low = 1  # the sum of the ranks of the negative ones
    assert signed_rank(values) == pytest.approx(2 * sum(each <= low for each in sums) / 64)
    assert signed_rank([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("second", [[0.1, 0.2, 0.3, 0.4], [1.0, 0.2, 0.3, 0.4]])  # without ties, and with
def test_rank_sums_are_counted(second: list[float]) -> None:
    first = [0.9, 1.0, 1.1]
    pooled = [*first, *second]

    def wins(a: list[float], b: list[float]) -> float:
        return sum((x > y) + (x == y) / 2 for x in a for y in b)

    found = wins(first, second)
    every = []
    for chosen in itertools.combinations(range(7), 3):
        a = [pooled[i] for i in chosen]
        every.append(wins(a, [pooled[i] for i in range(7) if i not in chosen]))
    tails = sum(each >= found for each in every), sum(each <= found for each in every)
    assert rank_sum(first, second) == pytest.approx(2 * min(tails) / math.comb(7, 3))


def test_pairs_are_used_where_they_can_show_something() -> None:
    def results(n: int, shift: float, first_seed: int = 0) -> dict[int, float]:
        return {seed + first_seed: shift + 0.1 * seed for seed in range(n)}

    (paired,) = differences({"a": results(6, 1.0), "b": results(6, 0.95)})
    assert paired.test.startswith("Wilcoxon")
    assert paired.p == paired.corrected == paired.least == pytest.approx(2 / 2**6)
    assert paired.gain == pytest.approx(0.05)
    (ranks,) = differences({"a": results(5, 1.0), "b": results(5, 0.0)})
    assert ranks.test.startswith("Mann-Whitney")
    assert ranks.p == ranks.least == pytest.approx(2 / math.comb(10, 5))
    (other_seeds,) = differences({"a": results(6, 1.0), "b": results(6, 0.0, first_seed=6)})
    assert other_seeds.test.startswith("Mann-Whitney")
    three = differences({"a": results(6, 1.0), "b": results(6, 0.9), "c": results(6, 0.8)})
    assert {each.test for each in three} == {"Mann-Whitney"}  # 3 * 2 / 2^6 > 0.05


def test_too_few_repeats_show_nothing() -> None:
    (found,) = differences({"a": {0: 9.0, 1: 8.0, 2: 7.0}, "b": {0: 1.0, 1: 2.0, 2: 3.0}})
    assert found.p == pytest.approx(0.1)
    assert not found.shows
    assert not found.significant
    assert differences({"a": {0: 1.0}, "b": {0: 2.0, 1: 1.0}}) == []


def test_the_fewest_repeats_that_can_show_something() -> None:
    assert fewest(1) == 4  # 2 / 70; of three, 2 / 20
    assert fewest(3) == 5  # 3 * 2 / 252; of four, 3 * 2 / 70
    assert fewest(10) == 6


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 8])  # ranks, pairs
def test_no_difference_is_seldom_called_one(n: int) -> None:
    """Three algorithms that are the same: one of the three pairs is called different in 5 % of cases, at most."""
    rng = np.random.default_rng(n)
    false = 0
    for _ in range(120):
        common = rng.standard_normal(n)
        results = {name: dict(enumerate((common + rng.standard_normal(n)).tolist())) for name in "abc"}
        false += any(each.significant for each in differences(results))
    assert false / 120 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120)


def test_the_interval_covers_the_mean() -> None:
    rng = np.random.default_rng(0)
    low, high = interval(rng.standard_normal((4, 4000)))
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.95, abs=0.015)
    low, high = interval(np.array([[1.0], [3.0]]))
    assert high[0] - 2 == pytest.approx(12.706 * math.sqrt(2) / math.sqrt(2), rel=1e-4)  # t with one degree of freedom
    assert np.isnan(interval(np.ones((1, 3)))[0]).all()
