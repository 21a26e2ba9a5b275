"""Counts, lists and settings in words."""

from __future__ import annotations

import math

import pytest

from partune.report import words
from partune.report.plain_data import Summary


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


def scored(*losses: float) -> Summary:
    row = {"score": -losses[0], "stderr": 0.1, "verdict": None}
    return {**row, "name": None, "test": {"wiki": {"score": -losses[1], "stderr": 0.1}}}


def test_losses_come_with_their_perplexities() -> None:
    loaded = {"scoring": {"shown_as": "loss", "tests_shown_as": {"wiki": "loss per word"}}}
    rows = {"base": scored(0, math.log(20)), "defaults": None, "baselines": [], "best": scored(math.log(3), 0)}
    of_study, of_test = words.loss_words({"loaded": loaded, **rows})
    assert of_study.endswith(
        "lower is better. A gain is the amount by which the loss is lower. Perplexity on the "
        "search items, exp(loss): base 1, winner 3."
    )
    assert of_test == (
        "On the test task wiki, the loss is per word, in nats: lower is better. Perplexity on wiki, exp(loss): base "
        "20, winner 1."
    )
    assert words.heading_of_test({"loaded": loaded}, "wiki", "`wiki`") == "test: `wiki`, loss per word"
    loaded = {"scoring": {"tests_shown_as": {"wiki": "bits per byte"}}}
    assert words.loss_words({"loaded": loaded, **rows}) == [
        "On the test task wiki, the loss is per byte, in bits: lower is better."
    ]
    assert words.loss_words({"loaded": {}, **rows}) == []
    assert words.heading_of_test({"loaded": {}}, "wiki") == "test: wiki"
