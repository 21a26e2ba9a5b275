"""Answers side by side: the same items for all models, texts in one line and not too long."""

from __future__ import annotations

from typing import Any

import numpy as np

from partune.report.answers import WIDEST, answer_table, answers_of
from partune.trial import Observation, Status, Trial


class Recorded:
    """A record with one run, the base model."""

    def __init__(self, samples: list[dict[str, Any]], **metrics: str) -> None:
        self.loaded = {"scoring": {"metric": "exact_match", "metrics": metrics, "samples": samples}}
        self.header: dict[str, Any] = {}

    def anchors(self) -> dict[str, Trial]:
        return {"base": Trial(0, {}, seed=0, observation=Observation({"score": 0.5}), status=Status.DONE)}

    def items(self, shelf: str, number: int) -> dict[str, Any]:
        return {
            "verdict/free/doc_id": np.array([3, 5]),
            "verdict/free/answer": np.array([["the pump", "x"], ["oil\n water", ""]]),
            "verdict/free/exact_match": np.array([1.0, 0.0]),
            "verdict/sums/doc_id": np.array([3]),
            "verdict/sums/answer": np.array([[" \n"]]),
            "verdict/sums/f1": np.array([0.25]),
        }


def test_answers_stand_beside_the_right_ones() -> None:
    long = "why " * WIDEST
    samples = [
        {"task": "free", "item": 5, "prompt": long + "end", "right": "water"},
        {"task": "free", "item": 3, "prompt": "Which?", "right": "the pump"},
    ]
    record: Any = Recorded(samples)
    headers, rows = answer_table(answers_of(record, None)) or ([], [])
    assert headers == ["item", "prompt", "right answer", "base"]
    assert rows[1] == ["3", "Which?", "the pump", "the pump (1)"]
    assert rows[0][2:] == ["water", "oil water (0)"]
    assert rows[0][1].startswith("... ")
    assert rows[0][1].endswith("why end")
    assert len(rows[0][1]) <= WIDEST + 4


def test_items_of_several_tasks_are_told_apart() -> None:
    samples = [
        {"task": "free", "item": 3, "prompt": "Which?", "right": "the pump"},
        {"task": "sums", "item": 3, "prompt": "", "right": "4"},
    ]
    record: Any = Recorded(samples, sums="f1")
    headers, rows = answer_table(answers_of(record, None)) or ([], [])
    assert headers == ["task", "item", "prompt", "right answer", "base"]
    assert rows == [
        ["free", "3", "Which?", "the pump", "the pump (1)"],
        ["sums", "3", "(empty)", "4", "(empty) (0.25)"],
    ]


def test_a_study_that_generates_nothing_has_no_answers() -> None:
    record: Any = Recorded([])
    assert answers_of(record, None) == []
    assert answer_table([]) is None
