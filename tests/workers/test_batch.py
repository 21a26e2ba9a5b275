"""A batch system's file: the job scripts that it makes, what is wrong with it, and which GPUs a job's workers see.

Golden files: where a script is to change, delete its file in tests/workers/golden and run the test twice.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from partune import config
from partune.errors import UserError
from partune.runtime.devices import DEVICES_EACH
from partune.workers import batch, certificates, local
from partune.workers import process as worker
from tests.support import ROOT

GOLDEN = Path(__file__).with_name("golden")
DOCUMENTS = ROOT / "docs"
RECIPES = {
    f"{document.stem}-{number}": text
    for document in sorted(DOCUMENTS.glob("*.md"))
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL))
    if re.search(r"^system:", text, re.MULTILINE)
}
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
        ("{system: slurm, maximum: 2, job: {scheduler_options: 8786}}", "scheduler_options is a mapping, got 8786"),
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
    with pytest.raises(UserError, match="without blanks"), batch.batch(tmp_path / "batch.yaml"):
        pass


# ----- GPUs


def seen(monkeypatch: pytest.MonkeyPatch, devices: str, name: str, workers: int, each: int = 1) -> str:
    """What CUDA_VISIBLE_DEVICES is in the worker of a name, in a job that the batch system gave some devices."""
    monkeypatch.delenv(worker.PARENT, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    monkeypatch.setenv(worker.WORKERS_EACH, str(workers))
    monkeypatch.setenv(DEVICES_EACH, str(each))
    process: Any = SimpleNamespace(name=name, periodic_callbacks={})
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging.getLogger("partune"), "handlers", [])  # which it adds one to, for the driver
    worker.dask_setup(process)
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
    assert "4 workers with 2 GPU each need 8, this job has 4" in capsys.readouterr().err


def test_each_worker_of_this_machine_has_its_own_devices_or_its_share_of_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in local._environments(4, 1)] == ["4", "5", "6", "7"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in local._environments(2, 2)] == ["4,5", "6,7"]
    with pytest.raises(UserError, match="3 workers with 2 GPU each need 6, this machine has 4"):
        local._environments(3, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [each["OMP_NUM_THREADS"] for each in local._environments(2, 1)] == ["4", "4"]
    assert local._environments(16, 1)[0]["OMP_NUM_THREADS"] == "1"
