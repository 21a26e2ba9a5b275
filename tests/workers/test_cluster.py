"""Worker processes: what dies is run again, what kills is given up, what is finished is never lost.

The workers are real processes of a real Dask scheduler; one cluster serves the tests that leave it alive.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import partune as pt
from partune.errors import UserError
from partune.objectives.base import Objective
from partune.space import Float, Int, Space
from partune.trial import Observation, Trial
from partune.trial.names import FreshRun
from partune.workers import cluster, local
from partune.workers.base import WorkerLostError
from partune.workers.cluster import Cluster
from partune.workers.scheduler import joined
from tests.support.calls import LINE, die, fail, meeting, pid, square
from tests.support.dask_commands import free_port, scheduler, worker
from tests.support.simulated import SimulatedTuning
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


def test_calls_run_in_other_processes_side_by_side(two: Cluster, tmp_path: Path) -> None:
    assert two.count == 2
    two.hold(1)
    futures = [two.submit(meeting, tmp_path / str(number // 2), 2, str(number)) for number in range(4)]
    found = Counter(future.result(timeout=PATIENCE) for future in futures)
    assert os.getpid() not in found
    assert set(found.values()) == {2}


@pytest.mark.parametrize("slots", [3, 16])
def test_as_many_as_there_are_slots_run_at_once_and_the_load_is_even(two: Cluster, tmp_path: Path, slots: int) -> None:
    two.hold(slots)
    futures = [two.submit(meeting, tmp_path / "all", 6, str(number)) for number in range(6)]
    found = Counter(future.result(timeout=PATIENCE) for future in futures)
    assert sorted(found.values()) == [3, 3]


def test_an_error_is_the_calls_result_and_bad_input_stays_bad_input(two: Cluster) -> None:
    with pytest.raises(ValueError, match="no such thing"):
        two.submit(fail).result(timeout=PATIENCE)

    def refuse() -> None:
        raise UserError("one line")

    with pytest.raises(UserError, match="one line"):
        two.submit(refuse).result(timeout=PATIENCE)


def test_what_cannot_be_pickled_is_refused_at_once(two: Cluster) -> None:
    with pytest.raises(UserError, match="can be pickled"):
        two.submit(threading.Lock().acquire)


@pytest.mark.thorough
def test_what_kills_its_worker_is_given_up_and_its_neighbours_are_not(two: Cluster) -> None:
    two.hold(2)
    neighbours = [two.submit(pid, 0.5) for _ in range(3)]
    poison = two.submit(die)
    with pytest.raises(WorkerLostError, match="died 3 times while it ran no other task"):
        poison.result(timeout=PATIENCE)
    assert all(future.result(timeout=PATIENCE) > 0 for future in neighbours)


def test_what_is_shut_down_ends_at_once_and_more_can_be_submitted(two: Cluster) -> None:
    two.hold(1)
    futures = [two.submit(pid, 1.5) for _ in range(6)]
    two.shutdown(cancel_futures=True)
    for future in futures:
        with pytest.raises(WorkerLostError, match="given up"):
            future.result(timeout=PATIENCE)
    assert two.submit(pid).result(timeout=PATIENCE) > 0


@pytest.mark.thorough
def test_a_hung_call_ends_with_its_time_limit_and_the_rest_goes_on() -> None:
    with local.local(1, time_limit=1.0) as workers:
        workers.hold(2)
        hung, good = workers.submit(pid, 60.0), workers.submit(pid, 0.1)
        with pytest.raises(WorkerLostError, match="no result within the time limit of 1 s"):
            hung.result(timeout=PATIENCE)
        assert good.result(timeout=PATIENCE) > 0


def test_a_call_that_lets_no_thread_run_ends_with_its_time_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "FROZEN", 2.0)
    with local.local(1, time_limit=1.0) as workers:
        hung = workers.submit(re.match, "(a+)+$", "a" * 40 + "b")  # for ages, and with the interpreter's lock
        with pytest.raises(WorkerLostError, match="no result within the time limit of 1 s"):
            hung.result(timeout=PATIENCE)
        assert workers.submit(pid).result(timeout=PATIENCE) > 0


# ----- workers that cannot start


# ----- studies


def poisonous(config: pt.Config) -> float:
    if config["k"] % 10 == 3:  # type: ignore[operator]
        die()
    return float(config["k"])


def test_a_study_is_the_same_with_worker_processes(two: Cluster, tmp_path: Path) -> None:
    here = pt.Study(LINE, square, "sobol", seed=3).run(12)
    there = pt.Study(LINE, square, "sobol", seed=3, directory=tmp_path / "s", workers=two).run(12)
    assert [(t.config, t.score) for t in there.trials] == [(t.config, t.score) for t in here.trials]
    there.close()
    again = pt.Study(LINE, square, "sobol", seed=3, directory=tmp_path / "s", resume=True)
    assert again.trials == there.trials


class Loading(Objective):
    """Leaves a file for each process that has loaded it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        (self.folder / str(os.getpid())).touch()

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        return Observation({"score": 0.0})


def test_every_worker_loads_before_its_first_trial_and_so_does_its_successor(tmp_path: Path) -> None:
    def loaded(count: int) -> set[int]:
        eventually(lambda: len(list(tmp_path.iterdir())) >= count)
        return {int(path.name) for path in tmp_path.iterdir()}

    with local.local(2) as workers:
        pt.Study(LINE, Loading(tmp_path), "random", workers=workers)
        first = loaded(2)
        os.kill(min(first), signal.SIGKILL)
        assert len(loaded(3)) == 3


def test_poison_trials_fail_and_the_others_are_done() -> None:
    space = Space(k=Int(0, 19))
    with local.local(2) as workers:
        study = pt.Study(space, poisonous, "grid", options={}, workers=workers).run(20)
    statuses = Counter(str(trial.status) for trial in study.trials)
    assert statuses == {"done": 18, "failed": 2}
    assert {t.config["k"] for t in study.trials if t.status == "failed"} == {3, 13}
    assert all(
        "died 3 times" in (t.observation.error or "") for t in study.trials if t.observation and t.status == "failed"
    )


@dataclass
class Lethal(SimulatedTuning):
    """The second fresh run of the defaults kills its worker until a file is there."""

    mended: Path = Path()

    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        if adapter.name == "fresh.defaults.2" and not self.mended.exists():
            die()
        return super().score_fresh(trial, adapter)


def test_a_fresh_run_that_kills_its_worker_is_due_when_the_study_is_resumed(tmp_path: Path) -> None:
    space = Space(learning_rate=Float(1e-6, 1e-3, log=True))
    objective = Lethal(mended=tmp_path / "mended")
    with local.local(2) as workers:
        study = pt.Study(space, objective, "random", directory=tmp_path / "s", workers=workers, seeds=2)
        with pytest.raises(UserError, match=r"fresh run 2 of the defaults \(its worker died 3 times.*partune resume"):
            study.run(4)
        assert len([name for name in study.anchors if isinstance(name, FreshRun)]) == 3
        study.close()
        objective.mended.touch()
        study = pt.Study(space, objective, "random", directory=tmp_path / "s", workers=workers, seeds=2, resume=True)
        found = study.run(4).verdict
        assert found is not None
        assert found.over_defaults is not None
        assert found.over_defaults.runs == (2, 3)
        study.close()


def test_rungs_are_refused_across_processes(two: Cluster) -> None:
    class Stoppable(Objective):
        stoppable = True

        def evaluate(self, trial: Any, adapter: Any = None) -> Any: ...

    with pytest.raises(UserError, match="use one worker"):
        pt.Study(LINE, Stoppable(), stop="rungs", workers=two)


# ----- schedulers elsewhere


def test_a_scheduler_that_dies_and_comes_back_loses_nothing(
    started: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    first = started(*scheduler(port))
    started(*worker(address))
    with joined(address) as workers:
        futures = [workers.submit(pid, 0.5) for _ in range(8)]
        futures[0].result(timeout=PATIENCE)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        eventually(lambda: "The scheduler is gone" in caplog.text)
        started(*scheduler(port))
        started(*worker(address))
        assert all(future.result(timeout=PATIENCE) > 0 for future in futures)
    assert caplog.text.count("The scheduler is gone; waiting up to 10 minutes for it.") == 1
    assert caplog.text.count("The scheduler is back.") == 1


def test_a_scheduler_that_stays_away_is_one_line(started: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    scheduler_ = started(*scheduler(port))
    with joined(f"tcp://127.0.0.1:{port}") as workers:
        future = workers.submit(pid)
        monkeypatch.setattr(cluster, "PATIENCE", 3.0)
        os.killpg(scheduler_.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="the scheduler is gone and did not come back"):
            future.result(timeout=PATIENCE)


def test_what_a_frozen_worker_was_running_goes_on_elsewhere(
    started: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FROZEN", 2.0)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    started(*scheduler(port))
    started(*worker(address))
    with joined(address, time_limit=2.0) as workers:
        workers.hold(2)
        frozen = workers.submit(pid).result(timeout=PATIENCE)
        os.kill(frozen, signal.SIGSTOP)
        future = workers.submit(pid)
        started(*worker(address))
        assert future.result(timeout=PATIENCE) != frozen


def test_a_worker_that_joins_late_gets_work(started: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    started(*scheduler(port))
    with joined(f"tcp://127.0.0.1:{port}") as workers:
        assert "every user of this machine can run code as you there" in caplog.text
        future = workers.submit(pid)
        time.sleep(0.5)
        assert not future.done()
        started(*worker(f"tcp://127.0.0.1:{port}"))
        assert future.result(timeout=PATIENCE) > 0


# ----- workers that are told to go (what can save itself: tests/finetune/packed/test_checkpoint.py)
