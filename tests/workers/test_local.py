"""Worker processes on this machine: who reaches them, how they are started again, what they leave."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import dask
import psutil
import pytest

import partune as pt
from partune.errors import UserError
from partune.workers import local
from partune.workers.base import WorkerLostError
from partune.workers.cluster import Cluster
from tests.support import ROOT
from tests.support.calls import LINE, die, pid, saving, square, wait_for
from tests.support.waiting import PATIENCE, eventually
from tests.workers.conftest import open_ports


@pytest.mark.slow
def test_nothing_listens_where_other_machines_are(two: Cluster) -> None:
    here = psutil.Process()
    everybody = [here, *here.children(recursive=True)]
    listening = [each.laddr.ip for one in everybody for each in one.net_connections() if each.status == "LISTEN"]
    assert len(listening) >= 3  # the scheduler and two workers
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_of_this_machine_runs_nothing_and_reads_nothing(two: Cluster, others: set[int]) -> None:
    here = psutil.Process()
    everybody = [here, *here.children(recursive=True)]
    ports = open_ports() - others
    assert len(ports) >= 3  # the scheduler and two workers
    lists = (",".join(map(str, ports)), ",".join(str(one.pid) for one in everybody))
    if any(not place.stat().st_mode & stat.S_IXOTH for place in (Path(sys.prefix), *Path(sys.prefix).parents)):
        pytest.skip("Python is in a folder that other users cannot enter")
    command = [sys.executable, "-m", "tests.support.neighbour", *lists]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == []
    assert two.submit(pid).result(timeout=PATIENCE) > 0


@pytest.mark.slow
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
            workers.submit(os._exit, 1).result(timeout=PATIENCE)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_told_of_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cloudpickle.py").write_text("import no_such_module\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    said = r"status 1\): ModuleNotFoundError: No module named 'no_such_module'"
    with pytest.raises(UserError, match=said) as caught, local.local(2):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_workers_that_cannot_start_again_end_the_study_and_no_worker_alone_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def broken(config: pt.Config) -> float:
        """The first trials break the environment and their workers, once both workers have one."""
        if (tmp_path / "mended").exists():
            return square(config)
        (tmp_path / f"{os.getpid()}").touch()
        eventually(lambda: len(list(tmp_path.glob("[0-9]*"))) >= 2)
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


@pytest.mark.slow
def test_what_a_worker_writes_is_kept_and_bounded() -> None:
    def chatter() -> None:
        for number in range(5000):
            print(f"line {number} of what a library has to say", flush=True)

    with local.local(1) as workers:
        keepers = [each for each in gc.get_objects() if isinstance(each, local.Keeper)]
        workers.submit(chatter).result(timeout=PATIENCE)
        said = eventually(lambda: next((keeper._output for keeper in keepers if b"line 4999" in keeper._output), None))
    assert said is not None
    assert len(said) == local.OUTPUT


@pytest.mark.slow
def test_a_clock_that_jumps_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask measures the age of a heartbeat by a clock that can be set."""
    with dask.config.set({"distributed.scheduler.worker-ttl": "1s"}), local.local(1) as workers:
        before = workers.submit(pid).result(timeout=PATIENCE)
        running = workers.submit(pid, 3.0)
        for hours in (30, -30):
            monkeypatch.setattr("distributed.scheduler.time", lambda hours=hours: time.time() + 3600 * hours)
            time.sleep(1.2)
        assert running.result(timeout=PATIENCE) == before
        assert workers.submit(pid).result(timeout=PATIENCE) == before


@pytest.mark.slow
def test_an_interrupted_driver_waits_for_what_saves_itself(tmp_path: Path) -> None:
    def interrupted() -> None:
        with local.local(1) as workers:
            workers.submit(saving, tmp_path / "state")
            wait_for(tmp_path / "state.begun")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "state").read_text() == "saved"


def test_each_worker_of_this_machine_has_its_own_devices_or_its_share_of_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in local._environments(4, 1)] == ["4", "5", "6", "7"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in local._environments(2, 2)] == ["4,5", "6,7"]
    with pytest.raises(UserError, match="3 workers with 2 GPU each need 6, but this machine has 4"):
        local._environments(3, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [each["OMP_NUM_THREADS"] for each in local._environments(2, 1)] == ["4", "4"]
    assert local._environments(16, 1)[0]["OMP_NUM_THREADS"] == "1"
