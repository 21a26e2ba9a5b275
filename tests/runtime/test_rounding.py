"""Numbers as text: no digit beyond what is known, and none fewer than tells two numbers apart."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune.runtime import rounding


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.92968, 0.01314, "0.930\u00a0±\u00a00.013"),
        (12.3456, 3.2, "12.3\u00a0±\u00a03.2"),
        (123.456, 32.0, "123\u00a0±\u00a032"),
        (-0.5, 0.25, "-0.50\u00a0±\u00a00.25"),
        (1.09871234, None, "1.09871"),
        (1.09871234, 0.0, "1.09871"),
        (1.09871234, math.nan, "1.09871"),
        (1.234e-7, None, "1.234e-7"),
        (None, None, "–"),
        (-math.inf, None, "–"),
        (-math.inf, 0.1, "–"),
    ],
)
def test_a_score_is_rounded_to_two_digits_of_its_error(value: float | None, stderr: float | None, text: str) -> None:
    assert rounding.measured(value, stderr) == text
    assert rounding.score(value, stderr) == text.partition("\u00a0")[0]


@pytest.mark.parametrize("items", [10, 384, 1500, 2400, 10042, 20000])
def test_one_answer_more_reads_otherwise(items: int) -> None:
    def text(right: int) -> str:
        share = right / items
        return rounding.score(share, math.sqrt(share * (1 - share) / items))

    texts = [text(right) for right in range(items // 10, items // 10 + 8)]
    assert len(set(texts)) == len(texts)


def test_a_difference_shows_its_sign() -> None:
    assert rounding.difference(0.0704, 0.0175) == "+0.070\u00a0±\u00a00.018"
    assert rounding.difference(0.0704, 0.0175, sign="") == "0.070\u00a0±\u00a00.018"
    assert rounding.difference(0.5, None) == "+0.5"
    assert rounding.difference(-0.5, None) == "-0.5"
    assert rounding.difference(math.nan, None) == "–"


@pytest.mark.parametrize("half", [0.175, 0.17500000000000002, 0.7 / 4, sum([0.35, 0.0]) / 2])
def test_a_half_is_rounded_alike_everywhere(half: float) -> None:
    assert rounding.number(half, 2) == rounding.fixed(half, 2) == rounding.score(half, 0.1) == "0.18"
    assert rounding.fixed(-half, 2) == "-0.18"
    assert rounding.difference(half, 0.1) == "+0.18\u00a0±\u00a00.10"
    assert rounding.interval(-half, half, 0.1) == "-0.18\u00a0…\u00a0+0.18"
    assert rounding.chance(half) == "p = 0.18"
    assert rounding.percent(half) == "18%"


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 9))
def test_rounding_is_that_of_the_decimal_digits(value: float, places: int) -> None:
    text = rounding.fixed(value, places)
    digits = Decimal(f"{value:.12g}")
    assert abs(Decimal(text) - digits) <= Decimal(1).scaleb(-places) / 2
    assert len(text.partition(".")[2]) == places
    assert float(text) != 0 or "-" not in text


@given(st.floats(-1e-3, 1e-3), st.floats(1e-2, 1e3))
def test_zero_has_no_sign(value: float, stderr: float) -> None:
    for text in (rounding.difference(value, stderr), rounding.score(value, stderr), rounding.number(value * 1e-320)):
        number = text.partition("\u00a0")[0]
        assert float(number) != 0 or number[0] not in "+-"


def test_a_chance_below_one_in_a_thousand_says_no_more() -> None:
    assert (rounding.chance(0.0004), rounding.chance(0.0312)) == ("p < 0.001", "p = 0.031")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (1.2, "1.2"),
        (98.765, "98.8"),
        (5000.0, "5000"),
        (12345.6, "12300"),
        (1234567.0, "1.23e6"),
        (1.2351e-5, "1.24e-5"),
        (math.nan, "–"),
    ],
)
def test_a_number_has_three_digits_and_powers_of_ten_as_people_write_them(value: float, text: str) -> None:
    assert rounding.number(value, 3) == text
