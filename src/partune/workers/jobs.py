"""The jobs that give a cluster its workers: as many as there is work for, submitted again where they end.

Where the batch system can be asked what became of a job (QUEUES), it is: a job whose workers are gone may have ended,
or may wait to be run once more.
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

LOOK = 2.0  # seconds between two looks at the jobs
ASK = 10.0  # seconds between two questions to the batch system
GONE = 60.0  # seconds after which a worker that has left is no longer waited for
AGAIN = 60.0  # seconds until a submission that failed is tried again
FRUITLESS = 3  # jobs in a row that end by themselves before a worker has come: no more are submitted
PATIENCE = 30.0  # seconds for the batch system to answer

RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "Running", "Finishing"}
ENDED = {"COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "Terminated", "Error"}  # by themselves
STOPPED = {"CANCELLED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED"}  # a job in any other state waits

SENTENCES = {  # in which a system says which job it has taken; a site's own tools may print anything around it
    "slurm": r"^\s*Submitted batch job (?P<number>\d+)(?: on cluster (?P<cluster>[\w.-]+))?\s*$",
    "oar": r"^\s*OAR_JOB_ID\s*=\s*(?P<number>\d+)\s*$",
    "pbs": r"^\s*(?P<number>\d+(?:\[\d*\])?\.[A-Za-z][\w.-]*)\s*$",
    "lsf": r"\bJob <(?P<number>\d+)> is submitted\b",
    "htcondor": r"\bsubmitted to cluster (?P<number>\d+)\b",
    "sge": r"^\s*Your job (?P<number>\d+) \(",
}
TERSE = {  # the last line where a site has the system say no more than the number
    "slurm": r"\s*(?P<number>\d+)(?:;(?P<cluster>[\w.-]+))?\s*",
    "pbs": r"\s*(?P<number>\d+)\s*",
    "sge": r"\s*(?P<number>\d+)\s*",
}

log = logging.getLogger(__name__)


class Demand(Protocol):
    """The cluster that the jobs' workers belong to."""

    @property
    def need(self) -> int:
        """How many workers can be kept busy."""

    @property
    def names(self) -> set[str]:
        """The workers that are there, by the names that they were started with."""

    def dismiss(self, names: Collection[str]) -> bool:
        """Give some workers no more tasks, if none of them has any; return whether that is so."""

    def fail(self, error: UserError) -> None:
        """End with an error what waits for workers, of which none will come."""


class Jobs:
    """Keeps as many jobs of a dask-jobqueue cluster as there is work for.

    A context, which submits the first jobs as it begins, and raises UserError if none can be submitted. The jobs end
    with the dask-jobqueue cluster. Dask's own `adapt` cannot be used: it scales by the tasks that Dask knows, which are
    only those that a worker has room for, as the others wait in `partune.workers.queue`.

    Args:
        jobs: A cluster of a `cluster_class`.
        demand: The cluster that the jobs' workers belong to.
        settings: The least and the most number of workers, and how many a job has.
    """

    def __init__(self, jobs: Any, demand: Demand, settings: Batch) -> None:
        self._jobs, self._demand, self._settings = jobs, demand, settings
        self._seen: dict[str, float] = {}  # workers that came, and when they were last there
        self._fruitless: list[str] = []  # numbers of the jobs in a row that ended before a worker came
        self._ending: dict[str, Any] = {}  # jobs that were cancelled and may still be there, by their numbers
        self._asked = 0.0  # when the batch system was
        self._again = 0.0  # when to submit again
        self._warned = ""
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
        """Look after the jobs until this is closed."""
        while not self._closed.wait(LOOK):
            try:
                self.look()
            except Exception as trouble:  # the next look knows more
                self._warn(f"The jobs could not be looked after: {_reason(trouble)}")

    def look(self) -> None:
        """Forget jobs that have ended, end those that have nothing to do, and submit those that are missing."""
        if self._jobs.workers.keys() - self._jobs.worker_spec.keys():  # the end of a job failed half-way
            self._end([])
        if ended := self._over():
            self._end(ended)
        if len(self._fruitless) >= FRUITLESS:
            numbers = ", ".join(self._fruitless)
            if not self._demand.names:
                self._demand.fail(UserError(f"jobs {numbers} ended before a worker came: their output says why"))
                return
            # Other workers are there, so the jobs' settings are right: perhaps one node is broken. Slowly, then.
            log.warning("Jobs %s ended before a worker came: their output says why.", numbers)
            self._fruitless.clear()
            self._again = time.monotonic() + AGAIN
        missing = self._wanted() - len(self._jobs.worker_spec)
        if missing < 0:
            self._dismiss(-missing)
        elif missing and time.monotonic() >= self._again:
            refusal = self._submit(self._wanted())
            self._warn(f"A job could not be submitted: {refusal}" if refusal else "")

    def _wanted(self) -> int:
        """Return how many jobs there should be: for the work, and within the least and the most number of workers."""
        settings, lost = self._settings, self._lost()
        needed = max(self._demand.need, settings.minimum) + lost
        return min(math.ceil(needed / settings.workers_per_job), (settings.maximum + lost) // settings.workers_per_job)

    def _workers(self, job: str) -> set[str]:
        """Return the names of a job's workers."""
        count = self._settings.workers_per_job
        return {job} if count == 1 else {f"{job}-{number}" for number in range(count)}

    def _lost(self) -> int:
        """Return how many workers have gone for good whose jobs still have other workers."""
        present, now = self._demand.names, time.monotonic()
        alive = [workers for workers in map(self._workers, self._jobs.worker_spec) if workers & present]
        return sum(now - self._seen.get(worker, now) > GONE for workers in alive for worker in workers)

    def _over(self) -> list[str]:
        """Return the jobs that have ended, or are lost; take note of the workers that are there."""
        present, now, bare = self._demand.names, time.monotonic(), []
        for name in list(self._jobs.workers):
            workers = self._workers(name)
            if workers & present and not workers & self._seen.keys():
                self._fruitless.clear()
            if not workers & present:
                bare.append(name)
            self._seen.update(dict.fromkeys(workers & present, now))
        if not bare and not self._ending:
            return []
        if self._settings.system not in QUEUES:
            return [name for name in bare if now - self._last(name, now) > GONE]
        states = self._states()
        if states is None:
            return []
        self._cancel_again(states)
        over = []
        for name in bare:
            number = self._jobs.workers[name].job_id
            state = states.get(number, "Terminated")  # a job that the system has forgotten has ended
            if state in ENDED | STOPPED:
                over.append(name)
                if state in ENDED and not self._workers(name) & self._seen.keys():
                    self._fruitless.append(number)
            elif state in RUNNING and now - self._last(name, now) > GONE:
                over.append(name)
        return over

    def _last(self, name: str, now: float) -> float:
        """Return when a job last had a worker; `now` for one that waits for its first."""
        return max((self._seen[worker] for worker in self._workers(name) & self._seen.keys()), default=now)

    def _states(self) -> Mapping[str, str] | None:
        """Return the state of each job by its number; a job without one has ended.

        None if the system does not answer, or was asked a moment ago.
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
        """Cancel again jobs that survived a cancellation: the batch system may have been out of reach."""
        for number, job in list(self._ending.items()):
            state = states.get(number, "Terminated")
            if state in ENDED | STOPPED:
                del self._ending[number]
            elif state != "COMPLETING":
                self._jobs.sync(job.close)

    def _dismiss(self, count: int) -> None:
        """End idle jobs, `count` at most: first those that wait for a worker, the latest before, then the oldest."""
        present, names = self._demand.names, list(self._jobs.worker_spec)
        bare = [name for name in reversed(names) if not self._workers(name) & present]
        ordered = [*bare, *(name for name in names if name not in bare)]
        idle = (name for name in ordered if self._demand.dismiss(self._workers(name)))
        self._end(list(itertools.islice(idle, count)))

    def _end(self, names: list[str]) -> None:
        """Cancel jobs, and forget them."""
        jobs = [self._jobs.workers[name] for name in names if name in self._jobs.workers]
        self._jobs.sync(self._jobs.scale_down, names)
        if self._settings.system in QUEUES:
            self._ending |= {job.job_id: job for job in jobs if job.job_id is not None}
        for name in names:
            for worker in self._workers(name):
                self._seen.pop(worker, None)

    def _submit(self, jobs: int) -> str:
        """Submit jobs until there are as many as given; return what the batch system said against it, in one line."""
        try:
            self._jobs.sync(_scaled, self._jobs, jobs)
        except (RuntimeError, OSError, ValueError) as error:
            self._again = time.monotonic() + AGAIN
            # Only those that the system did not take: others of the same submission may wait in its queue by now.
            self._end([name for name, job in self._jobs.workers.items() if job.job_id is None])
            return _reason(error)
        return ""

    def _warn(self, text: str) -> None:
        """Log what is wrong, once for as long as it stays so."""
        if text and text != self._warned:
            log.warning("%s", text)
        self._warned = text


def submitted(system: str, output: str) -> tuple[str, str]:
    """Return the number of the job that a batch system has just taken, and its cluster: empty for the usual one.

    A site's own lines may stand around the system's, with digits in them. A number that may not be the job's is not
    returned: another job would be cancelled.

    Args:
        system: A key of `SENTENCES`.
        output: What the command that submits printed.

    Raises:
        ValueError: The system did not say.
    """
    matches = list(re.finditer(SENTENCES[system], output, re.MULTILINE))
    lines = output.strip().splitlines()
    if not matches and system in TERSE and lines:
        matches = [match for match in [re.fullmatch(TERSE[system], lines[-1])] if match is not None]
    if not matches:
        raise ValueError(
            f"{system} did not say which job it took: {' '.join(output.split())[:200] or 'it said nothing'}"
        )
    groups = matches[-1].groupdict()
    return groups["number"], groups.get("cluster") or ""


def cluster_class(kind: Any, threads: int, system: str) -> Any:
    """Return a class of dask-jobqueue's clusters whose jobs are left to `Jobs`.

    Args:
        kind: dask-jobqueue's own class for the batch system.
        threads: The threads of each worker; a job's cores do not say them.
        system: A key of `SENTENCES`.
    """

    class Job(kind.job_cls):  # type: ignore[misc]
        """A job of the batch system."""

        worker_process_threads = threads
        worker_process_memory = "0"  # no limit of Dask's: the batch system limits the job
        cancel_command: str
        cluster = ""  # where a site has several joined; the job's number says nothing on another

        # Left in its state, a job whose submission failed would keep the cluster from being closed.

        async def start(self) -> None:
            """Submit the job; one that the system does not take has failed."""
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
        """A cluster of such jobs."""

        job_cls = Job

        def __init__(self, **options: Any) -> None:
            self._numbers = itertools.count()
            super().__init__(**options)

        # Not by dask-jobqueue's number, which is given again once a job has ended: no two jobs may have one name.
        def _new_worker_name(self, worker_number: int) -> str:
            return f"{self._name}-{next(self._numbers)}"

        # Past SpecCluster's own, which cancels a job whose worker has been gone for a while: it may only wait to be run
        # once more.
        def _update_worker_status(self, op: str, msg: Any) -> None:
            super(SpecCluster, self)._update_worker_status(op, msg)

    Job.__name__, Cluster.__name__ = kind.job_cls.__name__, kind.__name__  # dask-jobqueue's errors show them
    return Cluster


async def _scaled(cluster: Any, jobs: int) -> None:
    """Add jobs to a cluster until there are as many as given, and submit them."""
    while len(cluster.worker_spec) < jobs:
        cluster.worker_spec.update(cluster.new_worker_spec())
    await cluster  # raises what a submission raised


def _reason(error: Exception) -> str:
    """Return what the batch system said, in one line."""
    text = str(error)
    return " ".join((text.partition("stderr:\n")[2] or text).split())


# ----- what batch systems say of their jobs: the state of each by its number


def _slurm(clusters: Collection[str] = ()) -> dict[str, str]:
    """Return the states of SLURM's jobs, those that ended a few minutes ago included."""
    where = [f"--clusters={','.join(sorted(clusters))}"] if clusters else []
    listed = _answer("squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "--format=%A %T", *where)
    pairs = [line.split() for line in listed.splitlines()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0].isdecimal()}


def _oar(clusters: Collection[str] = ()) -> dict[str, str]:
    """Return the states of OAR's jobs."""
    listed = json.loads(_answer("oarstat", "-J", "-u", getpass.getuser()) or "{}")
    return {number: job.get("state", "") for number, job in listed.items()}


def _answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


QUEUES: Mapping[str, Callable[[Collection[str]], Mapping[str, str]]] = {"slurm": _slurm, "oar": _oar}
