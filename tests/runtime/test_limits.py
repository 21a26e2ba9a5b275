"""What a machine can hold: refused with the number and its reason, before a process is started."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import psutil
import pytest

from partune import UserError
from partune.cli import main
from partune.runtime import limits

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The processes that would have been started."""
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *arguments, **_: started.append(arguments))
    return started


def refused(workers: int) -> str:
    with pytest.raises(UserError) as caught:
        limits.require_workers(workers)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_million_workers_are_refused_and_none_is_started(
    processes: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = pytest.importorskip("partune.workers.local")
    monkeypatch.setattr(local, "devices", list)
    arguments = ["tune", "--objective", "branin", "--workers", "1000000", "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "1000000 worker processes are more than this machine can hold: " in said
    assert said.count("\n") == 1
    with pytest.raises(UserError, match="more than this machine can hold"), local.local(10**6):
        pass
    with pytest.raises(UserError, match="1000000 GPUs per worker were requested, but this machine has none"):
        local.local(2, devices_each=10**6).__enter__()
    assert not processes
    assert not list(tmp_path.iterdir())


def test_the_scarcest_thing_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000)))
    there = {resource.RLIMIT_NOFILE: 10**6, resource.RLIMIT_NPROC: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (there[which], there[which]))
    free = psutil.virtual_memory()._replace(available=2**40)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    limits.require_workers(8192)
    assert "8192 at most, because each takes 128 MiB of memory, and 1024.0 GiB are free" in refused(8193)
    (tmp_path / "memory.max").write_text(f"{2**31}\n")
    (tmp_path / "memory.current").write_text(f"{2**30}\n")
    assert "8 at most, because each takes 128 MiB of memory, and 1.0 GiB are free" in refused(9)
    (tmp_path / "memory.max").write_text("max\n")
    there[resource.RLIMIT_NPROC] = 4096
    assert "512 at most, because each takes 8 of the 4096 processes and threads" in refused(513)
    (tmp_path / "pids.max").write_text("800\n")
    assert "100 at most, because each takes 8 of the 800 processes and threads" in refused(101)
    there[resource.RLIMIT_NOFILE] = 256
    assert "64 at most, because each takes 3 of the 256 files that a process may open" in refused(65)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert "32 at most, because 16 may share each of its 2 cores" in refused(33)
    limits.require_workers(32)


def test_threads_and_packs_that_no_machine_holds_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = ["--runs", str(tmp_path / "runs")]
    for option, message in (
        ("--threads", f"1000000 CPU threads are more than this machine can hold: {16 * CORES} at most"),
        ("--pack", "pack: must be at most 4096 trials, because each trial has its own thread, got '1000000'"),
    ):
        assert main(["demo", option, "1000000", *runs]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
    limits.require_threads(None)
    limits.require_threads(CORES)


def test_a_batch_system_is_asked_for_no_more_workers_than_a_driver_can_have(tmp_path: Path) -> None:
    batch = pytest.importorskip("partune.workers.batch")
    (tmp_path / "slurm.yaml").write_text("{system: slurm, minimum: 1000000, maximum: 1000000}\n")
    with pytest.raises(UserError, match="1000000 workers are more than one process can drive: "):
        batch.batch(tmp_path / "slurm.yaml").__enter__()
