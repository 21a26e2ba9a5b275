"""A batch system's file: the job scripts that it makes, what is wrong with it, and which GPUs a job's workers see.

Golden files: where a script is to change, delete its file in tests/workers/golden and run the test twice.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from partune import config
from partune.errors import UserError
from partune.workers import batch, certificates
from tests.support.batch_system import RECIPES, System
from tests.support.waiting import PATIENCE, killed

GOLDEN = Path(__file__).with_name("golden")
NODES = {
    "slurm": """
        system: slurm
        maximum: 16
        workers_per_job: 4
        prologue: [module load cuda, source .venv/bin/activate]
        job:
          queue: gpu
          account: project42
          walltime: "08:00:00"
          cores: 32
          memory: 256 GiB
          interface: lo
          job_extra_directives: ["--gres=gpu:4", "--requeue"]
        """,
    "oar": """
        system: oar
        maximum: 8
        workers_per_job: 4
        prologue: [module load cuda, source .venv/bin/activate]
        job:
          queue: default
          project: project42
          walltime: "08:00:00"
          resource_spec: /nodes=1/gpu=4
          interface: lo
          job_extra_directives: ["-p gpu_count=4", "-t besteffort"]
        """,
    "slurm-defaults": "{system: slurm, maximum: 2, job: {interface: lo}}",
}


def script(text: str, folder: Path) -> str:
    """The job script, without what differs between machines and runs."""
    certificates.write_certificates(folder / "tls")
    settings = config.validated(config.Batch, yaml.safe_load(text))
    with batch.make_batch(settings, certificates.read_certificates(folder / "tls"), folder) as jobs:
        found = jobs.job_script()
    found = found.replace(str(folder), "FOLDER").replace(sys.executable, "PYTHON")
    return re.sub(r"tls://[\d.]+:\d+", "tls://ADDRESS", found)


@pytest.mark.parametrize("name", NODES)
def test_the_job_script_is_the_golden_one(name: str, tmp_path: Path) -> None:
    found, golden = script(NODES[name], tmp_path), GOLDEN / f"{name}.sh"
    if not golden.exists():
        golden.write_text(found)
        pytest.fail(f"{golden.name} was not there and is now: read it")
    assert found == golden.read_text()


@pytest.mark.parametrize("name", RECIPES)
def test_the_documents_files_become_job_scripts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some name a folder for the jobs' output
    form = yaml.safe_load(RECIPES[name])
    found = script(RECIPES[name], tmp_path)
    asked = form["job"].get("job_extra_directives", [])
    prefix = {"slurm": "#SBATCH", "oar": "#OAR"}[form["system"]]
    assert [line for line in found.splitlines() if line in [f"{prefix} {each}" for each in asked]]
    assert all(line in found.splitlines() for line in form.get("prologue", []))
    assert f"PARTUNE_WORKERS_PER_JOB={form.get('workers_per_job', 1)} " in found
    assert form["job"]["walltime"] in found


def test_there_are_files_for_slurm_and_oar() -> None:
    assert {"cluster-0", "slurm-0", "slurm-1", "slurm-2"} <= RECIPES.keys()
    assert {yaml.safe_load(text)["system"] for text in RECIPES.values()} == {"slurm", "oar"}


def test_a_scheduler_of_the_files_port_has_no_dashboard_for_others(tmp_path: Path) -> None:
    """It would listen everywhere, and to everybody."""
    certificates.write_certificates(tmp_path / "tls")
    job = {"interface": "lo", "scheduler_options": {"idle_timeout": "1 h"}}
    settings = config.validated(config.Batch, {"system": "slurm", "maximum": 1, "job": job})
    with batch.make_batch(settings, certificates.read_certificates(tmp_path / "tls"), tmp_path) as jobs:
        assert jobs.scheduler.idle_timeout == 3600
        assert not hasattr(jobs.scheduler, "http_server")


def test_pages_that_a_file_asks_for_are_there(tmp_path: Path) -> None:
    certificates.write_certificates(tmp_path / "tls")
    job = {"interface": "lo", "scheduler_options": {"dashboard_address": "127.0.0.1:0"}}
    settings = config.validated(config.Batch, {"system": "slurm", "maximum": 1, "job": job})
    with batch.make_batch(settings, certificates.read_certificates(tmp_path / "tls"), tmp_path) as jobs:
        addresses = [socket.getsockname()[0] for socket in jobs.scheduler.http_server._sockets.values()]
        assert addresses == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{system: slrm, maximum: 2}", "slrm"),
        ("{system: slurm, minimum: 3, maximum: 2}", "minimum <= maximum must hold, got minimum=3, maximum=2"),
        (
            "{system: slurm, maximum: 2, workers_per_job: 4}",
            "workers_per_job <= maximum must hold, got workers_per_job=4, maximum=2",
        ),
        (
            "{system: slurm, maximum: 2, job: {n_workers: 2}}",
            "job: n_workers is set by partune: leave it out of the file",
        ),
        (
            "{system: slurm, maximum: 2, job: {scheduler_options: 8786}}",
            "scheduler_options must be a mapping, got 8786",
        ),
        (
            "{system: slurm, maximum: 2, job: {scheduler_options: {protocol: 'tcp://'}}}",
            "job: protocol is set by partune: leave it out of the file",
        ),
        ("{system: slurm, maximum: 2, job: {partition: gpu}}", "slurm: unexpected keyword argument 'partition'"),
        (
            "{system: slurm, maximum: 2, job: {processes: 2}}",
            "job: processes is set by partune: leave it out of the file",
        ),
        ("{system: slurm, maximum: 2, job: {memory: much}}", "slurm: .*much"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch.yaml").write_text(text)
    with pytest.raises(UserError, match=reason) as caught, batch.batch(tmp_path / "batch.yaml"):
        pass
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not list(tmp_path.glob(".*"))


def test_a_machine_that_cannot_submit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "batch.yaml").write_text("{system: slurm, maximum: 2}")
    with (
        pytest.raises(UserError, match="sbatch is not installed here: start partune on a machine that can submit jobs"),
        batch.batch(tmp_path / "batch.yaml"),
    ):
        pass


def test_a_folder_that_a_script_cannot_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "my runs").mkdir()
    monkeypatch.chdir(tmp_path / "my runs")
    (tmp_path / "batch.yaml").write_text("{system: slurm, maximum: 2}")
    with pytest.raises(UserError, match="no spaces or quotes"), batch.batch(tmp_path / "batch.yaml"):
        pass


# ----- GPUs


# ----- a study's whole stay


FILE = "{system: slurm, maximum: 2, job: {interface: lo}}"


def test_two_at_once_in_one_folder_leave_each_other_alone(system: System) -> None:
    file = system.put("batch.yaml", FILE)
    with batch.batch(file):
        (first,) = system.folder.glob(".partune-tls-*")
        with batch.batch(file):
            folders = set(system.folder.glob(".partune-tls-*"))
            assert len(folders) == 2
            assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)
            assert system.states == {"1": "PENDING", "2": "PENDING"}
        assert system.states == {"1": "PENDING", "2": "CANCELLED"}
        assert list(system.folder.glob(".partune-tls-*")) == [first]
    assert system.states == {"1": "CANCELLED", "2": "CANCELLED"}


def test_an_exception_leaves_no_job_and_no_key(system: System) -> None:
    with pytest.raises(ZeroDivisionError), batch.batch(system.put("batch.yaml", FILE)):
        raise ZeroDivisionError
    assert system.states == {"1": "CANCELLED"}
    assert not list(system.folder.glob(".partune-tls-*"))


@pytest.mark.slow
def test_a_signal_is_an_interruption_and_leaves_no_job_and_no_key(system: System) -> None:
    """One after the other in one process, which has to load Dask."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    script = f"""
import time
from pathlib import Path
from partune.workers import batch
for _ in range({len(numbers)}):
    try:
        with batch.batch(Path("{system.put("batch.yaml", FILE)}")):
            print("there", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver, killed(driver):
        assert driver.stdout is not None
        for number in numbers:
            assert driver.stdout.readline() == "there\n"
            driver.send_signal(number)
            assert driver.stdout.readline() == "interrupted\n"
        assert driver.stdout.read() == ""
        assert driver.wait(PATIENCE) == 0
    assert system.states == {"1": "CANCELLED", "2": "CANCELLED", "3": "CANCELLED"}
    assert not list(system.folder.glob(".partune-tls-*"))


def test_nohup_is_respected(system: System) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with batch.batch(system.put("batch.yaml", FILE)):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
