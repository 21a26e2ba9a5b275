"""Counts, lists and settings in words."""

from __future__ import annotations

import pytest

from partune.report import words


def test_lists_and_counts_are_sentences() -> None:
    assert [words.listed(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert (words.several(1, "trial"), words.several(1200, "trial")) == ("1 trial", "1,200 trials")


def test_settings_have_three_digits() -> None:
    config = {"lora_r": 16, "learning_rate": 1.2351e-5, "optimizer": "adamw"}
    assert words.settings(config) == "lora_r 16, learning_rate 1.24e-5, optimizer adamw"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.14159, "3.1 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (61.2, "1 min 01 s"), (3661, "1 h 01 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert words.span(seconds) == text
