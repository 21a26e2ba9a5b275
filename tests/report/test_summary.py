"""The summary: every number from the record, the same for scripts and for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from partune import Float, Int, Observation, Space, Study
from partune.bench.scaling.makespans import Case, SimulatedStudy
from partune.bench.scaling.run import Length, LogNormal, Simulated
from partune.objectives.base import Objective
from partune.record.record import Record
from partune.report import summary
from partune.report.plain_data import as_json
from partune.trial import Trial
from tests.study.test_slots import Slotted
from tests.support.printed import printed
from tests.support.simulated import SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(
        SPACE, SimulatedTuning(gain=0.4, items=1000), "lhs", directory=tmp_path / "s", options={"size": 12}
    ).run(12)


def test_the_data_are_the_records(study: Study) -> None:
    found = summary.summarise(study.record)
    assert found["best"]["trial"] == study.best.number
    assert found["best"]["score"] == study.best.score
    assert found["best"]["adapter"] == str(study.record.adapter(study.best.number))
    assert found["base"]["score"] == study.anchors["base"].score
    assert found["defaults"]["config"] == {"learning_rate": 2e-4, "lora_r": 16}
    for name in ("base", "defaults", "best"):
        assert set(found[name]["test"]) == {"t"}
        assert 0 < found[name]["test"]["t"]["stderr"] < 0.02
    assert study.verdict is not None
    assert found["verdict"]["better_than"] == list(study.verdict.better_than)
    assert found["verdict"]["over_base"]["gain"] == pytest.approx(
        found["best"]["verdict"]["score"] - found["base"]["verdict"]["score"]
    )
    assert [row["id"] for row in found["trials"]] == list(range(12))
    failed = [row for row in found["trials"] if row["status"] == "failed"]
    assert failed
    assert all(row["score"] is None and row["error"].startswith("FloatingPointError: ") for row in failed)


@pytest.mark.slow
def test_a_reader_beside_a_running_study_sees_the_same(study: Study) -> None:
    assert study.record.directory is not None
    reader = Record.open(study.record.directory, read_only=True)
    assert summary.summarise(reader) == summary.summarise(study.record)


@pytest.mark.slow
def test_scripts_get_plain_json(study: Study) -> None:
    found = summary.summarise(study.record)
    assert json.loads(as_json(found)) == json.loads(json.dumps(found))


def test_before_the_winner_is_scored_there_is_no_verdict(tmp_path: Path) -> None:
    study = Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s")
    assert "No trials yet." in printed(summary.summarise(study.record))
    study._baselines.score()
    trial = study._loop.next(budget=1)
    assert trial is not None
    study._loop.tell(trial, study.objective.evaluate(trial))
    found = summary.summarise(study.record)
    assert found["verdict"] is None
    assert found["best"]["verdict"] is None
    assert "No verdict yet" in printed(found)


# ----- utilisation


class Timed(Objective):
    """Trials that take as long as the simulated workers say."""

    def __init__(self, length: Callable[[int], Length]) -> None:
        self.length = length

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        return Observation({"score": float(trial.number)}, cost={"seconds": self.length(trial.number).seconds})


def test_utilisation_is_that_of_the_simulated_study() -> None:
    """Busy / (workers x makespan), as `partune bench scaling` has it; the driver takes no time here."""
    length = LogNormal(60.0, 0.3)
    workers = Simulated(8, length, clock=lambda: 0.0)
    study = Study(SPACE, Timed(length), "random", workers=workers).run(48)
    workers.end()
    run = SimulatedStudy(Case("random", "async", 0.3, 8, 0), workers.tasks, [0.0] * 48, workers.driver, workers.now)
    found = summary.summarise(study.record)
    assert found["utilisation"] == pytest.approx(run.utilisation, rel=1e-9)
    assert found["seconds"]["workers"] == pytest.approx(8 * run.makespan, rel=1e-9)
    assert f"workers busy for {run.utilisation:.0%} of the search" in printed(found)


def test_utilisation_adds_up_over_the_runs_of_a_study_and_over_workers_that_come_and_go(tmp_path: Path) -> None:
    """Of a run that was killed it knows all up to its last result; what nobody waited for is nobody's idle time."""
    length = LogNormal(60.0, 0.3)

    def run(count: int, budget: int) -> Study:
        workers = Simulated(count, lambda n: length(n + begun), clock=lambda: 0.0)
        there = tmp_path / "s"
        study = Study(SPACE, Timed(length), "random", directory=there, workers=workers, resume=True).run(budget)
        study.close()
        capacity.append(count * workers.now)
        return study

    capacity: list[float] = []
    begun = 0
    run(2, 8)
    begun = 8
    study = run(4, 20)
    busy = sum(length(n).seconds for n in range(20))
    assert summary.utilisation(study.record.trials()) == pytest.approx(busy / sum(capacity), rel=1e-9)


def test_a_packs_trials_have_shares_of_its_time_so_that_one_worker_is_never_busy_twice() -> None:
    class Clocked(Simulated):
        """One worker, whose pack of four takes 40 s."""

        remote = False
        packs = 0

        def first(self, futures: Collection[Future[Any]]) -> set[Future[Any]]:
            self.packs += 1
            for each in self._running:
                each.settle()
            self._running.clear()
            self.now = 40.0 * self.packs + 10.0 * (self.packs - 1)  # 10 s between packs
            return {each for each in futures if each.done()}

    class Pack(Slotted):
        def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
            return Observation({"score": 0.0}, cost={"seconds": 10.0})

    study = Study(SPACE, Pack(4), "random", workers=Clocked(1, lambda n: Length(40.0), clock=lambda: 0.0)).run(12)
    assert summary.utilisation(study.record.trials()) == pytest.approx(120 / 140)


def test_an_older_record_has_no_utilisation() -> None:
    trial = Trial(0, {}).finished(Observation({"score": 0.0}, cost={"seconds": 1.0}), told=0)
    assert summary.utilisation([trial]) is None
    assert summary.utilisation([]) is None


def test_a_test_tasks_name_may_have_a_slash() -> None:
    scores = {"test/a/b": 0.5, "test/a/b_stderr": 0.1, "test/a/b/acc": 0.5, "test/a/b/acc_stderr": 0.1}
    assert summary._test(scores) == {"a/b": {"score": 0.5, "stderr": 0.1}}
