"""What a study may spend: bad limits, the deadline, and the budget on record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from partune import Float, Space, Study, UserError
from partune.record.record import Record
from partune.study.budget import Budget
from tests.support.clock import Clock, clock

__all__ = ["clock"]

SPACE = Space(x=Float(0, 1))


@pytest.mark.parametrize("name", ["hours", "device_hours"])
@pytest.mark.parametrize("value", [0, -1.0, 1e7, math.nan, math.inf, "2", True])
def test_hours_are_a_number_greater_than_0(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name} must be a number greater than 0 and at most 1,000,000, got "):
        Budget(**{name: value})


def test_a_budget_has_a_limit() -> None:
    with pytest.raises(UserError, match="a budget needs a limit: trials, hours or device_hours"):
        Budget()
    with pytest.raises(UserError, match=r"budget must be an integer, and budget >= 1 must hold, got 2\.5"):
        Budget(2.5)  # type: ignore[arg-type]


def test_a_number_is_a_budget_of_trials() -> None:
    assert Budget.of(7) == Budget(trials=7)
    assert Budget.of(whole := Budget(hours=1)) is whole


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"trials": 1}, "1 trial"),
        ({"hours": 2}, "2 h 00 min"),
        ({"trials": 50, "hours": 0.25}, "50 trials or 15 min 00 s"),
        ({"device_hours": 16}, "16 h 00 min of all workers"),
    ],
)
def test_the_limits_as_words(budget: dict[str, float], words: str) -> None:
    assert Budget(**budget).words == words  # type: ignore[arg-type]


def test_hours_count_from_when_the_budget_is_made(clock: Clock) -> None:
    assert Budget(hours=2).deadline == clock.now + 7200
    assert Budget(device_hours=2).deadline is None


def test_the_budget_on_record_keeps_its_deadline(tmp_path: Path, clock: Clock) -> None:
    study = Study(SPACE, lambda config: float(config["x"]), "random", directory=tmp_path / "s")
    assert Budget.recorded(study.record, 50) == Budget(50)
    budget = Budget(3, hours=1, device_hours=2.5)
    study.run(budget)
    study.close()
    clock.now += 1800
    assert Budget.recorded(Record.open(tmp_path / "s", read_only=True), 50) == budget
