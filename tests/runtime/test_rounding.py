"""Numbers as text: no digit beyond what is known, and none fewer than tells two numbers apart."""

from __future__ import annotations

import math

import pytest

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
