"""Start worker processes on this machine, watch them, and replace those that end."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import dask
from distributed import Client, Security, SpecCluster

from partune.errors import UserError
from partune.runtime.devices import devices
from partune.runtime.limits import require_workers
from partune.runtime.network import LOOPBACK
from partune.workers.certificates import certified, environment_of, security_of
from partune.workers.cluster import Cluster, log
from partune.workers.process import (
    GRACE,
    PARENT,
    PRELOAD,
    THREADS,
    WITHOUT_PAGES,
    PagelessScheduler,
    scratch,
)

FRUITLESS = 3  # after this many processes in a row have ended before their worker came, no more are started
OUTPUT = 4096  # bytes kept of a worker process's output
UNSEEN = ("--no-dashboard", "--dashboard-address", f"{LOOPBACK}:0", *PRELOAD)  # a scheduler without web pages


@contextlib.contextmanager
def local(workers: int, time_limit: float | None = None, devices_each: int = 1) -> Iterator[Cluster]:
    """Provide worker processes on this machine. Each has its own GPUs, or a share of the cores if there are no GPUs.

    Nobody else can connect to them, not even other users of this machine.

    Args:
        workers: The number of processes.
        time_limit: The number of seconds that a task may take on its worker; None for no limit.
        devices_each: The number of GPUs per worker.

    Raises:
        UserError: There are fewer GPUs than requested, or the machine cannot hold that many processes.
    """
    environments = _environments(workers, devices_each)
    security = security_of(*certified())
    with (
        scratch() as folder,
        _scheduler(security, folder) as scheduler,
        _kept() as keepers,
        Cluster(lambda: Client(scheduler, set_as_default=False), time_limit, keepers.kill) as cluster,
    ):
        # The study fails when this number of keepers have given up. At the start every worker is needed, so the first
        # keeper that gives up is fatal. Later the study continues as long as one worker is left.
        fatal = 1
        given_up: list[str] = []

        def give_up(reason: str) -> None:
            log.warning("A worker is given up: %s", reason)
            given_up.append(reason)
            if len(given_up) >= fatal:
                cluster.fail(UserError(reason.splitlines()[0]))

        for environment in environments:
            settings = {**environment, **environment_of(security)}
            keepers.append(Keeper(scheduler.scheduler_address, settings, folder, cluster.came, give_up))
        cluster.expect(workers)
        fatal = workers
        yield cluster


@contextlib.contextmanager
def _kept() -> Iterator[Keepers]:
    """Provide a list for `Keeper`s. Their processes end with the context, and after an error save their tasks first."""
    keepers = Keepers()
    grace = GRACE
    try:
        yield keepers
        grace = 0.0
    finally:
        for keeper in keepers:
            keeper.terminate()
        for keeper in keepers:
            keeper.stop(grace)


def _scheduler(security: Security, folder: Path) -> SpecCluster:
    """Return a scheduler in this process without web pages. It counts a worker as lost when the connection ends."""
    options = {"host": LOOPBACK, "port": 0, "protocol": "tls://", "local_directory": str(folder)}
    scheduler = {"cls": PagelessScheduler, "options": {**options, "security": security, "dashboard": False}}
    # worker-ttl limits the time between two heartbeats, but by the system clock: setting that clock would end all
    # workers. The tick checks the event loop 50 times a second, which costs time on cores that the workers need.
    with dask.config.set({"distributed.scheduler.worker-ttl": None, "distributed.admin.tick.interval": "1s"}):
        return SpecCluster(scheduler=scheduler, security=security, silence_logs=logging.CRITICAL)


class Keeper:
    """Keep one worker process running: start another one when it ends.

    After FRUITLESS processes in a row that ended before they reached the scheduler, no more are started. Dask's Nanny
    is not used, because it gives up for good if a worker dies while it starts.

    Args:
        address: The scheduler's address.
        environment: Environment variables of the process, including its certificate (`environment_of`).
        folder: The folder for Dask's files.
        came: A function that returns whether a worker with a name has ever reached the scheduler.
        give_up: A function that is called with the reason, in another thread, when no more processes are started.

    Attributes:
        name: The name of the current process.
    """

    def __init__(
        self,
        address: str,
        environment: Mapping[str, str],
        folder: Path,
        came: Callable[[str], bool] = lambda name: True,
        give_up: Callable[[str], object] = lambda reason: None,
    ) -> None:
        options = ("--no-nanny", "--nthreads", str(THREADS), "--memory-limit", "0", "--local-directory", str(folder))
        where = ("--host", LOOPBACK, *options, *WITHOUT_PAGES, *PRELOAD)
        self._command = (sys.executable, "-m", "dask", "worker", address, *where)
        self._environment = {**os.environ, **environment, PARENT: str(os.getpid())}
        self._came, self._give_up = came, give_up
        self._output = b""  # the end of the process's output; kept in memory, so that it is bounded and needs no disk
        self._stopped = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def kill(self) -> bool:
        """Kill the process, so that another one is started; return whether it was alive."""
        alive = self._process.poll() is None
        self._process.kill()
        return alive

    def terminate(self) -> None:
        """Tell the process to save its tasks and end. No other one is started."""
        self._stopped.set()
        self._process.terminate()

    def stop(self, grace: float = 0.0) -> None:
        """End the process for good. Kill it if it does not end by itself within `grace` seconds."""
        self._stopped.set()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        self._thread.join()

    def _start(self) -> subprocess.Popen[bytes]:
        self.name, self._output = f"partune-{uuid.uuid4().hex[:12]}", b""
        process = subprocess.Popen(
            (*self._command, "--name", self.name),
            env=self._environment,
            start_new_session=True,  # so that Ctrl-C reaches only the driver
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._listener = threading.Thread(target=self._listen, args=(process.stdout,), name="listener", daemon=True)
        self._listener.start()
        return process

    def _listen(self, pipe: IO[bytes]) -> None:
        """Keep the end of a process's output."""
        with pipe:
            while written := os.read(pipe.fileno(), 65536):
                self._output = (self._output + written)[-OUTPUT:]

    def _keep(self) -> None:
        """Start another process whenever one ends, until stopped or FRUITLESS processes failed in a row."""
        fruitless = 0
        while True:
            began = time.monotonic()
            self._process.wait()
            # Take at least a second per process. Processes that cannot start would otherwise make a busy loop.
            if self._stopped.wait(max(0.0, 1.0 - (time.monotonic() - began))):
                return
            fruitless = 0 if self._came(self.name) else fruitless + 1
            if fruitless == FRUITLESS:
                self._give_up(self._reason())
                return
            try:
                self._process = self._start()
            except OSError as error:
                self._output = str(error).encode()
            if self._stopped.is_set():  # `stop` may have killed the previous process and not this new one
                self._process.kill()

    def _reason(self) -> str:
        """Return why no worker comes: one line, followed by the end of the process's output."""
        self._listener.join(1.0)  # with a limit, because a child of the process may still hold the pipe
        text = self._output.decode(errors="replace").strip()
        last = text.splitlines()[-1].strip()[:300] if text else "it wrote nothing"
        return f"worker processes end before they can begin (status {self._process.returncode}): {last}\n{text}".strip()


class Keepers(list[Keeper]):
    """The keepers of this machine's workers."""

    def kill(self, name: str) -> None:
        """Kill the process with a name, so that another one is started."""
        for keeper in self:
            if keeper.name == name:
                keeper.kill()


def _environments(workers: int, devices_each: int) -> Sequence[Mapping[str, str]]:
    """Return the environment variables of each worker process."""
    visible = devices()
    if not visible and devices_each > 1:
        raise UserError(f"{devices_each} GPUs per worker were requested, but this machine has none")
    require_workers(workers)
    if not visible:
        share = str(max(1, (os.cpu_count() or 1) // workers))
        return [dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), share)] * workers
    if workers * devices_each > len(visible):
        raise UserError(
            f"{workers} workers with {devices_each} GPU each need {workers * devices_each}, "
            f"but this machine has {len(visible)}"
        )
    shares = [visible[i * devices_each : (i + 1) * devices_each] for i in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]
