"""Worker processes: what dies is run again, what kills is given up, what is finished is never lost.

The workers are real processes of a real Dask scheduler; one cluster serves the tests that leave it alive.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import distributed
import psutil
import pytest

import partune as pt
from partune.errors import UserError
from partune.objectives.base import Objective
from partune.runtime.preemption import PreemptedError, guarded, noticed
from partune.space import Float, Int, Space
from partune.trial import Observation, Trial
from partune.workers import certificates, cluster, local, queue
from partune.workers.base import WorkerLostError
from partune.workers.cluster import Cluster
from partune.workers.process import PRELOAD, PRELOAD_NANNY, WATCHES
from partune.workers.scheduler import joined
from tests.support import ROOT
from tests.support.simulated import SimulatedTuning

pytestmark = pytest.mark.slow

LINE = Space(x=Float(0, 1))


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    with local.local(2) as workers:
        yield workers


def pid(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("no such thing")


def test_calls_run_in_other_processes_side_by_side(two: Cluster) -> None:
    assert two.count == 2
    two.hold(1)
    futures = [two.submit(pid, 0.3) for _ in range(4)]
    found = Counter(future.result(timeout=60) for future in futures)
    assert os.getpid() not in found
    assert set(found.values()) == {2}


def test_nothing_listens_where_other_machines_are(two: Cluster) -> None:
    here = psutil.Process()
    everybody = [here, *here.children(recursive=True)]
    listening = [each.laddr.ip for one in everybody for each in one.net_connections() if each.status == "LISTEN"]
    assert len(listening) >= 3  # the scheduler and two workers
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_of_this_machine_runs_nothing_and_reads_nothing(two: Cluster) -> None:
    here = psutil.Process()
    everybody = [here, *here.children(recursive=True)]
    ports = {each.laddr.port for one in everybody for each in one.net_connections() if each.status == "LISTEN"}
    lists = (",".join(map(str, ports)), ",".join(str(one.pid) for one in everybody))
    if any(not place.stat().st_mode & stat.S_IXOTH for place in (Path(sys.prefix), *Path(sys.prefix).parents)):
        pytest.skip("Python is in a folder that other users cannot enter")
    command = [sys.executable, "-m", "tests.support.neighbour", *lists]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.splitlines() == []
    assert two.submit(pid).result(timeout=60) > 0


def test_what_a_worker_starts_does_not_inherit_its_certificate(two: Cluster) -> None:
    inherited = two.submit(lambda: subprocess.run(["env"], capture_output=True, text=True).stdout).result(timeout=60)
    assert "PATH=" in inherited
    assert "PRIVATE KEY" not in inherited


def test_a_cluster_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a worker could not tidy up."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    with local.local(1) as workers:
        (folder,) = tmp_path.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert any(folder.iterdir())
        with pytest.raises(WorkerLostError):
            workers.submit(os._exit, 1).result(timeout=60)
    assert not list(tmp_path.iterdir())


def test_no_watch_of_dask_holds_up_what_a_worker_runs(two: Cluster) -> None:
    callbacks = two.submit(lambda: set(distributed.get_worker().periodic_callbacks)).result(timeout=60)
    assert "heartbeat" in callbacks
    assert not callbacks & set(WATCHES)


def test_a_worker_holds_as_many_as_it_has_slots_and_the_load_is_even(two: Cluster) -> None:
    two.hold(3)
    began = time.monotonic()
    found = Counter(future.result(timeout=60) for future in [two.submit(pid, 1.0) for _ in range(6)])
    assert sorted(found.values()) == [3, 3]
    assert time.monotonic() - began < 1.9  # all at once


def test_fewer_trials_than_slots_are_spread_evenly(two: Cluster) -> None:
    two.hold(16)
    found = Counter(future.result(timeout=60) for future in [two.submit(pid, 0.5) for _ in range(6)])
    assert sorted(found.values()) == [3, 3]


def test_an_error_is_the_calls_result_and_bad_input_stays_bad_input(two: Cluster) -> None:
    with pytest.raises(ValueError, match="no such thing"):
        two.submit(fail).result(timeout=60)

    def refuse() -> None:
        raise UserError("one line")

    with pytest.raises(UserError, match="one line"):
        two.submit(refuse).result(timeout=60)


def warn() -> None:
    logging.getLogger("partune.anything").warning("the disk of this node is full")


def test_what_a_worker_warns_of_is_told_once_by_the_driver(two: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    for future in [two.submit(warn) for _ in range(4)]:
        future.result(timeout=60)
    deadline = time.monotonic() + 60
    while not (told := [each for each in caplog.records if "disk of this node" in each.getMessage()]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    two.submit(pid).result(timeout=60)
    assert [each.name for each in told] == ["partune.workers.cluster"]


def test_what_cannot_be_pickled_is_refused_at_once(two: Cluster) -> None:
    with pytest.raises(UserError, match="can be pickled"):
        two.submit(threading.Lock().acquire)


def test_what_kills_its_worker_is_given_up_and_its_neighbours_are_not(two: Cluster) -> None:
    two.hold(2)
    neighbours = [two.submit(pid, 0.5) for _ in range(3)]
    poison = two.submit(die)
    with pytest.raises(WorkerLostError, match="died 3 times while it ran alone"):
        poison.result(timeout=90)
    assert all(future.result(timeout=60) > 0 for future in neighbours)


def test_what_is_shut_down_ends_at_once_and_more_can_be_submitted(two: Cluster) -> None:
    two.hold(1)
    futures = [two.submit(pid, 1.5) for _ in range(6)]
    two.shutdown(cancel_futures=True)
    for future in futures:
        with pytest.raises(WorkerLostError, match="given up"):
            future.result(timeout=1)
    assert two.submit(pid).result(timeout=60) > 0


def test_a_hung_call_ends_with_its_time_limit_and_the_rest_goes_on() -> None:
    with local.local(1, time_limit=1.0) as workers:
        workers.hold(2)
        hung, good = workers.submit(pid, 60.0), workers.submit(pid, 0.1)
        with pytest.raises(WorkerLostError, match="no result within 1 s"):
            hung.result(timeout=60)
        assert good.result(timeout=60) > 0


def test_a_call_that_lets_no_thread_run_ends_with_its_time_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "FROZEN", 2.0)
    with local.local(1, time_limit=1.0) as workers:
        hung = workers.submit(re.match, "(a+)+$", "a" * 40 + "b")  # for ages, and with the interpreter's lock
        with pytest.raises(WorkerLostError, match="no result within 1 s"):
            hung.result(timeout=60)
        assert workers.submit(pid).result(timeout=60) > 0


# ----- workers that cannot start


def test_a_worker_that_cannot_start_is_told_of_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cloudpickle.py").write_text("import no_such_module\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    began = time.monotonic()
    said = r"status 1\): ModuleNotFoundError: No module named 'no_such_module'"
    with pytest.raises(UserError, match=said) as caught, local.local(2):
        pass
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60


def test_workers_that_cannot_start_again_end_the_study_and_no_worker_alone_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def broken(config: pt.Config) -> float:
        """The first trials break the environment and their workers, once both workers have one."""
        if (tmp_path / "mended").exists():
            return square(config)
        (tmp_path / f"{os.getpid()}").touch()
        while len(list(tmp_path.glob("[0-9]*"))) < 2:
            time.sleep(0.01)
        (tmp_path / "cloudpickle.py").write_text("import no_such_module\n")
        die()
        return 0.0

    with local.local(2) as workers:
        study = pt.Study(LINE, broken, "sobol", directory=tmp_path / "s", workers=workers)
        with pytest.raises(UserError, match=r"worker processes end before they can begin.*no_such_module"):
            study.run(6)
        assert workers.count == 0
        with pytest.raises(UserError, match="no_such_module"):
            workers.submit(pid)
        study.close()
    assert caplog.text.count("A worker is given up: ") == 2
    assert "Traceback (most recent call last)" in caplog.text  # all that is known is in the log
    (tmp_path / "cloudpickle.py").unlink()
    (tmp_path / "mended").touch()
    resumed = pt.Study(LINE, broken, "sobol", directory=tmp_path / "s", resume=True).run(6)
    assert [str(trial.status) for trial in resumed.trials] == ["done"] * 6


def test_what_a_worker_writes_is_kept_and_bounded() -> None:
    def chatter() -> None:
        for number in range(5000):
            print(f"line {number} of what a library has to say", flush=True)

    with local.local(1) as workers:
        keepers = [each for each in gc.get_objects() if isinstance(each, local.Keeper)]
        workers.submit(chatter).result(timeout=60)
        time.sleep(0.2)
        said = max((keeper._said for keeper in keepers), key=len)
    assert len(said) == local.OUTPUT
    assert b"line 4999" in said


def test_a_clock_that_jumps_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask measures the age of a heartbeat by a clock that can be set."""
    with dask.config.set({"distributed.scheduler.worker-ttl": "1s"}), local.local(1) as workers:
        before = workers.submit(pid).result(timeout=60)
        running = workers.submit(pid, 3.0)
        for hours in (30, -30):
            monkeypatch.setattr("distributed.scheduler.time", lambda hours=hours: time.time() + 3600 * hours)
            time.sleep(1.2)
        assert running.result(timeout=60) == before
        assert workers.submit(pid).result(timeout=60) == before


# ----- studies


def square(config: pt.Config) -> float:
    time.sleep(0.05)
    return -((config["x"] - 0.3) ** 2)  # type: ignore[operator]


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
        deadline = time.monotonic() + 60.0
        while len(found := {int(path.name) for path in tmp_path.iterdir()}) < count:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    with local.local(2) as workers:
        pt.Study(LINE, Loading(tmp_path), "random", workers=workers)
        first = loaded(2)
        os.kill(min(first), signal.SIGKILL)
        assert len(loaded(3)) == 3


def test_poison_trials_fail_and_the_others_are_done() -> None:
    space = Space(k=Int(0, 49))
    with local.local(2) as workers:
        study = pt.Study(space, poisonous, "grid", options={}, workers=workers).run(50)
    statuses = Counter(str(trial.status) for trial in study.trials)
    assert statuses == {"done": 45, "failed": 5}
    assert {t.config["k"] for t in study.trials if t.status == "failed"} == {3, 13, 23, 33, 43}
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
        assert len([name for name in study.anchors if name.startswith("fresh/")]) == 3
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


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `dask` commands, and ends them with the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def scheduler(port: int) -> tuple[str, ...]:
    return ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")


def worker(address: str) -> tuple[str, ...]:
    return ("worker", address, "--nthreads", "8", "--host", "127.0.0.1", "--no-dashboard", "--memory-limit", "0")


def free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_scheduler_that_dies_and_comes_back_loses_nothing(
    started: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    first = started(*scheduler(port))
    started(*worker(address))
    with joined(address) as workers:
        futures = [workers.submit(pid, 0.5) for _ in range(8)]
        futures[0].result(timeout=60)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        time.sleep(1.0)
        started(*scheduler(port))
        started(*worker(address))
        assert all(future.result(timeout=90) > 0 for future in futures)
    assert caplog.text.count("The scheduler is gone; waiting up to 10 minutes for it.") == 1
    assert caplog.text.count("The scheduler is back.") == 1


def test_a_scheduler_that_stays_away_is_one_line(started: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    scheduler_ = started(*scheduler(port))
    with joined(f"tcp://127.0.0.1:{port}") as workers:
        future = workers.submit(pid)
        monkeypatch.setattr(cluster, "PATIENCE", 3.0)
        os.killpg(scheduler_.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="the scheduler is gone, and did not come back"):
            future.result(timeout=60)


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
        frozen = workers.submit(pid).result(timeout=60)
        os.kill(frozen, signal.SIGSTOP)
        future = workers.submit(pid)
        started(*worker(address))
        assert future.result(timeout=60) != frozen


def test_a_worker_that_joins_late_gets_work(started: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    started(*scheduler(port))
    with joined(f"tcp://127.0.0.1:{port}") as workers:
        assert "every user of this machine can run code as you there" in caplog.text
        future = workers.submit(pid)
        time.sleep(0.5)
        assert not future.done()
        started(*worker(f"tcp://127.0.0.1:{port}"))
        assert future.result(timeout=60) > 0


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://10.1.2.3:8786", "is not on this machine"),
        ("tcp://scheduler.example.org:8786", "is not on this machine"),
        ("nonsense", "no address of a scheduler"),
    ],
)
def test_an_address_that_is_unsafe_or_none_is_one_line(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught, joined(address):
        pass
    assert "\n" not in str(caught.value)


def test_certificates_ask_for_an_address_that_says_so(tmp_path: Path) -> None:
    certificates.write_certificates(tmp_path / "tls")
    unencrypted = joined("tcp://10.1.2.3:8786", tls=tmp_path / "tls")
    with pytest.raises(UserError, match=r"is not encrypted.*: give tls://10.1.2.3:8786"), unencrypted:
        pass


def test_nobody_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partune.workers.scheduler.CONNECT", 0.5)
    nobody = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"no scheduler answers at {nobody}"), joined(nobody):
        pass


def test_with_certificates_a_cluster_is_closed_to_others(tmp_path: Path, started: Callable[..., Any]) -> None:
    folder = tmp_path / "tls"
    certificates.write_certificates(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with pytest.raises(UserError, match="cannot write"):
        certificates.write_certificates(folder)
    port = free_port()
    tls = [part for kind, name in certificates.FILES.items() for part in (f"--tls-{kind}", str(folder / name))]
    process = started(*scheduler(port), *local.UNSEEN, "--protocol", "tls", *tls)
    started(*worker(f"tls://127.0.0.1:{port}"), *tls)
    with joined(f"tls://127.0.0.1:{port}", tls=folder) as workers:
        assert workers.submit(pid).result(timeout=60) > 0
        listening = [each for each in psutil.Process(process.pid).net_connections() if each.status == "LISTEN"]
        assert [each.laddr.port for each in listening] == [port]  # no pages
    other = tmp_path / "other"
    certificates.write_certificates(other)
    with pytest.raises(UserError, match="no scheduler answers"), joined(f"tls://127.0.0.1:{port}", tls=other):
        pass


# ----- workers that are told to go (what can save itself: tests/finetune/packed/test_checkpoint.py)


def test_a_worker_that_is_told_to_go_is_not_held_against_what_it_was_running(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue, "STRIKES", 1)
    with local.local(1) as workers:
        there = workers.submit(pid).result(timeout=60)
        future = workers.submit(pid, 3.0)
        time.sleep(0.5)
        os.kill(there, signal.SIGTERM)
        assert future.result(timeout=60) != there
    assert caplog.text.count("A worker has to go; what it was running goes on elsewhere.") == 1


def saving(path: Path) -> None:
    """What saves itself when it is told to go, and takes its time for it."""
    with guarded():
        path.with_suffix(".begun").touch()
        while not noticed():
            time.sleep(0.02)
        time.sleep(1.5)
        path.write_text("saved")
    raise PreemptedError


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.02)


def test_an_interrupted_driver_waits_for_what_saves_itself(tmp_path: Path) -> None:
    def interrupted() -> None:
        with local.local(1) as workers:
            workers.submit(saving, tmp_path / "state")
            wait_for(tmp_path / "state.begun")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "state").read_text() == "saved"


def test_a_worker_that_outlives_its_driver_saves_what_it_runs(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import pathlib, sys\n"
            "from partune.workers.local import local\n"
            "from tests.workers.test_cluster import saving\n"
            "with local(1) as workers:\n"
            "    workers.submit(saving, pathlib.Path(sys.argv[1])).result()\n",
            str(tmp_path / "state"),
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
    )
    wait_for(tmp_path / "state.begun")
    driver.kill()
    driver.wait()
    wait_for(tmp_path / "state")
    deadline = time.monotonic() + 30
    while list(tmp_path.glob("partune-workers-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_nanny_passes_the_notice_on_and_ends_with_its_worker(
    started: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "STRIKES", 1)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    started(*scheduler(port))
    keeping = (*worker(address), "--nanny", *PRELOAD, *PRELOAD_NANNY)
    with joined(address) as workers:
        first = started(*keeping)
        there = workers.submit(pid).result(timeout=60)
        future = workers.submit(pid, 4.0)
        time.sleep(0.5)
        first.terminate()
        started(*keeping)
        assert future.result(timeout=60) != there
        assert first.wait(timeout=20) == 0
        assert not psutil.pid_exists(there)
