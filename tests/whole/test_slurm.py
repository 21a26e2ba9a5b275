"""Studies on a real SLURM: trials run in its jobs, a job that is cancelled loses nothing, no job is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

import partune as pt
import partune.workers.jobs
from partune.errors import UserError
from partune.space import Float, Space
from partune.workers import batch
from tests.support import ROOT
from tests.support.batch_system import RECIPES
from tests.support.calls import saving, wait_for
from tests.support.slurm import jobs, slurm
from tests.support.waiting import PATIENCE, eventually, killed

pytestmark = pytest.mark.slow

LINE = Space(x=Float(0, 1))
FILE = """\
system: slurm
minimum: 1
maximum: {maximum}
workers_per_job: {each}
prologue: {prologue}
job: {{cores: 1, memory: 500 MiB, interface: lo, walltime: "00:10:00", job_extra_directives: ["--requeue"]}}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch, slurm(patch) as folder:
        yield folder


@pytest.fixture
def here(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start from, of which the jobs' output and the certificates become part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(partune.workers.jobs, "ASK", 1.0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def file(folder: Path, maximum: int = 2, each: int = 1, prologue: str = "[]") -> Path:
    (folder / "slurm.yaml").write_text(FILE.format(maximum=maximum, each=each, prologue=prologue))
    return folder / "slurm.yaml"


class Noted:
    """A function that notes in which job it was called, one line a call, and waits until so many jobs have.

    first: seconds that the first call of all takes.
    """

    def __init__(self, notes: Path, jobs: int = 1, first: float = 0.0) -> None:
        self.notes, self.jobs, self.first = notes, jobs, first

    def __call__(self, config: pt.Config) -> float:
        with self.notes.open("a") as notes:
            notes.write(f"{os.environ['SLURM_JOB_ID']}\n")
        if len(self.notes.read_text().split()) == 1:
            time.sleep(self.first)
        eventually(lambda: len(set(self.notes.read_text().split())) >= self.jobs)
        return -((config["x"] - 0.3) ** 2)  # type: ignore[operator]


def gone() -> bool:
    return eventually(lambda: not counted())


def counted() -> int:
    """The number of jobs, asked for only now and then, because each time is a process of SLURM."""
    time.sleep(0.3)
    return len(jobs())


def test_a_study_runs_in_jobs_and_leaves_none(here: Path) -> None:
    notes = here / "notes"
    with batch.batch(file(here)) as workers:
        study = pt.Study(LINE, Noted(notes, jobs=2), "sobol", seed=3, workers=workers).run(12)
        (folder,) = here.glob(".partune-tls-*")
        assert folder.stat().st_mode & 0o077 == 0
    assert [str(trial.status) for trial in study.trials] == ["done"] * 12
    assert len(set(notes.read_text().split())) == 2  # it grew to the maximum
    assert gone()
    assert not list(here.glob(".*"))


def test_a_cancelled_job_loses_nothing_and_another_takes_its_place(here: Path) -> None:
    notes = here / "notes"

    def cancel() -> None:
        eventually(notes.exists)
        time.sleep(1.0)
        subprocess.run(["scancel", notes.read_text().split()[0]], check=True, timeout=PATIENCE)

    with batch.batch(file(here, maximum=1)) as workers:
        canceller = threading.Thread(target=cancel)
        canceller.start()
        study = pt.Study(LINE, Noted(notes, first=600.0), "sobol", seed=3, workers=workers).run(4)
        canceller.join()
    assert [str(trial.status) for trial in study.trials] == ["done"] * 4
    noted = notes.read_text().split()
    assert len(noted) == 5  # one was begun twice
    assert len(set(noted)) == 2
    assert gone()


def test_what_a_cancelled_job_was_running_saves_itself(here: Path) -> None:
    with batch.batch(file(here, maximum=1)) as workers:
        workers.submit(saving, here / "state")
        wait_for(here / "state.begun")
        subprocess.run(["scancel", "--me"], check=True, timeout=PATIENCE)
        wait_for(here / "state")


def test_a_job_that_is_requeued_keeps_its_place_in_the_queue(here: Path) -> None:
    """Dask would cancel it when its worker has been gone for a while."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 s"}), batch.batch(file(here)) as workers:
        workers.expect(1)
        (job,) = jobs()
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=PATIENCE)
        time.sleep(8.0)
        assert jobs() == [job]
    assert gone()


def test_an_idle_job_ends_and_a_job_of_two_workers_is_one(here: Path) -> None:
    notes = here / "notes"
    with batch.batch(file(here, maximum=4, each=2)) as workers:
        workers.expect(2)
        assert len(jobs()) == 1  # the minimum, in whole jobs
        pt.Study(LINE, Noted(notes, jobs=2), "sobol", seed=3, workers=workers).run(10)
        assert len(set(notes.read_text().split())) == 2
        eventually(lambda: counted() == 1)
    assert gone()


def test_the_documents_file_gives_each_worker_a_gpu(here: Path) -> None:
    (here / "slurm.yaml").write_text(RECIPES["slurm-0"])
    with batch.batch(here / "slurm.yaml") as workers:
        workers.expect(4)
        workers.hold(1)
        seen = [workers.submit(shown) for _ in range(4)]
        assert sorted(future.result(timeout=PATIENCE) for future in seen) == ["0", "1", "2", "3"]
        assert len(list((here / "logs").glob("first-*.out"))) == 1
    assert gone()


def shown() -> str:
    time.sleep(2.0)  # so that none runs two
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_jobs_that_end_before_a_worker_comes_are_told(here: Path) -> None:
    with (
        batch.batch(file(here, maximum=1, prologue="[exit 1]")) as workers,
        pytest.raises(UserError, match=r"jobs \d+, \d+, \d+ ended before a worker came"),
    ):
        workers.submit(os.getpid).result(timeout=PATIENCE)
    assert gone()


def test_what_sbatch_refuses_is_one_line(here: Path) -> None:
    path = file(here)
    path.write_text(path.read_text().replace("cores: 1", "cores: 1, queue: nowhere"))
    with pytest.raises(UserError, match=r"slurm: .*invalid partition") as caught, batch.batch(path):
        pass
    assert "\n" not in str(caught.value)
    assert not list(here.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_end_with_the_process_that_started_them(here: Path, number: signal.Signals) -> None:
    script = f"""
import time
from pathlib import Path
from partune.workers.batch import batch
with batch(Path("{file(here)}")) as workers:
    workers.expect(1)
    print("there", flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver, killed(driver):
        assert driver.stdout is not None
        assert driver.stdout.readline() == "there\n"
        driver.send_signal(number)
        driver.wait(PATIENCE)
    assert gone()
    if number == signal.SIGTERM:
        assert not list(here.glob(".*"))
