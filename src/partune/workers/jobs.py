"""Keep as many batch jobs, which run a cluster's workers, as there is work for, and replace jobs that end.

A job without workers may have ended, or may wait to be run again. If the batch system can report the states of jobs
(QUEUES), it is asked.
"""

from __future__ import annotations

import getpass
import itertools
import json
import logging
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from distributed import SpecCluster, Status

from partune.config import Batch
from partune.errors import UserError

LOOK = 2.0  # seconds between two checks of the jobs
ASK = 10.0  # seconds between two queries to the batch system
GONE = 60.0  # seconds after which a worker that left is not expected back
AGAIN = 60.0  # seconds until a failed submission is tried again
FRUITLESS = 3  # after this many jobs in a row have ended before a worker came, no more are submitted for now
PATIENCE = 30.0  # seconds to wait for an answer of the batch system

# What batch systems call a job that runs, that ended by itself, and that was ended. In any other state, a job waits.
RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "Running", "Finishing"}
ENDED = {"COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "Terminated", "Error"}
STOPPED = {"CANCELLED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED"}

SENTENCES = {  # the line that reports the number of a new job; a site's own tools may print other lines around it
    "slurm": r"^\s*Submitted batch job (?P<number>\d+)(?: on cluster (?P<cluster>[\w.-]+))?\s*$",
    "oar": r"^\s*OAR_JOB_ID\s*=\s*(?P<number>\d+)\s*$",
    "pbs": r"^\s*(?P<number>\d+(?:\[\d*\])?\.[A-Za-z][\w.-]*)\s*$",
    "lsf": r"\bJob <(?P<number>\d+)> is submitted\b",
    "htcondor": r"\bsubmitted to cluster (?P<number>\d+)\b",
    "sge": r"^\s*Your job (?P<number>\d+) \(",
}
TERSE = {  # the last line of the output if a site configures the system to print only the number
    "slurm": r"\s*(?P<number>\d+)(?:;(?P<cluster>[\w.-]+))?\s*",
    "pbs": r"\s*(?P<number>\d+)\s*",
    "sge": r"\s*(?P<number>\d+)\s*",
}

log = logging.getLogger(__name__)


class Demand(Protocol):
    """The cluster that the jobs' workers belong to."""

    @property
    def need(self) -> int:
        """The number of workers that can be kept busy."""

    @property
    def names(self) -> set[str]:
        """The names that the present workers were started with."""

    def dismiss(self, names: Collection[str]) -> bool:
        """Stop giving tasks to some workers if none of them has a task; return whether this was done."""

    def fail(self, error: UserError) -> None:
        """Fail all waiting tasks with an error, because no worker will come."""


class Jobs:
    """A context manager that keeps as many jobs of a dask-jobqueue cluster as there is work for.

    It submits the first jobs when the context begins, and raises UserError if none can be submitted. The jobs end with
    the dask-jobqueue cluster. Dask's own `adapt` cannot be used, because it scales by the tasks that Dask knows. Dask
    knows only the tasks for which a worker has room; the others wait in `partune.workers.queue`.

    Args:
        jobs: An instance of a class that `cluster_class` returned.
        demand: The cluster that the jobs' workers belong to.
        settings: The minimum and maximum number of workers, and the number of workers per job.
    """

    def __init__(self, jobs: Any, demand: Demand, settings: Batch) -> None:
        self._jobs, self._demand, self._settings = jobs, demand, settings
        self._seen: dict[str, float] = {}  # for the name of each worker that has come: when the worker was last present
        self._fruitless: list[str] = []  # numbers of the latest jobs, all ended before a worker came
        self._ending: dict[str, Any] = {}  # cancelled jobs that may still exist, by their numbers in the batch system
        self._asked = 0.0  # when the batch system was last asked
        self._again = 0.0  # when to try the next submission
        self._warning = ""  # the current problem, which was logged
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jobs", daemon=True)

    def __enter__(self) -> Jobs:
        refusal = self._submit(self._wanted())
        if refusal and not self._jobs.workers:
            raise UserError(f"{self._settings.system}: {refusal}")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        """Check the jobs repeatedly until the context ends."""
        while not self._closed.wait(LOOK):
            try:
                self.check()
            except Exception as trouble:  # the next check tries again
                self._warn(f"The jobs could not be checked: {_reason(trouble)}")

    def check(self) -> None:
        """Forget jobs that have ended, end idle jobs, and submit missing ones."""
        if self._jobs.workers.keys() - self._jobs.worker_spec.keys():  # an earlier attempt to end a job failed half-way
            self._end([])
        if ended := self._ended_jobs():
            self._end(ended)
        if len(self._fruitless) >= FRUITLESS:
            numbers = ", ".join(self._fruitless)
            if not self._demand.names:
                self._demand.fail(UserError(f"jobs {numbers} ended before a worker came: read their output"))
                return
            # Other workers exist, so the settings of the jobs work. Perhaps a node is broken: retry, but slowly.
            log.warning("Jobs %s ended before a worker came: read their output.", numbers)
            self._fruitless.clear()
            self._again = time.monotonic() + AGAIN
        missing = self._wanted() - len(self._jobs.worker_spec)
        if missing < 0:
            self._dismiss(-missing)
        elif missing and time.monotonic() >= self._again:
            refusal = self._submit(self._wanted())
            self._warn(f"A job could not be submitted: {refusal}" if refusal else "")

    def _wanted(self) -> int:
        """Return how many jobs the work needs, within the minimum and maximum number of workers."""
        settings, lost = self._settings, self._count_lost()
        needed = max(self._demand.need, settings.minimum) + lost
        return min(math.ceil(needed / settings.workers_per_job), (settings.maximum + lost) // settings.workers_per_job)

    def _workers(self, job: str) -> set[str]:
        """Return the names of a job's workers."""
        count = self._settings.workers_per_job
        return {job} if count == 1 else {f"{job}-{number}" for number in range(count)}

    def _count_lost(self) -> int:
        """Return the number of workers that left for good while their jobs still have other workers."""
        present, now = self._demand.names, time.monotonic()
        alive = [workers for workers in map(self._workers, self._jobs.worker_spec) if workers & present]
        return sum(now - self._seen.get(worker, now) > GONE for workers in alive for worker in workers)

    def _ended_jobs(self) -> list[str]:
        """Return the jobs that have ended or are lost, and note which workers are present."""
        present, now, workerless = self._demand.names, time.monotonic(), []
        for name in list(self._jobs.workers):
            workers = self._workers(name)
            if workers & present and not workers & self._seen.keys():
                self._fruitless.clear()
            if not workers & present:
                workerless.append(name)
            self._seen.update(dict.fromkeys(workers & present, now))
        if not workerless and not self._ending:
            return []
        if self._settings.system not in QUEUES:
            return [name for name in workerless if now - self._last_present(name, now) > GONE]
        states = self._states()
        if states is None:
            return []
        self._cancel_again(states)
        ended = []
        for name in workerless:
            number = self._jobs.workers[name].job_id
            state = states.get(number, "Terminated")  # a job that the system no longer lists has ended
            if state in ENDED | STOPPED:
                ended.append(name)
                if state in ENDED and not self._workers(name) & self._seen.keys():
                    self._fruitless.append(number)
            elif state in RUNNING and now - self._last_present(name, now) > GONE:
                ended.append(name)
        return ended

    def _last_present(self, name: str, now: float) -> float:
        """Return when a job last had a worker, or `now` if it has not had one yet."""
        return max((self._seen[worker] for worker in self._workers(name) & self._seen.keys()), default=now)

    def _states(self) -> Mapping[str, str] | None:
        """Return the state of each job by number. A job that is not listed has ended.

        Return None if the batch system does not answer, or was asked less than ASK seconds ago.
        """
        if time.monotonic() - self._asked < ASK:
            return None
        try:
            clusters = {job.cluster for job in [*self._jobs.workers.values(), *self._ending.values()]} - {""}
            return QUEUES[self._settings.system](clusters)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            log.debug("%s does not say what its jobs do: %s", self._settings.system, error)
            return None
        finally:
            self._asked = time.monotonic()

    def _cancel_again(self, states: Mapping[str, str]) -> None:
        """Cancel jobs again that survived a cancellation, perhaps because the batch system was not reachable."""
        for number, job in list(self._ending.items()):
            state = states.get(number, "Terminated")
            if state in ENDED | STOPPED:
                del self._ending[number]
            elif state != "COMPLETING":
                self._jobs.sync(job.close)

    def _dismiss(self, count: int) -> None:
        """End at most `count` idle jobs: first jobs without a worker (newest first), then the others (oldest first)."""
        present, names = self._demand.names, list(self._jobs.worker_spec)
        workerless = [name for name in reversed(names) if not self._workers(name) & present]
        ordered = [*workerless, *(name for name in names if name not in workerless)]
        idle = (name for name in ordered if self._demand.dismiss(self._workers(name)))
        self._end(list(itertools.islice(idle, count)))

    def _end(self, names: list[str]) -> None:
        """Cancel some jobs and forget them."""
        jobs = [self._jobs.workers[name] for name in names if name in self._jobs.workers]
        self._jobs.sync(self._jobs.scale_down, names)
        if self._settings.system in QUEUES:
            self._ending |= {job.job_id: job for job in jobs if job.job_id is not None}
        for name in names:
            for worker in self._workers(name):
                self._seen.pop(worker, None)

    def _submit(self, jobs: int) -> str:
        """Submit jobs up to a total number; return the batch system's error in one line, or an empty text."""
        try:
            self._jobs.sync(_scaled, self._jobs, jobs)
        except (RuntimeError, OSError, ValueError) as error:
            self._again = time.monotonic() + AGAIN
            # End only jobs that the batch system refused. It may have accepted other jobs of the same submission.
            self._end([name for name, job in self._jobs.workers.items() if job.job_id is None])
            return _reason(error)
        return ""

    def _warn(self, text: str) -> None:
        """Log a problem once for as long as it stays the same; an empty text means that there is none."""
        if text and text != self._warning:
            log.warning("%s", text)
        self._warning = text


def submitted(system: str, output: str) -> tuple[str, str]:
    """Return the number of a new job, and the name of its cluster, which is empty for the default cluster.

    A site's own tools may print other lines with digits. A number that might belong to another job is not returned,
    because that job would be cancelled later.

    Args:
        system: A key of `SENTENCES`.
        output: The output of the command that submitted the job.

    Raises:
        ValueError: The output has no number of a job.
    """
    matches = list(re.finditer(SENTENCES[system], output, re.MULTILINE))
    lines = output.strip().splitlines()
    if not matches and system in TERSE and lines:
        matches = [match for match in [re.fullmatch(TERSE[system], lines[-1])] if match is not None]
    if not matches:
        text = " ".join(output.split())[:200] or "it printed nothing"
        raise ValueError(f"{system} did not print the number of the new job: {text}")
    groups = matches[-1].groupdict()
    return groups["number"], groups.get("cluster") or ""


def cluster_class(kind: Any, threads: int, system: str) -> Any:
    """Return a class of dask-jobqueue clusters that leaves the management of jobs to `Jobs`.

    Args:
        kind: dask-jobqueue's class for the batch system.
        threads: The number of threads of each worker, which does not depend on the job's cores.
        system: A key of `SENTENCES`.
    """

    class Job(kind.job_cls):  # type: ignore[misc]
        """A job of the batch system."""

        worker_process_threads = threads
        worker_process_memory = "0"  # no limit by Dask, because the batch system limits the job
        cancel_command: str
        cluster = ""  # the job's cluster if a site has several; a job number is valid on its own cluster only

        # A job whose submission failed must get the state `failed`, or the cluster could not be closed.

        async def start(self) -> None:
            """Submit the job, and mark it as failed if the batch system refuses it."""
            try:
                await super().start()
            except BaseException:
                self.status = Status.failed
                raise

        def _job_id_from_submit_output(self, out: str) -> str:
            number, self.cluster = submitted(system, out)
            if self.cluster:
                self.cancel_command = f"env SLURM_CLUSTERS={self.cluster} {self.cancel_command}"
            return f"{number}.0" if system == "htcondor" else number

        async def close(self) -> None:
            """Cancel the job."""
            await super().close()
            self.status = Status.closed

    class Cluster(kind):  # type: ignore[misc]
        """A cluster of `Job` objects."""

        job_cls = Job

        def __init__(self, **options: Any) -> None:
            self._numbers = itertools.count()
            super().__init__(**options)

        # dask-jobqueue reuses the number of an ended job, but no two jobs may have the same name.
        def _new_worker_name(self, worker_number: int) -> str:
            return f"{self._name}-{next(self._numbers)}"

        # Skip SpecCluster's own method, which cancels a job whose worker has been gone for a while. That job may be
        # waiting to be run again.
        def _update_worker_status(self, op: str, msg: Any) -> None:
            super(SpecCluster, self)._update_worker_status(op, msg)

    Job.__name__, Cluster.__name__ = kind.job_cls.__name__, kind.__name__  # the names appear in dask-jobqueue's errors
    return Cluster


async def _scaled(cluster: Any, jobs: int) -> None:
    """Add jobs to a cluster up to a total number, and submit them."""
    while len(cluster.worker_spec) < jobs:
        cluster.worker_spec.update(cluster.new_worker_spec())
    await cluster  # raises the error of a submission that failed


def _reason(error: Exception) -> str:
    """Return the error message of the batch system in one line."""
    text = str(error)
    return " ".join((text.partition("stderr:\n")[2] or text).split())


# ----- the states of jobs by number, as batch systems report them


def _slurm(clusters: Collection[str] = ()) -> dict[str, str]:
    """Return the states of the user's SLURM jobs, including jobs that ended a few minutes ago."""
    where = [f"--clusters={','.join(sorted(clusters))}"] if clusters else []
    listed = _answer("squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "--format=%A %T", *where)
    pairs = [line.split() for line in listed.splitlines()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0].isdecimal()}


def _oar(clusters: Collection[str] = ()) -> dict[str, str]:
    """Return the states of the user's OAR jobs."""
    listed = json.loads(_answer("oarstat", "-J", "-u", getpass.getuser()) or "{}")
    return {number: job.get("state", "") for number, job in listed.items()}


def _answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


QUEUES: Mapping[str, Callable[[Collection[str]], Mapping[str, str]]] = {"slurm": _slurm, "oar": _oar}
