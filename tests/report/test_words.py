"""Numbers in words: no digit beyond what is known."""

from __future__ import annotations

import pytest

from partune.report import words


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.92968, 0.01314, "0.930\u00a0±\u00a00.013"),
        (0.92968, 0.00031, "0.92968\u00a0±\u00a00.00031"),
        (12.3456, 3.2, "12.3\u00a0±\u00a03.2"),
        (123.456, 32.0, "123\u00a0±\u00a032"),
        (-0.5, 0.25, "-0.50\u00a0±\u00a00.25"),
        (0.123456, None, "0.1235"),
        (0.123456, 0.0, "0.1235"),
        (0.123456, float("nan"), "0.1235"),
        (1.234e-7, None, "1.234e-7"),
        (None, None, "–"),
        (float("-inf"), None, "–"),
    ],
)
def test_a_score_is_rounded_to_two_digits_of_its_error(value: float, stderr: float | None, text: str) -> None:
    assert words.measured(value, stderr) == text


def test_a_gain_shows_its_sign() -> None:
    assert words.measured(0.0704, 0.0175, "+") == "+0.070\u00a0±\u00a00.018"
    assert words.measured(0.5, None, "+") == "+0.5"
    assert words.measured(-0.5, None, "+") == "-0.5"


def test_lists_and_counts_are_sentences() -> None:
    assert [words.listed(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert (words.several(1, "trial"), words.several(1200, "trial")) == ("1 trial", "1,200 trials")
    assert (words.chance(0.0004), words.chance(0.0312)) == ("p < 0.001", "p = 0.031")
