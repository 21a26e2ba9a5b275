"""Ticks: real values at their places, in order, not crowded."""

from __future__ import annotations

import itertools

import pytest

from partune import Choice, Float, Int
from partune.report.figures.axes import LONG, ticks
from partune.space import SPACES, Hyperparameter

PARAMETERS = [
    *SPACES["lora"].hyperparameters.values(),
    *SPACES["lora-report"].hyperparameters.values(),
    Float(-5, 10),
    Float(0, 0.99),
    Float(0.001, 0.0011),
    Float(2e-4, 9e-4, log=True),
    Float(-1e6, 1e6),
    Int(0, 1),
    Int(1, 3),
    Int(1, 100_000, log=True),
    Int(-7, 1000),
]


@pytest.mark.parametrize("parameter", PARAMETERS, ids=str)
def test_ticks_are_values_of_the_axis_at_their_places(parameter: Hyperparameter) -> None:
    found = ticks(parameter)
    assert 2 <= len(found) <= 9
    for tick in found:
        assert 0 <= tick.u <= 1
        assert parameter.encode(parameter.decode(tick.u)) == pytest.approx(tick.u)
        assert float(tick.text) == pytest.approx(float(parameter.decode(tick.u)), rel=6e-3)
    assert [found[0].text, found[-1].text] == [
        ticks(parameter, 2)[0].text,
        ticks(parameter, 2)[-1].text,
    ], "the bounds are always there"
    if not (isinstance(parameter, Int) and parameter.high - parameter.low < 5):
        assert all(b.u - a.u > 0.08 for a, b in itertools.pairwise(found))
    assert len({tick.text for tick in found}) == len(found)


def test_powers_of_ten_where_the_scale_is_logarithmic() -> None:
    assert [tick.text for tick in ticks(Float(1e-6, 1e-2, log=True))] == ["1e-6", "1e-5", "0.0001", "0.001", "0.01"]
    assert [tick.text for tick in ticks(Int(2, 64, log=True))] == ["2", "4", "8", "16", "32", "64"]


def test_every_option_is_named_and_long_names_are_cut() -> None:
    found = ticks(Choice(["a", "b" * 40, True]))
    assert [tick.text for tick in found] == ["a", "b" * (LONG - 1) + "…", "True"]
    assert [tick.u for tick in found] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
