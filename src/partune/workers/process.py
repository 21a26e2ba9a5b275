"""Run a cluster's calls in a worker process, and end the process without losing work.

Dask loads this module into workers with `--preload partune.workers.process`, and into the nannies that restart workers
with `--preload-nanny partune.workers.process`. On SIGTERM, a worker then saves its tasks
(`partune.runtime.preemption`) before it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cloudpickle
import distributed
from distributed import Nanny, Scheduler, Worker

from partune.errors import UserError
from partune.runtime.devices import DEVICES_EACH, devices
from partune.runtime.preemption import PreemptedError, noticed, notify, wait_until_saved
from partune.workers.certificates import VARIABLES

PARENT = "PARTUNE_DRIVER"  # environment variable: the process ID of a worker's driver, the process that runs the study
WORKERS_EACH = "PARTUNE_WORKERS_PER_JOB"  # environment variable: the number of workers in a batch job
SCRATCH = "DASK_TEMPORARY_DIRECTORY"  # Dask's variable: the folder for files of a batch job's workers
OVERDUE = "partune-overdue"  # topic: a worker ends because a task exceeded the time limit
LEAVING = "partune-leaving"  # topic: a worker ends because it was told to
TOLD = "partune-told"  # topic: a warning that the user should see
GRACE = 60.0  # seconds in which tasks can be saved; a batch system may kill the process earlier
WATCHES = ("profile", "profile-cycle", "tick", "ticks")  # Dask's checks, which stop all threads 150 times a second
LINGER = 1.0  # seconds until a worker's last messages have been sent
PRELOAD = ("--preload", __name__)
PRELOAD_NANNY = ("--preload-nanny", __name__)
WITHOUT_PAGES = ("--no-dashboard", "--worker-class", f"{__name__}.PagelessWorker")

PREFIX = "partune-workers-"  # begins the name of the folder for Dask's files
THREADS = 64  # threads of a worker process; a pack (trials that are trained together) has at most as many trials


class Pageless:
    """A Dask scheduler or worker without web pages, which would show tasks and logs to anybody."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        """Do nothing, instead of listening on a port."""


class PagelessWorker(Pageless, Worker):  # type: ignore[misc]
    """A worker without web pages."""


class HandedBackError(Exception):
    """A substitute for `PreemptedError` between processes, because Dask mishandles a BaseException."""


def carry_out(call: bytes, task: int, limit: float | None) -> Any:
    """Make a call, and end the process if the call takes too long.

    Args:
        call: The pickled call.
        task: The number of the task in the driver's queue.
        limit: The number of seconds that the call may take; None for no limit.

    Raises:
        HandedBackError: The worker has to end before the call is done.
    """
    if noticed():
        raise HandedBackError
    with nullcontext() if limit is None else _limited(limit, task):
        try:
            return cloudpickle.loads(call)()
        except PreemptedError:
            raise HandedBackError from None


class Telling(logging.Handler):
    """Send partune's warnings to the driver, because nobody watches a worker's terminal.

    Args:
        worker: The Dask worker of this process.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning to the driver."""
        self._worker.loop.add_callback(self._worker.log_event, TOLD, {"text": record.getMessage()})


def dask_setup(process: Worker | Nanny | Scheduler) -> None:
    """Set up a worker, nanny or scheduler that preloads this module. Dask calls this function by its name.

    A scheduler stops serving web pages. A worker on this machine ends with the driver that started it. A worker of a
    batch job sees only its own share of the node's GPUs, and ends if there are not enough.
    """
    if isinstance(process, Scheduler):
        process.http_server.stop()
        return
    if threading.current_thread() is threading.main_thread():  # always true in Dask's own commands
        signal.signal(signal.SIGTERM, lambda *_: _terminate(process))
    if isinstance(process, Nanny):
        if WORKERS_EACH in os.environ and os.environ.get(SCRATCH):
            atexit.register(shutil.rmtree, os.environ[SCRATCH], ignore_errors=True)
        return
    logging.getLogger("partune").addHandler(Telling(process))
    for name in WATCHES:
        process.periodic_callbacks.pop(name, None)
    for name in VARIABLES:  # programs that trials start must not get the certificate
        os.environ.pop(name, None)
    if PARENT in os.environ:
        scratch = Path(process.local_directory).parents[1]
        atexit.register(_tidy, int(os.environ[PARENT]), scratch)  # Dask may end the process before `_end_with` does
        threading.Thread(target=_end_with, args=(int(os.environ[PARENT]), scratch), name="parent", daemon=True).start()
        return
    if WORKERS_EACH not in os.environ or not (visible := devices()):
        return
    per_worker, workers = int(os.environ[DEVICES_EACH]), int(os.environ[WORKERS_EACH])
    number = 0 if workers == 1 else int(str(process.name).rpartition("-")[2])  # "SLURMCluster-3-1": 4th job, 2nd worker
    if len(visible) < workers * per_worker:
        needed = f"{workers} workers with {per_worker} GPU each need {workers * per_worker}"
        print(f"partune: {needed}, but this job has {len(visible)}", file=sys.stderr, flush=True)
        os._exit(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible[number * per_worker : (number + 1) * per_worker])


def _terminate(process: Worker | Nanny) -> None:
    """Handle SIGTERM: a nanny passes it on and ends with its worker; a worker saves its tasks and ends."""
    if isinstance(process, Nanny):
        process.close_gracefully(reason="SIGTERM")  # so that the nanny starts no other worker
        if (worker := process.pid) is not None:
            os.kill(worker, signal.SIGTERM)
    elif not noticed():
        notify()
        # Use a thread, because the handler runs in the main thread, whose event loop has to send the message.
        threading.Thread(target=_leave, args=(process, LEAVING, {"worker": process.address}), daemon=True).start()


@contextmanager
def _limited(seconds: float, task: int) -> Iterator[None]:
    """End the process if the context lasts longer than a number of seconds."""
    watch = threading.Timer(seconds, _leave, (distributed.get_worker(), OVERDUE, {"task": task}, 0.0))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _leave(worker: Worker, topic: str, message: dict[str, Any], grace: float = GRACE) -> None:
    """Send a message to the driver, and end the process when all tasks that can be saved are saved."""
    worker.loop.add_callback(worker.log_event, topic, message)
    wait_until_saved(grace)
    time.sleep(LINGER)
    os._exit(1)  # sys.exit would end only this thread


def _end_with(parent: int, scratch: Path) -> None:
    """End the process after the driver has ended, and first save its tasks so that the study can be resumed.

    Args:
        parent: The driver's process ID.
        scratch: The folder for Dask's files, which the driver can no longer remove.
    """
    while os.getppid() == parent:  # the system gives a process a new parent when its parent ends
        time.sleep(1.0)
    notify()
    wait_until_saved(GRACE)
    _tidy(parent, scratch)
    os._exit(1)


def _tidy(parent: int, scratch: Path) -> None:
    """Remove the folder for Dask's files if the driver has ended."""
    if os.getppid() != parent:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Provide a folder for Dask's files during the context, which only this user can read.

    Dask's default folder would remain after the run. It also has a fixed name in the machine's temporary folder, so
    another user could create it first, and Dask's processes import modules from it.

    Raises:
        UserError: No folder for temporary files can be written.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"worker processes need a folder for temporary files (TMPDIR): {error.strerror}") from None
    with folder as path:
        yield Path(path)


class PagelessScheduler(Pageless, Scheduler):  # type: ignore[misc]
    """A scheduler without web pages."""
