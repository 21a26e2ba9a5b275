"""Hyperparameters: exact round trips and equal shares of the axis."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune.space import SPACES, Choice, Float, Int
from tests.support.hyperparameters import choices, floats, ints, unit


@given(st.one_of(floats(), ints(), choices), unit)
def test_a_decoded_value_round_trips_exactly(parameter: Float | Int | Choice, u: float) -> None:
    value = parameter.decode(u)
    assert parameter.contains(value)
    again = parameter.decode(parameter.encode(value))
    assert again == value
    assert type(again) is type(value)


@given(st.one_of(floats(), ints()))
def test_both_bounds_are_reached(parameter: Float | Int) -> None:
    assert (parameter.decode(0.0), parameter.decode(1.0)) == (parameter.low, parameter.high)


@given(st.one_of(floats(), ints()), unit, unit)
def test_decoding_is_monotone(parameter: Float | Int, u: float, v: float) -> None:
    assert parameter.decode(min(u, v)) <= parameter.decode(max(u, v))


@given(floats(), unit)
def test_floats_have_twelve_significant_digits(parameter: Float, u: float) -> None:
    value = parameter.decode(u)
    if value in (parameter.low, parameter.high):
        return
    if parameter.log:
        assert value == float(f"{value:.11e}")
    else:
        largest = Fraction(max(abs(parameter.low), abs(parameter.high)))
        step = Fraction(10) ** (math.floor(math.log10(float(largest))) - 11)
        assert abs(Fraction(value) - round(Fraction(value) / step) * step) <= largest * Fraction(1, 2**52)


@pytest.mark.parametrize(("low", "high"), [(2, 32), (-3, 3), (0, 1), (7, 16)])
def test_linear_integers_own_equal_shares(low: int, high: int) -> None:
    n = high - low + 1
    counted = Counter(Int(low, high).decode((i + 0.5) / (100 * n)) for i in range(100 * n))
    assert counted == dict.fromkeys(range(low, high + 1), 100)


@pytest.mark.slow
def test_log_integers_own_log_proportional_shares() -> None:
    parameter, total = Int(2, 64, log=True), math.log(64.5 / 1.5)
    points = 200_000
    counted = Counter(parameter.decode((i + 0.5) / points) for i in range(points))
    for k in range(2, 65):
        assert counted[k] / points == pytest.approx(math.log((k + 0.5) / (k - 0.5)) / total, abs=2 / points)


def test_choices_own_equal_shares() -> None:
    counted = Counter(Choice(["a", "b", "c"]).decode((i + 0.5) / 300) for i in range(300))
    assert counted == {"a": 100, "b": 100, "c": 100}


def test_the_top_rank_is_reachable_and_nothing_is_truncated() -> None:
    # Truncation by int() left the top value a share of zero, rounding left both ends half a share.
    parameter = Int(2, 64)
    assert parameter.decode(1 - 1e-9) == 64
    assert parameter.decode(62.5 / 63) == 64
    assert parameter.decode(0.5 / 63) == 2


def test_learning_rates_far_apart_in_scale_stay_apart() -> None:
    # An absolute tolerance over decoded values once made 3e-6 and 3e-9 the same centre.
    space = SPACES["lora-article"]
    a, b = (space.encode({**space.decode([0.5] * 5), "learning_rate": rate}) for rate in (3e-6, 3e-9))
    assert abs(a[3] - b[3]) > 0.3


@given(unit)
def test_the_largest_ranges_round_trip(u: float) -> None:
    for parameter in (Int(-5, 2**63 - 7), Int(0, 2**53 + 1), Int(1, 2**46, log=True), Float(-8e307, 8e307)):
        value = parameter.decode(u)
        assert parameter.contains(value)
        assert parameter.decode(parameter.encode(value)) == value
    assert Int(-5, 2**63 - 7).decode(1) == 2**63 - 7


def test_numbers_of_numpy_are_taken_as_pythons() -> None:
    assert Int(np.int64(1), np.int32(4)).describe() == {"int": [1, 4]}  # type: ignore[arg-type]
    assert type(Float(np.float32(0), np.float64(1)).low) is float  # type: ignore[arg-type]
    assert Choice([np.float64(0.5), np.str_("a")]).describe() == {"choice": [0.5, "a"]}
