"""Limits in hours, with simulated fine-tunings on a clock that tests set: the verdict is there in time."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune import Float, Int, Observation, Space, Study
from partune.record.record import Record
from partune.report import summary, words
from partune.report.facts import Facts
from partune.study import Budget, StoppedError, Watcher
from partune.study.schedule import device_seconds
from partune.study.state import State
from partune.trial import Config, Trial
from partune.workers.base import Inline
from tests.support.clock import Clock, Slow, clock

__all__ = ["clock"]

SPACE = Space(learning_rate=Float(1e-6, 4e-3, log=True), lora_r=Int(2, 64, log=True))
HOUR = 3600.0

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what is planned is told as a note


class Notes(Watcher):
    """Collects notes; presses Ctrl-C when a trial starts."""

    def __init__(self, interrupt: int = -1) -> None:
        self.lines: list[str] = []
        self.interrupt = interrupt

    def noted(self, line: str) -> None:
        self.lines.append(line)

    def started(self, trial: Trial) -> None:
        if trial.number == self.interrupt:
            raise KeyboardInterrupt


def study(directory: Path, clock: Clock, seconds: Callable[[Trial], float] = lambda _: 20.0, **options: Any) -> Study:
    objective = Slow(clock=clock, seconds=seconds)
    return Study(SPACE, objective, "random", directory=directory, **{"seeds": 2, **options})


def varying(spread: float, seed: int) -> Callable[[Trial], float]:
    """Durations of 12 s and more or less, by the trial's own seed."""
    return lambda trial: 12 * math.exp(spread * np.random.default_rng([seed, trial.seed]).standard_normal())


@pytest.mark.parametrize("confirm", [0, 3])
def test_the_verdict_is_there_in_time_and_little_time_is_left(tmp_path: Path, clock: Clock, confirm: int) -> None:
    began = clock.now
    found = study(tmp_path / "s", clock, confirm=confirm).run(Budget(hours=0.2))
    assert found.verdict is not None
    # Another trial of 20 s would have ended too late. What is kept for the runs after the search is a little too much.
    assert 0 <= began + 0.2 * HOUR - clock.now < 20 + 30
    assert len(found.trials) > 20


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_there_in_time_when_trials_take_different_times(tmp_path: Path, clock: Clock, seed: int) -> None:
    began = clock.now
    found = study(tmp_path / "s", clock, varying(0.3, seed), seed=seed, confirm=2).run(Budget(hours=0.15))
    assert found.verdict is not None
    assert clock.now - began <= 1.05 * 0.15 * HOUR


def test_trials_are_a_limit_too(tmp_path: Path, clock: Clock) -> None:
    found = study(tmp_path / "s", clock).run(Budget(4, hours=9))
    assert len(found.trials) == 4
    assert "over" not in found.record.time_limits


def test_what_is_planned_is_told_and_the_report_says_why_it_ended(tmp_path: Path, clock: Clock) -> None:
    notes = Notes()
    found = study(tmp_path / "s", clock, watcher=notes).run(Budget(hours=0.1))
    assert any("of it for the runs after the search and the verdict: room for about 1" in line for line in notes.lines)
    data = summary.summarise(found.record)
    sentence = f"The limit of 6 min 00 s ended the search after {len(found.trials)} trials."
    assert words.out_of_time_words(data) == sentence
    assert Facts(found.record).over
    assert data["budget"] == len(found.trials)


def test_while_it_runs_the_report_calls_results_preliminary(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "s", clock, watcher=Notes(3)).run(Budget(hours=1))
    record = Record.open(tmp_path / "s", read_only=True)
    assert not Facts(record).over
    data = summary.summarise(record)
    assert data["no_verdict"] == "No verdict yet: the winner is tested when all trials of the budget have ended."
    assert data["budget"] is None


def test_hours_that_are_not_enough_for_a_trial_are_told_and_can_be_extended(tmp_path: Path, clock: Clock) -> None:
    begun = study(tmp_path / "s", clock)
    with pytest.raises(StoppedError, match=r"^1 min 30 s are not enough: 1 min 06 s are left, but a trial may take "):
        begun.run(Budget(hours=0.025))
    begun.close()
    assert study(tmp_path / "s", clock, resume=True).run(Budget(hours=0.1)).verdict is not None


def test_hours_that_are_over_before_the_first_run_begin_nothing(tmp_path: Path, clock: Clock) -> None:
    budget, begun = Budget(hours=0.01), study(tmp_path / "s", clock)
    clock.now += 60
    with pytest.raises(StoppedError, match=r"^36\.0 s were over before the first run began\. With more time: partune "):
        begun.run(budget)
    assert begun.objective.calls == []  # type: ignore[attr-defined]


def test_after_a_crash_the_deadline_stays(tmp_path: Path, clock: Clock) -> None:
    """What ran when it crashed is not run again if there is no time for it, and the verdict comes at once."""
    broken = study(tmp_path / "s", clock, watcher=Notes(6))
    with pytest.raises(KeyboardInterrupt):
        broken.run(Budget(hours=0.2))
    broken.close()
    clock.now += 0.2 * HOUR
    resumed = study(tmp_path / "s", clock, resume=True)
    resumed.run(Budget.recorded(resumed.record, 50))
    assert [str(trial.status) for trial in resumed.trials] == ["done"] * 6 + ["running"]
    assert resumed.verdict is not None
    assert Facts(resumed.record).over
    resumed.close()
    longer = study(tmp_path / "s", clock, resume=True).run(Budget(9))
    assert [str(trial.status) for trial in longer.trials] == ["done"] * 9
    assert not longer.record.time_limits


def test_device_hours_count_all_workers_and_earlier_runs(tmp_path: Path, clock: Clock) -> None:
    spent = []
    for hours in (0.1, 0.2):
        found = study(tmp_path / "s", clock, resume=True).run(Budget(device_hours=hours))
        spent.append(device_seconds(State(found.record)))
        assert found.verdict is not None
        found.close()
    assert 0.6 * 0.1 * HOUR < spent[0] <= 0.1 * HOUR
    assert 0.8 * 0.2 * HOUR < spent[1] <= 0.2 * HOUR


class Two(Inline):
    """Counts as two workers, of which one is idle."""

    count = 2


def test_idle_workers_cost_device_hours(clock: Clock) -> None:
    def slow(config: Config) -> Observation:
        clock.now += 10
        return Observation({"score": float(config["x"])}, cost={"seconds": 10})

    space = Space(x=Float(0, 1))
    found = Study(space, slow, "random", workers=Two()).run(Budget(device_hours=200 / HOUR))
    assert len(found.trials) == 10
    assert len(Study(space, slow, "random").run(Budget(device_hours=200 / HOUR)).trials) == 20


def test_the_first_trial_of_a_function_begins_whatever_the_hours(clock: Clock) -> None:
    """Nothing is known of how long it takes."""
    took = itertools.chain([50.0], itertools.repeat(1.0))

    def slow(config: Config) -> Observation:
        seconds = next(took)
        clock.now += seconds
        return Observation({"score": float(config["x"])}, cost={"seconds": seconds})

    assert len(Study(Space(x=Float(0, 1)), slow, "random").run(Budget(hours=40 / HOUR)).trials) == 1


def test_a_finite_space_ends_before_its_hours(tmp_path: Path, clock: Clock) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Study(Space(k=Int(1, 3)), lambda config: float(config["k"]), "grid", directory=tmp_path / "s")
        found.run(Budget(hours=1))
    assert len(found.trials) == 3
    assert "over" not in found.record.time_limits
    assert Facts(found.record).over
