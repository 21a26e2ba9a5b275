"""The jobs that give a cluster its workers: as many as there is work for, submitted again where they end."""

from __future__ import annotations

import itertools
import logging
import math
import subprocess
import threading
import time
from collections.abc import Collection
from typing import Any, Protocol

from distributed import Status

from partune.config import Batch
from partune.errors import UserError

LOOK = 2.0  # seconds between two looks at the jobs
GONE = 20.0  # seconds without any of its workers after which a job that had some counts as ended
AGAIN = 60.0  # seconds until a submission that failed is tried again
FRUITLESS = 3  # jobs in a row that end before a worker has come: no more are submitted
QUEUES = {"slurm": ("squeue", "--noheader", "--format=%A", "--me")}  # lists the jobs that wait or run, one a line

log = logging.getLogger(__name__)


class Demand(Protocol):
    """The cluster that the jobs' workers belong to."""

    @property
    def need(self) -> int: ...

    @property
    def names(self) -> set[str]: ...

    def dismiss(self, names: Collection[str]) -> bool: ...

    def fail(self, error: UserError) -> None: ...


class Jobs:
    """Keeps the number of a dask-jobqueue cluster's jobs.

    A context, which submits the first jobs as it begins (raises UserError where that fails); they end with the
    dask-jobqueue cluster. Of Dask's own means `adapt` does not serve: it goes by the tasks that Dask knows, which are
    only those that a worker has room for.
    """

    def __init__(self, jobs: Any, demand: Demand, settings: Batch) -> None:
        self._jobs, self._demand, self._settings = jobs, demand, settings
        self._seen: dict[str, float] = {}  # jobs that had workers, and when last
        self._fruitless = 0
        self._again = 0.0  # when to submit again
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jobs", daemon=True)

    def __enter__(self) -> Jobs:
        try:
            self._scale(self._wanted())
        except RuntimeError as error:
            raise UserError(f"{self._settings.system}: {_reason(error)}") from None
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(LOOK):
            try:
                self._steer()
            except RuntimeError as error:
                log.warning("A job could not be submitted: %s", _reason(error))
                self._again = time.monotonic() + AGAIN
                self._drop([name for name, job in self._jobs.workers.items() if job.job_id is None])
            except Exception as trouble:  # the next round knows more
                log.debug("jobs: %s", trouble)

    def _steer(self) -> None:
        """Once: forgets jobs that have ended, ends those that have nothing to do, submits those that are missing."""
        if ended := self._ended():
            self._drop(ended)
        if self._fruitless >= FRUITLESS:
            self._demand.fail(UserError(f"{FRUITLESS} jobs ended before a worker came: their output says why"))
            return
        wanted = self._wanted()
        if surplus := len(self._jobs.worker_spec) - wanted:
            if surplus > 0:
                self._drop(self._idle(), surplus)
            elif time.monotonic() > self._again:
                self._scale(wanted)

    def _wanted(self) -> int:
        """Jobs to have: their workers lie between the least and the most, the last job's may be more."""
        settings = self._settings
        workers = min(max(self._demand.need, settings.minimum), settings.maximum)
        return math.ceil(workers / settings.workers_per_job)

    def _workers(self, job: str) -> set[str]:
        """The names of a job's workers."""
        count = self._settings.workers_per_job
        return {job} if count == 1 else {f"{job}-{number}" for number in range(count)}

    def _ended(self) -> list[str]:
        """Jobs that are not there any more."""
        there, queued, now = self._demand.names, self._queued(), time.monotonic()
        ended = []
        for name, job in list(self._jobs.workers.items()):
            if self._workers(name) & there:
                self._seen[name], self._fruitless = now, 0
            elif (queued is not None and job.job_id not in queued) or now - self._seen.get(name, now) > GONE:
                self._fruitless += name not in self._seen
                ended.append(name)
        return ended

    def _queued(self) -> set[str] | None:
        """The numbers of the jobs that wait or run; None where the batch system does not tell."""
        if self._settings.system not in QUEUES:
            return None
        try:
            command = QUEUES[self._settings.system]
            listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        return set(listed.split())

    def _idle(self) -> list[str]:
        """Jobs that can end: those without a worker yet first, then those whose workers have nothing to do."""
        specs, there = list(self._jobs.worker_spec), self._demand.names
        return sorted(specs, key=lambda name: bool(self._workers(name) & there))

    def _drop(self, names: list[str], most: int | None = None) -> None:
        """Ends the first of some jobs, as many as can be and `most` at most: those whose workers have nothing to do."""
        free = list(itertools.islice((name for name in names if self._demand.dismiss(self._workers(name))), most))
        if free:
            self._jobs.sync(self._jobs.scale_down, free)

    def _scale(self, jobs: int) -> None:
        self._jobs.sync(_scaled, self._jobs, jobs)


def job_class(kind: Any, threads: int) -> Any:
    """A class of dask-jobqueue's jobs whose cores and memory are only asked for.

    threads: of each worker. Its memory is limited by the batch system, not by Dask. A submission that fails is told as
    a failure, so that the cluster can be closed.
    """

    class Job(kind):  # type: ignore[misc]
        worker_process_threads = threads
        worker_process_memory = "0"

        async def start(self) -> None:
            try:
                await super().start()
            except BaseException:
                self.status = Status.failed
                raise

    Job.__name__ = kind.__name__  # errors speak of it
    return Job


async def _scaled(cluster: Any, jobs: int) -> None:
    cluster.scale(jobs=jobs)
    await cluster  # raises what a submission raised


def _reason(error: RuntimeError) -> str:
    """What the batch system said, in one line."""
    text = str(error)
    return " ".join((text.partition("stderr:\n")[2] or text).split())
