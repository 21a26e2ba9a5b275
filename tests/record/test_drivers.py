"""Several processes drive one study: no trial twice, one order of telling, the dead one's trials run again."""

from __future__ import annotations

import errno
import fcntl
import math
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from partune import Study, UserError
from partune.record import drivers
from partune.record.drivers import Files
from partune.record.place import JOURNAL
from partune.record.record import Record
from partune.trial import Observation
from partune.trial.names import FreshRun
from partune.verdict.winner import fresh_runs
from tests.study.test_study import PLANE, SPACE, himmelblau, outcomes
from tests.support.driving import BUDGET, Driver, drive, drive_one
from tests.support.simulated import SimulatedTuning
from tests.support.waiting import PATIENCE, eventually

# Every driver is a process of its own, forked from one that has loaded the libraries and runs no thread.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.support.loaded"])


@pytest.fixture(params=["journal", "postgresql"])
def storage(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "journal" else str(request.getfixturevalue("postgres").url)


def new(directory: Path, algorithm: str = "soo", storage: str | None = None, objective: Any = himmelblau) -> Path:
    Study(PLANE, objective, algorithm, seed=5, directory=directory, storage=storage).close()
    return directory


def check(study: Study, calls: list[list[str]], interrupted: int = 0) -> None:
    """calls: what each driver ran."""
    trials = study.trials
    assert [t.number for t in trials] == list(range(BUDGET))
    assert all(t.status.final for t in trials)
    assert sorted(t.told for t in trials if t.told is not None) == list(range(BUDGET))
    configs = {str(dict(t.config)) for t in trials}
    assert len(configs) == BUDGET
    ran = [call for each in calls for call in each]
    assert len(ran) == BUDGET + interrupted
    assert set(ran) == configs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "algorithms"),
    [
        ("journal", ["lhs", "annealing", "genetic", "soo", "bo", "bamsoo", "optuna-tpe"]),
        ("postgresql", ["soo"]),
        pytest.param("postgresql", ["bamsoo"], marks=pytest.mark.thorough),
    ],
    indirect=["storage"],
)
def test_three_drivers_do_what_one_does(storage: str | None, algorithms: list[str], tmp_path: Path) -> None:
    for number, algorithm in enumerate(algorithms):
        new(tmp_path / f"{number:02d}", algorithm, storage, Driver(tmp_path, "nobody"))
    processes = [PROCESSES.Process(target=drive, args=(tmp_path, algorithms, k, 3, storage)) for k in range(3)]
    for each in processes:
        each.start()
    try:
        eventually(lambda: all(each.exitcode is not None for each in processes), 240)
    finally:  # drivers that wait for each other would keep this process from ending
        for each in processes:
            each.kill()
    assert [each.exitcode for each in processes] == [0, 0, 0]
    ran = [0, 0, 0]
    for number, algorithm in enumerate(algorithms):
        directory = tmp_path / f"{number:02d}"
        driver = Driver(tmp_path, "nobody")
        resumed = Study(PLANE, driver, algorithm, seed=5, directory=directory, resume=True, storage=storage)
        logs = [tmp_path / f"calls-{number:02d}-{k}" for k in range(3)]
        calls = [log.read_text().splitlines() if log.exists() else [] for log in logs]
        check(resumed, calls)
        ran = [before + len(own) for before, own in zip(ran, calls, strict=True)]
        resumed.close()
        assert not (directory / ".drivers").is_dir() or not list((directory / ".drivers").iterdir())
    assert all(ran)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["leader", "joined"])
def test_a_killed_drivers_trial_is_taken_over(who: str, storage: str | None, tmp_path: Path) -> None:
    directory = new(tmp_path / "s", "lhs", storage, Driver(tmp_path, "nobody"))
    victim = PROCESSES.Process(
        target=drive_one, args=(directory, "victim", tmp_path / "never", who == "joined", BUDGET, storage)
    )
    victim.start()
    eventually((tmp_path / "calls-victim").exists)
    survivor = PROCESSES.Process(
        target=drive_one, args=(directory, "survivor", tmp_path / "gate", who == "leader", BUDGET, storage)
    )
    survivor.start()
    eventually((tmp_path / "calls-survivor").exists)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    (tmp_path / "gate").touch()
    survivor.join(120)
    assert survivor.exitcode == 0
    record = Record.open(directory, read_only=True, storage=storage)
    assert [t.attempts for t in record.trials()] == [2, *[1] * (BUDGET - 1)]
    driver = Driver(tmp_path, "nobody")
    resumed = Study(PLANE, driver, "lhs", seed=5, directory=directory, resume=True, storage=storage)
    calls = [(tmp_path / f"calls-{name}").read_text().splitlines() for name in ("victim", "survivor")]
    assert all(calls)
    check(resumed, calls, interrupted=1)


# ----- two drivers in one process, step by step


def pair(directory: Path, algorithm: str, storage: str | None) -> tuple[Study, Study]:
    leader = Study(PLANE, himmelblau, algorithm, seed=5, directory=directory, storage=storage)
    joined = Study(PLANE, himmelblau, algorithm, seed=5, directory=directory, storage=storage, join=True)
    return leader, joined


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "algorithm"),
    [
        *(("journal", name) for name in ("soo", "bamsoo", "annealing", "direct")),
        ("postgresql", "soo"),
        *(pytest.param("postgresql", name, marks=pytest.mark.thorough) for name in ("bamsoo", "annealing", "direct")),
    ],
    indirect=["storage"],
)
def test_drivers_in_turns_are_one_driver(algorithm: str, storage: str | None, tmp_path: Path) -> None:
    alone = Study(PLANE, himmelblau, algorithm, seed=5).run(20)
    studies = pair(tmp_path / "s", algorithm, storage)
    for number in range(20):
        study = studies[number % 2]
        trial = study._loop.next(20)
        assert trial is not None
        study._loop.tell(trial, Observation.of(himmelblau(trial.config)))
    for study in studies:
        assert study._loop.next(20) is None
        assert outcomes(study) == outcomes(alone)
        study.close()


@pytest.mark.slow
def test_the_living_keep_their_trials(storage: str | None, tmp_path: Path) -> None:
    leader, joined = pair(tmp_path / "s", "random", storage)
    first, second = leader._loop.next(2), joined._loop.next(2)
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (0, 1)
    assert leader._loop.next(2) is None
    assert joined._loop.next(2) is None
    joined.close()
    again = leader._loop.next(2)
    assert again is not None
    assert (again.number, again.attempts) == (1, 2)
    leader.close()


@pytest.mark.slow
def test_a_result_that_comes_after_the_takeover_is_dropped(storage: str | None, tmp_path: Path) -> None:
    leader, joined = pair(tmp_path / "s", "random", storage)
    lost = joined._loop.next(3)
    assert lost is not None
    leader.record.drivers.alive = lambda name: False  # type: ignore[method-assign]
    again = leader._loop.next(3)
    assert again is not None
    assert again.number == lost.number
    joined._loop.tell(lost, Observation({"score": 1.0}))
    leader._loop.tell(again, Observation({"score": 2.0}))
    joined._loop.tell(lost, Observation({"score": 3.0}))
    assert [t.score for t in leader.record.trials()] == [2.0]
    joined._loop._catch_up()
    assert [t.score for t in joined.trials] == [2.0]
    leader.close()
    joined.close()


@pytest.mark.slow
def test_one_that_joined_only_searches(storage: str | None, tmp_path: Path) -> None:
    objective = SimulatedTuning()
    leader = Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s", storage=storage)
    joined = Study(SPACE, objective, "random", directory=tmp_path / "s", storage=storage, join=True)
    thread = threading.Thread(target=joined.run, args=(8,))
    thread.start()
    leader.run(8)
    thread.join(60)
    assert not thread.is_alive()
    assert not {"base", "0:0", "0:0.0002"} & set(objective.calls)
    assert not [call for call in objective.calls if call.startswith("adapter")]
    assert {name for name in leader.anchors if not isinstance(name, FreshRun)} == {"base", "zero", "defaults", "winner"}
    assert len(fresh_runs(leader.anchors, leader.best.number)) == len(fresh_runs(leader.anchors, "defaults")) == 4
    assert leader.verdict is not None
    assert len(leader.trials) == 8
    leader.close()
    joined.close()


def test_nobody_waits_for_anchors_that_nobody_scores(tmp_path: Path) -> None:
    Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s").close()
    joined = Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s", join=True)
    with pytest.raises(UserError, match=r"the baselines of .* are not scored, and no process is scoring them"):
        joined.run(3)


def test_a_study_to_join_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study in .* to join"):
        Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", join=True)


# ----- files


def test_a_turn_of_the_dead_is_broken_and_its_half_line_cut(tmp_path: Path) -> None:
    directory = new(tmp_path / "s")
    first, second = (Record.open(directory, join=True) for _ in range(2))
    assert isinstance(first.drivers, Files)
    first.drivers._take()
    with (directory / JOURNAL).open("ab") as journal:
        journal.write(b'{"half": ')
    (directory / f"{JOURNAL}.lock").symlink_to(JOURNAL)
    link = os.readlink(directory / ".turn")
    first.close()  # would give the turn back: it is put there again, as a SIGKILL leaves it
    (directory / ".turn").symlink_to(link)
    assert isinstance(second.drivers, Files)
    second.drivers._patience = math.inf  # on this machine a death is known at once
    planning = threading.Thread(target=second.plan, args=(5,), daemon=True)
    planning.start()
    planning.join(PATIENCE)
    assert second.budget == 5
    assert not (directory / ".turn").is_symlink()
    assert list(directory.glob(".turn*")) == []


def test_a_living_drivers_turn_is_waited_for(tmp_path: Path) -> None:
    directory = new(tmp_path / "s")
    first, second = (Record.open(directory, join=True) for _ in range(2))
    done = threading.Event()

    def wait() -> None:
        with second.turn():
            done.set()

    with first.turn():
        thread = threading.Thread(target=wait)
        thread.start()
        assert not done.wait(0.3)
    assert done.wait(PATIENCE)
    thread.join()


def test_one_that_lost_its_turn_does_not_write(tmp_path: Path) -> None:
    directory = new(tmp_path / "s")
    record = Record.open(directory, join=True)
    before = (directory / JOURNAL).read_bytes()
    with record.turn():
        (directory / ".turn").unlink()
        (directory / ".turn").symlink_to("another.1")
        with pytest.raises(UserError, match="suspended for so long"):
            record.drivers.confirm()
    assert os.readlink(directory / ".turn") == "another.1"  # not given back: it is not this driver's
    assert (directory / JOURNAL).read_bytes() == before


def test_on_another_machine_a_count_that_stands_still_is_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(drivers, "BEAT", 0.05)
    monkeypatch.setattr(drivers, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(drivers, "BOOT", "there")
    far = Files(tmp_path, lambda: None)
    monkeypatch.setattr(drivers, "BOOT", "here")
    near = Files(tmp_path, lambda: None, patience=0.5)
    path = tmp_path / ".drivers" / far.name
    for _ in range(4):
        counted = path.read_text()
        assert near.alive(far.name)
        eventually(lambda counted=counted: path.read_text() != counted)
        clock[0] += 0.4
    counted = path.read_text()
    far.leave()
    assert not near.alive(far.name)
    path.write_text(counted)  # as a machine that lost its power leaves it
    assert near.alive(far.name)
    clock[0] += 0.3
    assert near.alive(far.name)
    clock[0] += 0.3
    assert not near.alive(far.name)
    near.leave()


def test_a_driver_that_goes_leaves_nothing(tmp_path: Path) -> None:
    directory = new(tmp_path / "s")
    before = threading.active_count()
    record = Record.open(directory)
    assert threading.active_count() == before + 1
    del record  # without close
    assert threading.active_count() == before
    assert list((directory / ".drivers").iterdir()) == []
    Record.open(directory).close()


def test_a_name_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    (tmp_path / "s").mkdir()
    files = Files(tmp_path / "s", lambda: None)
    assert not files.alive("../../outside")
    assert outside.exists()
    files.leave()


def test_one_driver_at_a_time(directory: Path) -> None:
    first = Record.open(directory)
    with pytest.raises(UserError, match="is already being run"):
        Record.open(directory)
    assert len(Record.open(directory, read_only=True).trials()) == 3
    first.close()
    Record.open(directory).close()


def test_a_file_system_without_locks_is_not_taken_for_another_driver(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\): put the study on a file system"):
        Record.open(directory)
