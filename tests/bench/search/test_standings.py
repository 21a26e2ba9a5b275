"""Ranks, intervals, seconds and their picture."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import studentized_range

from partune.bench.search.standings import (
    SearchRun,
    critical_difference,
    interval,
    picture,
    ranks,
    regrets,
    second_rows,
    standings,
)


def runs(regret: dict[str, list[float]], budget: int = 10) -> list[SearchRun]:
    """One problem; contender by contender its regrets, seed by seed."""
    return [
        SearchRun("bbob/still", name, seed, budget, [0.0], [each], [0.1], {budget: each})
        for name, column in regret.items()
        for seed, each in enumerate(column)
    ]


def test_ranks_are_within_blocks_and_equals_share_theirs() -> None:
    values = np.array([[0.3, 0.1, 0.2], [0.5, 0.5, 0.9], [1e-12, 0.0, 1.0]])
    np.testing.assert_array_equal(ranks(values), [[3, 1, 2], [1.5, 1.5, 3], [1.5, 1.5, 3]])  # the last: below 1e-8


def test_only_whole_blocks_count() -> None:
    some = runs({"a": [0.1, 0.2, 0.3], "b": [0.3, 0.1]})
    names, seeds, values = regrets(some, 10)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(values, [[0.1, 0.3], [0.2, 0.1]])
    np.testing.assert_array_equal(seeds, [0, 1])
    found, blocks = standings(some, 10)
    assert blocks == 2
    assert [each.rank for each in found] == [1.5, 1.5]


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).standard_normal((400, 2)) * [1.0, 3.0]
    half = 1.96 * values.std(axis=0, ddof=1) / math.sqrt(400)
    for groups in (np.arange(400), np.full(400, 7)):
        low, high = interval(values, groups)
        np.testing.assert_allclose(low, values.mean(axis=0) - half, atol=0.08 * half.max())
        np.testing.assert_allclose(high, values.mean(axis=0) + half, atol=0.08 * half.max())


def test_what_problems_of_one_seed_share_widens_the_interval() -> None:
    """Rows of a group are the same: as many independent values as there are groups."""
    values = np.repeat(np.random.default_rng(0).standard_normal((100, 1)), 8, axis=0)
    low, high = interval(values, np.repeat(np.arange(100), 8))
    half = 1.96 * values.std() / math.sqrt(100)
    assert (high - low)[0] / 2 == pytest.approx(half, rel=0.1)
    low, high = interval(values, np.arange(800))
    assert (high - low)[0] / 2 == pytest.approx(half / math.sqrt(8), rel=0.1)


def test_the_critical_difference_is_demsars() -> None:
    """Demsar 2006, section 3.2.2: four classifiers on 14 data sets, q = 2.569, CD = 1.25."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(2, 50) == pytest.approx(
        studentized_range.ppf(0.95, 2, np.inf) / math.sqrt(2) * math.sqrt(1 / 50)
    )


def test_seconds_are_medians_by_observations_and_a_mean_without_the_first() -> None:
    run = SearchRun("bbob/still", "a", 0, 20, seconds=[99.0, *[1.0] * 9, *[3.0] * 10])
    head, row = second_rows([run], [10, 20])
    assert head == ["contender", "0 to 9", "10 to 19", "mean of all but the first"]
    assert row == ["a", "1", "3", "2.05"]


def test_the_picture_places_ranks_on_its_axis() -> None:
    found, blocks = standings(runs({"good": [0.1] * 8, "<bad>": [0.2] * 8}), 10)
    root = ElementTree.fromstring(picture(found, blocks, "a & b"))
    circles = [float(each.attrib["cx"]) for each in root.iter() if each.tag.endswith("circle")]
    assert circles == [30 + 8 * len("<bad>"), 30 + 8 * len("<bad>") + 480]
    assert "<bad>" in [each.text for each in root.iter()]
