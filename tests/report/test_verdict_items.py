"""Which runs' per-item results the report shows: those of base, defaults and winner that are done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from partune.report.verdict_items import verdict_items
from partune.trial import Observation, Status, Trial

ITEMS = {number: {"verdict/free/doc_id": np.array([number])} for number in (0, 1, 7)}


class Recorded:
    """A record with the runs of some baselines, by name."""

    def __init__(self, **runs: Trial) -> None:
        self.runs, self.header = runs, {}

    def anchors(self) -> dict[str, Trial]:
        return self.runs

    def items(self, shelf: str, number: int) -> dict[str, Any]:
        assert shelf == "anchors"
        return ITEMS.get(number, {})


def run(number: int, status: Status = Status.DONE) -> Trial:
    done = Observation({"score": 0.5}) if status is Status.DONE else Observation.failure("out of memory")
    return Trial(number, {}, seed=0, observation=done, status=status)


@pytest.mark.parametrize(
    ("runs", "judged", "numbers"),
    [
        ({}, None, {}),
        ({"base": run(0), "defaults": run(1), "zero": run(7)}, None, {"base": 0, "defaults": 1}),
        ({"defaults": run(1), "base": run(0)}, run(7), {"base": 0, "defaults": 1, "winner": 7}),
        ({"base": run(0), "defaults": run(1, Status.FAILED)}, run(7, Status.FAILED), {"base": 0}),
        ({"base": run(3), "defaults": run(1)}, None, {"defaults": 1}),  # the items of the base's run are gone
    ],
)
def test_runs_that_are_done_have_items(runs: dict[str, Trial], judged: Trial | None, numbers: dict[str, int]) -> None:
    record: Any = Recorded(**runs)
    found = verdict_items(record, judged)
    assert found == {model: ITEMS[number] for model, number in numbers.items()}
    assert list(found) == list(numbers)
