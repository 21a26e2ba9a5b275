"""Studies whose objective runs several trials at once: rounds, refills, rungs, interrupts, and resuming all of them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from partune import Float, Observation, Space, Status, Study, UserError
from partune.bench.scaling.run import Length, Simulated
from partune.objectives.base import Objective
from partune.optimizers import ALGORITHMS
from partune.study import Watcher
from partune.trial import Trial
from partune.trial.rungs import SHARES, Judge

PLANE = Space(x=Float(-5, 5), y=Float(-5, 5))


def height(trial: Trial) -> float:
    x, y = float(trial.config["x"]), float(trial.config["y"])
    return -((x * x + y - 11) ** 2) - (x + y * y - 7) ** 2


@dataclass
class Slotted(Objective):
    """Evaluates in threads that end in an order of their own; knows how many were ever under way at once."""

    width: int = 4
    uneven: bool = False
    jitter: float = 0.002
    most: int = 0
    calls: list[int] = field(default_factory=list)
    dropped: threading.Event = field(default_factory=threading.Event)
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_slots(self) -> int:
        return self.width

    @property
    def even(self) -> bool:
        return not self.uneven

    @property
    def stoppable(self) -> bool:
        return True

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        with self._lock:
            self.calls.append(trial.number)
            self._running += 1
            self.most = max(self.most, self._running)
        if self.dropped.wait(random.random() * self.jitter):
            raise RuntimeError("dropped")
        with self._lock:
            self._running -= 1
        return Observation({"score": height(trial)})

    def evaluate_judged(self, trial: Trial, adapter: Path | None, judge: Judge) -> Observation:
        found = self.evaluate(trial)
        scores = {}
        for rung in range(len(SHARES)):
            scores[f"rung/{rung}"] = found.score - 100 / (rung + 1)
            judge.report(rung, scores[f"rung/{rung}"])
            if judge.stops(rung):
                scores["score"] = scores[f"rung/{rung}"]
                return Observation(scores, status=Status.STOPPED, fidelity=SHARES[rung])
        return Observation({"score": found.score, **scores})

    def interrupt(self) -> None:
        self.dropped.set()


class Stop(Watcher):
    """Presses Ctrl-C when the n-th trial starts, or has ended."""

    def __init__(self, started: int = -1, finished: int = -1) -> None:
        self.at_start, self.at_end = started, finished

    def started(self, trial: Trial) -> None:
        self.at_start -= 1
        if self.at_start == 0:
            raise KeyboardInterrupt

    def finished(self, trial: Trial) -> None:
        self.at_end -= 1
        if self.at_end == 0:
            raise KeyboardInterrupt


def outcomes(study: Study) -> list[tuple[int, dict[str, object], str, float]]:
    return [(t.number, dict(t.config), str(t.status), t.score) for t in study.trials]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rounds_propose_the_same_whatever_the_order_of_arrival(algorithm: str, thorough: bool) -> None:
    found = []
    for _ in range(3 if thorough else 2):
        objective = Slotted(jitter=0.02)
        study = Study(PLANE, objective, algorithm, seed=2).run(18)
        assert len(study.trials) == len(objective.calls) == 18  # the budget, exactly
        found.append(outcomes(study))
    assert found[1:] == found[:1] * (len(found) - 1)
    if algorithm in ("random", "lhs", "bo"):
        assert objective.most == 4
        assert [trial.told_before for trial in study.trials] == [4 * (n // 4) for n in range(18)]


@cache
def unbroken_study(algorithm: str) -> Study:
    return Study(PLANE, Slotted(), algorithm, seed=1).run(14)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [{"started": 1}, {"started": 6}, {"finished": 1}, {"finished": 6}, {"finished": 8}])
@pytest.mark.parametrize("algorithm", ["lhs", "bo", "soo"])
def test_resumed_rounds_are_those_of_the_unbroken_study(algorithm: str, stop: dict[str, int], tmp_path: Path) -> None:
    broken = Study(PLANE, Slotted(), algorithm, seed=1, directory=tmp_path / "s", watcher=Stop(**stop))
    with pytest.raises(KeyboardInterrupt):
        broken.run(14)
    broken.close()
    finished = {trial.number for trial in broken.record.trials() if trial.status.final}
    objective = Slotted()
    resumed = Study(PLANE, objective, algorithm, seed=1, directory=tmp_path / "s", resume=True).run(14)
    assert outcomes(resumed) == outcomes(unbroken_study(algorithm))
    assert not finished & set(objective.calls)  # none runs twice


def test_an_interrupt_does_not_wait_for_what_runs() -> None:
    objective = Slotted(jitter=60.0)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Study(PLANE, objective, "random", watcher=Stop(started=4)).run(8)
    assert time.monotonic() - began < 5
    assert objective.dropped.is_set()


def test_uneven_trials_refill_slots_at_once() -> None:
    study = Study(PLANE, Slotted(uneven=True), "random").run(20)
    assert len(study.trials) == 20
    assert any(trial.told_before % 4 for trial in study.trials)


@pytest.mark.slow
def test_a_study_with_rungs_stops_the_worst_and_keeps_what_it_knows(tmp_path: Path) -> None:
    study = Study(PLANE, Slotted(), "lhs", seed=3, directory=tmp_path / "s", stop="rungs").run(40)
    counts = {status: sum(t.status is status for t in study.trials) for status in Status}
    assert counts[Status.STOPPED] + counts[Status.DONE] == 40
    assert counts[Status.DONE] >= 2
    assert counts[Status.STOPPED] > counts[Status.DONE]
    assert study.best.status is Status.DONE
    study.close()
    resumed = Study(PLANE, Slotted(), "lhs", seed=3, directory=tmp_path / "s", stop="rungs", resume=True)
    assert resumed._loop.rungs is not None
    for trial in study.trials:
        assert trial.observation is not None
        reached = sum(name.startswith("rung/") for name in trial.observation.scores)
        for rung in range(reached):
            assert resumed._loop.rungs._scores[rung][trial.number] == trial.observation.scores[f"rung/{rung}"]
    resumed.run(50)
    assert len(resumed.trials) == 50
    resumed.close()
    refused(
        lambda: Study(PLANE, Slotted(), "lhs", seed=3, directory=tmp_path / "s", resume=True),
        "holds another study: stop is rungs there, and none here",
    )


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_lives_with_rungs_and_resumes(algorithm: str, tmp_path: Path) -> None:
    study = Study(PLANE, Slotted(), algorithm, seed=3, directory=tmp_path / "s", stop="rungs").run(15)
    study.close()
    resumed = Study(PLANE, Slotted(), algorithm, seed=3, directory=tmp_path / "s", stop="rungs", resume=True)
    assert outcomes(resumed) == outcomes(study)
    assert len(resumed.run(20).trials) == 20


def refused(make: Callable[[], Study], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_rungs_need_an_objective_that_can_stop(tmp_path: Path) -> None:
    refused(lambda: Study(PLANE, height, "lhs", stop="rungs"), "stop: rungs needs an objective that can stop")  # type: ignore[arg-type]
    refused(
        lambda: Study(PLANE, Slotted(), "lhs", stop="early"), "stop: input should be 'none' or 'rungs', got 'early'"
    )
    Study(PLANE, Slotted(), "lhs", directory=tmp_path / "s").close()
    message = "holds another study: stop is none there, and rungs here"
    refused(lambda: Study(PLANE, Slotted(), "lhs", directory=tmp_path / "s", stop="rungs", resume=True), message)


class Recorder(Simulated):
    """Simulated workers that know what was submitted before what was proposed."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, lambda n: Length(60.0))
        self.log: list[tuple[str, int]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.log.append(("submit", args[1].number))
        return super().submit(fn, *args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "workers", "width", "blind"),
    [("bo", 4, 16, 25), ("random", 4, 16, 50), ("bo", 4, 4, 16), ("bo", 30, 1, 30), ("bo", 30, 2, 30)],
)
def test_an_optimiser_that_learns_is_not_asked_for_a_small_budget_at_once(
    algorithm: str, workers: int, width: int, blind: int
) -> None:
    """At most half of what remains is under way, or a trial a worker; at the end no worker has two."""
    study = Study(PLANE, Slotted(width, jitter=0.0), algorithm, seed=1, workers=Recorder(workers)).run(50)
    assert sum(trial.told_before == 0 for trial in study.trials) == blind
    under_way = [trial.number - trial.told_before + 1 for trial in study.trials]
    if algorithm == "bo":
        remaining = [50 - trial.told_before for trial in study.trials]
        assert all(n <= max(workers, -(-left // 2)) for n, left in zip(under_way, remaining, strict=True))


def test_trials_of_worker_processes_begin_as_they_are_asked_for() -> None:
    """So that they run while the optimiser thinks of the next; a pack's of this process begin together."""
    workers = Recorder(3)
    study = Study(PLANE, Slotted(1, jitter=0.0), "random", workers=workers)
    ask = study.optimizer.ask
    study.optimizer.ask = lambda n: (workers.log.append(("ask", 0)), ask(n))[1]  # type: ignore[method-assign]
    study.run(6)
    assert [what for what, _ in workers.log[:6]] == ["ask", "submit"] * 3
