"""What runs in a worker process: the calls that a cluster hands out, and how the process ends.

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
from partune.runtime.preemption import PreemptedError, noticed, notify, wait_for_guarded
from partune.workers.certificates import (
    VARIABLES,
)

PARENT = "PARTUNE_DRIVER"  # environment variables that tell a worker process its driver's number, and its GPUs
WORKERS_EACH = "PARTUNE_WORKERS_PER_JOB"
SCRATCH = "DASK_TEMPORARY_DIRECTORY"  # Dask's own: where a job's workers keep files; it goes when they do
OVERDUE = "partune-overdue"  # the topic on which workers say that they leave because of a time limit
LEAVING = "partune-leaving"  # and because they were told to
TOLD = "partune-told"  # and what the user should know
GRACE = 60.0  # seconds in which what runs can be saved; a batch system may kill before
WATCHES = ("profile", "profile-cycle", "tick", "ticks")  # of Dask: hold all threads up 150 times a second
LINGER = 1.0  # seconds until what a worker said has left it
PRELOAD = ("--preload", __name__)
PRELOAD_NANNY = ("--preload-nanny", __name__)
WITHOUT_PAGES = ("--no-dashboard", "--worker-class", f"{__name__}.PagelessWorker")

PREFIX = "partune-workers-"  # of the folder for what Dask keeps beside its workers
THREADS = 64  # of a worker process: the largest pack that it can hold


class Pageless:
    """A scheduler or worker of Dask that serves no pages: they show what runs, and its logs, to whoever asks."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        """Listen to nobody."""


class PagelessWorker(Pageless, Worker):  # type: ignore[misc]
    """A worker that serves no pages."""


class HandedBackError(Exception):
    """What `PreemptedError` is between processes: Dask does not pass a BaseException on in peace."""


def carry_out(call: bytes, task: int, limit: float | None) -> Any:
    """Makes a (pickled) call; beyond the time limit, in seconds, the process ends.

    Raises HandedBackError where the worker has to go before the call is done.
    """
    if noticed():
        raise HandedBackError
    with nullcontext() if limit is None else _limited(limit, task):
        try:
            return cloudpickle.loads(call)()
        except PreemptedError:
            raise HandedBackError from None


class Telling(logging.Handler):
    """Passes partune's own warnings on to the driver: a worker's terminal is nobody's."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self._worker.loop.add_callback(self._worker.log_event, TOLD, {"text": record.getMessage()})


def dask_setup(process: Worker | Nanny | Scheduler) -> None:
    """Called by Dask in each worker, nanny and scheduler that preloads this module.

    A scheduler stops serving pages. A worker of this machine ends with the driver that started it. One of a batch job
    sees its own of its node's GPUs; it ends where there are not enough.
    """
    if isinstance(process, Scheduler):
        process.http_server.stop()
        return
    if threading.current_thread() is threading.main_thread():  # in Dask's own commands it is
        signal.signal(signal.SIGTERM, lambda *_: _terminate(process))
    if isinstance(process, Nanny):
        if WORKERS_EACH in os.environ and os.environ.get(SCRATCH):
            atexit.register(shutil.rmtree, os.environ[SCRATCH], ignore_errors=True)
        return
    logging.getLogger("partune").addHandler(Telling(process))
    for name in WATCHES:
        process.periodic_callbacks.pop(name, None)
    for name in VARIABLES:  # its certificate is not for the programs that trials start
        os.environ.pop(name, None)
    if PARENT in os.environ:
        scratch = Path(process.local_directory).parents[1]
        atexit.register(_tidy, int(os.environ[PARENT]), scratch)  # Dask may end the process first
        threading.Thread(target=_end_with, args=(int(os.environ[PARENT]), scratch), name="parent", daemon=True).start()
        return
    if WORKERS_EACH not in os.environ or not (visible := devices()):
        return
    each, workers = int(os.environ[DEVICES_EACH]), int(os.environ[WORKERS_EACH])
    number = 0 if workers == 1 else int(str(process.name).rpartition("-")[2])  # "SLURMCluster-3-1": 4th job, 2nd worker
    if len(visible) < workers * each:
        needed = f"{workers} workers with {each} GPU each need {workers * each}"
        print(f"partune: {needed}, this job has {len(visible)}", file=sys.stderr, flush=True)
        os._exit(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible[number * each : (number + 1) * each])


def _terminate(process: Worker | Nanny) -> None:
    """SIGTERM: a nanny passes it on, and ends with its worker; a worker saves what runs, and goes."""
    if isinstance(process, Nanny):
        process.close_gracefully(reason="SIGTERM")  # no other worker takes the place of this one
        if (worker := process.pid) is not None:
            os.kill(worker, signal.SIGTERM)
    elif not noticed():
        notify()
        threading.Thread(target=_leave, args=(process, LEAVING, {"worker": process.address}), daemon=True).start()


@contextmanager
def _limited(seconds: float, task: int) -> Iterator[None]:
    """Ends the process when the context has lasted too long."""
    watch = threading.Timer(seconds, _leave, (distributed.get_worker(), OVERDUE, {"task": task}, 0.0))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _leave(worker: Worker, topic: str, message: dict[str, Any], grace: float = GRACE) -> None:
    """Tells the driver, and ends the process once what runs is saved, where it can be."""
    worker.loop.add_callback(worker.log_event, topic, message)
    wait_for_guarded(grace)
    time.sleep(LINGER)
    os._exit(1)


def _end_with(parent: int, scratch: Path) -> None:
    """Ends the process when the driver has; what runs is saved for the one that continues the study.

    scratch: the folder that the driver lent its workers, and can no longer remove.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    notify()
    wait_for_guarded(GRACE)
    _tidy(parent, scratch)
    os._exit(1)


def _tidy(parent: int, scratch: Path) -> None:
    """Remove what the driver lent, where it has gone."""
    if os.getppid() != parent:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Lend a folder for what Dask keeps beside its workers, which only this user can read; it goes with the context.

    By default Dask's own would stay, under a name in the machine's temporary folder that anybody could take first; and
    processes import modules from it.

    Raises:
        UserError: No folder for temporary files can be written.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"worker processes need a folder for temporary files (TMPDIR): {error.strerror}") from None
    with folder as made:
        yield Path(made)


class PagelessScheduler(Pageless, Scheduler):  # type: ignore[misc]
    """A scheduler that serves no pages."""
