"""A clock that tests set, and a simulated fine-tuning whose runs take its time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from partune.trial import Observation, Trial
from tests.support.simulated import ALL, SEARCH, SimulatedTuning


@dataclass
class Clock:
    """The time of `time.time` and `time.monotonic`, in seconds; nothing passes by itself."""

    now: float = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock in place of the machine's."""
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr("time.monotonic", clock)
    return clock


@dataclass
class Slow(SimulatedTuning):
    """A simulated fine-tuning. Trainings take `seconds` of the clock, by their trial; scoring the base takes `base`."""

    clock: Clock = field(default_factory=Clock)
    seconds: Callable[[Trial], float] = lambda _: 20.0
    base: float = 2.0

    def evaluate(self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH) -> Observation:
        return self._took(self.seconds(trial), super().evaluate(trial, adapter, parts))

    def score_zero(self, trial: Trial) -> Observation:
        return self._took(self.base, super().evaluate(trial))

    def score_base(self) -> Observation:
        return self._took(self.base, super().score_base())

    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        return self._took(self.base, self._score(self.accuracy(float(trial.config["learning_rate"])), ALL))

    def _took(self, seconds: float, observation: Observation) -> Observation:
        self.clock.now += seconds
        return dataclasses.replace(observation, cost={"seconds": seconds})
