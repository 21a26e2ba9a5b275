"""What runs in a worker process: the calls that a cluster sends, and how the process ends.

Dask loads this module into workers, and into the nannies that keep them, with `--preload partune.workers.process` and
`--preload-nanny partune.workers.process`. SIGTERM then makes a worker save what runs (`partune.runtime.preemption`)
before it goes.
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

PARENT = "PARTUNE_DRIVER"  # the environment variable that tells a worker process its driver's process number
WORKERS_EACH = "PARTUNE_WORKERS_PER_JOB"  # and that tells a batch job's workers how many they are
SCRATCH = "DASK_TEMPORARY_DIRECTORY"  # Dask's own: where a job's workers keep files; it goes when they do
OVERDUE = "partune-overdue"  # the topic on which workers say that they leave because of a time limit
LEAVING = "partune-leaving"  # and because they were told to
TOLD = "partune-told"  # and what the user should know
GRACE = 60.0  # seconds in which what runs can be saved; a batch system may kill before
WATCHES = ("profile", "profile-cycle", "tick", "ticks")  # Dask's own, which hold all threads up 150 times a second
LINGER = 1.0  # seconds until what a worker said has left it
PRELOAD = ("--preload", __name__)
PRELOAD_NANNY = ("--preload-nanny", __name__)
WITHOUT_PAGES = ("--no-dashboard", "--worker-class", f"{__name__}.PagelessWorker")

PREFIX = "partune-workers-"  # of the name of the folder in which Dask keeps files beside its workers
THREADS = 64  # of a worker process, and so the largest pack that it can hold


class Pageless:
    """A scheduler or worker of Dask that serves no pages: they show what runs, and its logs, to whoever asks."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        """Do nothing, instead of listening on a port."""


class PagelessWorker(Pageless, Worker):  # type: ignore[misc]
    """A worker that serves no pages."""


class HandedBackError(Exception):
    """The stand-in for a `PreemptedError` between processes, as Dask mishandles a BaseException."""


def carry_out(call: bytes, task: int, limit: float | None) -> Any:
    """Make a call, and end the process if that takes too long.

    Args:
        call: Pickled.
        task: The task's number, by which the driver knows it.
        limit: Seconds that the call may take; None for any number.

    Raises:
        HandedBackError: The worker has to go before the call is done.
    """
    if noticed():
        raise HandedBackError
    with nullcontext() if limit is None else _limited(limit, task):
        try:
            return cloudpickle.loads(call)()
        except PreemptedError:
            raise HandedBackError from None


class Telling(logging.Handler):
    """Passes partune's own warnings on to the driver, as nobody looks at a worker's terminal.

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
    """Set up a worker, nanny or scheduler that preloads this module; Dask calls this by its name.

    A scheduler stops serving pages. A worker on this machine ends with the driver that started it. A worker of a batch
    job sees only its own share of the node's GPUs, and ends if there are not enough.
    """
    if isinstance(process, Scheduler):
        process.http_server.stop()
        return
    if threading.current_thread() is threading.main_thread():  # always so in Dask's own commands
        signal.signal(signal.SIGTERM, lambda *_: _terminate(process))
    if isinstance(process, Nanny):
        if WORKERS_EACH in os.environ and os.environ.get(SCRATCH):
            atexit.register(shutil.rmtree, os.environ[SCRATCH], ignore_errors=True)
        return
    logging.getLogger("partune").addHandler(Telling(process))
    for name in WATCHES:
        process.periodic_callbacks.pop(name, None)
    for name in VARIABLES:  # the programs that trials start must not have the certificate
        os.environ.pop(name, None)
    if PARENT in os.environ:
        scratch = Path(process.local_directory).parents[1]
        atexit.register(_tidy, int(os.environ[PARENT]), scratch)  # Dask may end the process first
        threading.Thread(target=_end_with, args=(int(os.environ[PARENT]), scratch), name="parent", daemon=True).start()
        return
    if WORKERS_EACH not in os.environ or not (visible := devices()):
        return
    per_worker, workers = int(os.environ[DEVICES_EACH]), int(os.environ[WORKERS_EACH])
    number = 0 if workers == 1 else int(str(process.name).rpartition("-")[2])  # "SLURMCluster-3-1": 4th job, 2nd worker
    if len(visible) < workers * per_worker:
        needed = f"{workers} workers with {per_worker} GPU each need {workers * per_worker}"
        print(f"partune: {needed}, this job has {len(visible)}", file=sys.stderr, flush=True)
        os._exit(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible[number * per_worker : (number + 1) * per_worker])


def _terminate(process: Worker | Nanny) -> None:
    """Answer SIGTERM: a nanny passes it on, and ends with its worker; a worker saves what runs, and goes."""
    if isinstance(process, Nanny):
        process.close_gracefully(reason="SIGTERM")  # so that the nanny starts no other worker after this one
        if (worker := process.pid) is not None:
            os.kill(worker, signal.SIGTERM)
    elif not noticed():
        notify()
        # A thread, as a signal handler runs in the main thread, whose event loop has to go on to send the message.
        threading.Thread(target=_leave, args=(process, LEAVING, {"worker": process.address}), daemon=True).start()


@contextmanager
def _limited(seconds: float, task: int) -> Iterator[None]:
    """End the process when the context has lasted too long."""
    watch = threading.Timer(seconds, _leave, (distributed.get_worker(), OVERDUE, {"task": task}, 0.0))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _leave(worker: Worker, topic: str, message: dict[str, Any], grace: float = GRACE) -> None:
    """Tell the driver, and end the process once everything that can save itself has."""
    worker.loop.add_callback(worker.log_event, topic, message)
    wait_until_saved(grace)
    time.sleep(LINGER)
    os._exit(1)  # sys.exit would end this thread only


def _end_with(parent: int, scratch: Path) -> None:
    """End the process when the driver has ended; what runs is saved for the driver that continues the study.

    Args:
        parent: The driver's process number.
        scratch: The folder that the driver lent its workers, and can no longer remove.
    """
    while os.getppid() == parent:  # a process whose parent has ended gets another one
        time.sleep(1.0)
    notify()
    wait_until_saved(GRACE)
    _tidy(parent, scratch)
    os._exit(1)


def _tidy(parent: int, scratch: Path) -> None:
    """Remove the folder that the driver lent, if the driver has ended."""
    if os.getppid() != parent:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Lend a folder in which Dask keeps files beside its workers, which only this user can read, for the context.

    Dask's own default would stay after the run, under a name in the machine's temporary folder that anybody could take
    first; and its processes import modules from there.

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
    """A scheduler that serves no pages."""
