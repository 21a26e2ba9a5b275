"""What a worker process does: the devices that it sees, what it tells the driver, how it ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import psutil
import pytest

from partune.runtime.devices import DEVICES_EACH
from partune.workers import local, process, queue
from partune.workers.cluster import Cluster
from partune.workers.process import PRELOAD, PRELOAD_NANNY, WATCHES
from partune.workers.scheduler import joined
from tests.support import ROOT
from tests.support.calls import pid, staying, wait_for, warn
from tests.support.dask_commands import free_port, scheduler, worker
from tests.support.waiting import PATIENCE, eventually


def seen(monkeypatch: pytest.MonkeyPatch, devices: str, name: str, workers: int, each: int = 1) -> str:
    """What CUDA_VISIBLE_DEVICES is in the worker of a name, in a job that the batch system gave some devices."""
    monkeypatch.delenv(process.PARENT, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    monkeypatch.setenv(process.WORKERS_EACH, str(workers))
    monkeypatch.setenv(DEVICES_EACH, str(each))
    dask_worker: Any = SimpleNamespace(name=name, periodic_callbacks={})
    monkeypatch.setattr(process.signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging.getLogger("partune"), "handlers", [])  # which it adds one to, for the driver
    process.dask_setup(dask_worker)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize("job", [0, 3])
def test_each_worker_of_a_job_sees_its_own_devices(job: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"SLURMCluster-{job}-{number}" for number in range(4)]
    assert [seen(monkeypatch, "0,1,2,3", name, 4) for name in names] == ["0", "1", "2", "3"]
    by_uuid = "GPU-a1,GPU-b2,GPU-c3,GPU-d4"
    assert [seen(monkeypatch, by_uuid, name, 4) for name in names] == by_uuid.split(",")
    assert [seen(monkeypatch, "0,1,2,3", name, 2, 2) for name in names[:2]] == ["0,1", "2,3"]


@pytest.mark.parametrize("job", [0, 3])
def test_a_jobs_only_worker_sees_its_first_devices(job: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(monkeypatch, "4", f"SLURMCluster-{job}", 1) == "4"
    assert seen(monkeypatch, "4,5", f"SLURMCluster-{job}", 1, 2) == "4,5"


def test_a_job_without_devices_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(monkeypatch, "", "SLURMCluster-0-1", 4) == ""


def test_a_job_with_too_few_devices_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit):
        seen(monkeypatch, "0,1,2,3", "SLURMCluster-0-1", 4, 2)
    assert "4 workers with 2 GPU each need 8, but this job has 4" in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_worker_starts_does_not_inherit_its_certificate(two: Cluster) -> None:
    inherited = two.submit(lambda: subprocess.run(["env"], capture_output=True, text=True).stdout).result(
        timeout=PATIENCE
    )
    assert "PATH=" in inherited
    assert "PRIVATE KEY" not in inherited


@pytest.mark.slow
def test_no_watch_of_dask_holds_up_what_a_worker_runs(two: Cluster) -> None:
    callbacks = two.submit(lambda: set(distributed.get_worker().periodic_callbacks)).result(timeout=PATIENCE)
    assert "heartbeat" in callbacks
    assert not callbacks & set(WATCHES)


@pytest.mark.slow
def test_what_a_worker_warns_of_is_told_once_by_the_driver(two: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    for future in [two.submit(warn) for _ in range(4)]:
        future.result(timeout=PATIENCE)
    told = eventually(lambda: [each for each in caplog.records if "disk of this node" in each.getMessage()])
    two.submit(pid).result(timeout=PATIENCE)
    assert [each.name for each in told] == ["partune.workers.cluster"]


@pytest.mark.slow
def test_a_worker_that_is_told_to_go_is_not_held_against_what_it_was_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue, "STRIKES", 1)
    with local.local(1) as workers:
        there = workers.submit(pid).result(timeout=PATIENCE)
        future = workers.submit(staying, tmp_path / "begun")
        wait_for(tmp_path / "begun")
        os.kill(there, signal.SIGTERM)
        assert future.result(timeout=PATIENCE) != there
    assert caplog.text.count("A worker has to stop; its tasks continue on other workers.") == 1


@pytest.mark.slow
def test_a_worker_that_outlives_its_driver_saves_what_it_runs(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import pathlib, sys\n"
            "from partune.workers.local import local\n"
            "from tests.support.calls import saving\n"
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
    eventually(lambda: not list(tmp_path.glob("partune-workers-*")))


@pytest.mark.slow
def test_a_nanny_passes_the_notice_on_and_ends_with_its_worker(
    started: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "STRIKES", 1)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    started(*scheduler(port))
    keeping = (*worker(address), "--nanny", *PRELOAD, *PRELOAD_NANNY)
    with joined(address) as workers:
        first = started(*keeping)
        there = workers.submit(pid).result(timeout=PATIENCE)
        future = workers.submit(staying, tmp_path / "begun")
        wait_for(tmp_path / "begun")
        first.terminate()
        started(*keeping)
        assert future.result(timeout=PATIENCE) != there
        assert first.wait(timeout=PATIENCE) == 0
        assert not psutil.pid_exists(there)
