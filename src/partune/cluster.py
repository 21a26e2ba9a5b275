"""Workers in other processes, on this machine or on many, through Dask (the extra `dask`).

A study hands out trials, one future each, with the objective's settings (`executors.Workers`); a worker process builds
base, tokens and requests once and keeps them. It takes as many trials at once as the objective has slots, one thread
each, so that packs form there by themselves.

Any process may die at any moment. What a worker was running when it died is run again *alone*, on a worker with
nothing else; only a task that dies alone counts a strike, and after STRIKES of them it is given up (`WorkerLostError`):
a poison pill takes neither the cluster nor its neighbours down. A worker that is told to go (SIGTERM) hands back what
it runs; a fine-tuning has saved where it stands, and goes on from there elsewhere. A task beyond its time limit takes
its worker along, since no thread can be stopped from outside; alone, once is enough. Dask's own retries are off. Where
the scheduler goes away, tasks wait for one at the same address.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar, cast

import cloudpickle
import dask
import distributed
from distributed import Client, Scheduler, Security, SpecCluster

from partune import config
from partune.certificates import certified, environment_of, read_certificates, security_of, temporary_certificates
from partune.errors import UserError
from partune.executors import WorkerLostError, Workers
from partune.jobs import Jobs, cluster_class
from partune.runtime.devices import DEVICES_EACH, devices
from partune.runtime.limits import require_connections, require_workers
from partune.runtime.network import LOOPBACK, is_loopback
from partune.runtime.preemption import terminated_as_interrupted
from partune.trial import Trial
from partune.worker import (
    GRACE,
    LEAVING,
    OVERDUE,
    PARENT,
    PRELOAD,
    PRELOAD_NANNY,
    SCRATCH,
    TOLD,
    WITHOUT_PAGES,
    WORKERS_EACH,
    HandedBackError,
    Pageless,
    carried_out,
)

P = ParamSpec("P")
T = TypeVar("T")

STRIKES = 3
FRUITLESS = 3  # processes of a worker in a row that end before it has come: no more are started
PREFIX = "partune-workers-"  # of the folder for what Dask keeps beside its workers
OUTPUT = 4096  # bytes of a worker process's output that are kept
THREADS = 64  # of a worker process: the largest pack that it can hold
PATIENCE = 600.0  # seconds to wait for a scheduler that has gone, or for a cluster's first worker
LOOK = 2.0  # seconds after which a study looks again how many workers there are
TRANSIT = 5.0  # seconds after which a task that a dead worker was sent counts as never arrived
FROZEN = 30.0  # seconds beyond the time limit after which a worker that has not ended itself is ended
UNSEEN = ("--no-dashboard", "--dashboard-address", f"{LOOPBACK}:0", *PRELOAD)  # a scheduler that serves no pages
FETCH = 30.0  # seconds to wait for a result that is there
CONNECT = 30.0  # seconds for a scheduler to answer
CORES_EACH, MEMORY_EACH = 4, 32  # what a batch job asks for each worker, where its file does not say; memory in GiB
SYSTEMS = {
    "slurm": "SLURMCluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "sge": "SGECluster",
}

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Task:
    """Something to do: until its future is done it waits, or is on a worker."""

    name: str
    call: bytes  # pickled
    future: Future[Any]
    number: int
    alone: bool = False
    strikes: int = 0
    handed: distributed.Future | None = field(default=None, repr=False)
    since: float = 0.0  # when it was handed


@dataclass(eq=False)
class Room:
    """A worker: how many tasks it can hold, and those that it does."""

    address: str
    threads: int
    name: str = ""
    leaving: bool = False  # takes no more tasks
    excused: bool = False  # was told to go: what it takes along is no reason to suspect that
    tasks: set[Task] = field(default_factory=set)
    prepared: distributed.Future | None = field(default=None, repr=False)

    @property
    def open(self) -> bool:
        """Whether it may be sent tasks, where it has room."""
        return not self.leaving and not any(task.alone for task in self.tasks)

    def taken_back(self) -> list[Task]:
        """All tasks, as if they had never been handed out; what becomes of them there is of no account."""
        tasks = sorted(self.tasks, key=lambda task: task.number)
        self.tasks.clear()
        for task in tasks:
            task.handed = None
        return tasks


class Cluster(Workers):
    """The workers of a Dask scheduler.

    Which task goes where is decided here, not by Dask, which would queue tasks at workers: of a worker that died we
    know what it was running.

    connect: gives a client of the scheduler, and another one when that has gone. time_limit: seconds that a task may
    take on its worker (the first one there loads model and data, too); None for any. end: ends a worker, by its name,
    that is frozen; without it the scheduler forgets that. A context; `close` ends it.
    """

    remote = True

    def __init__(
        self,
        connect: Callable[[], Client],
        time_limit: float | None = None,
        end: Callable[[str], object] | None = None,
    ) -> None:
        self._connect = connect
        self._limit = time_limit
        self._end = end
        self._preparation: bytes | None = None  # the call, pickled, that makes a worker ready for trials
        self._slots = 1
        self._remaining = 0  # trials that the search has still to finish
        self._lock = threading.RLock()
        self._rooms: dict[str, Room] = {}
        self._came: set[str] = set()  # names of the workers that ever were there
        self._waiting: list[Task] = []
        self._submitted = 0
        self._told: set[str] = set()  # what workers said
        self._overdue: set[int] = set()  # numbers of the tasks that ran beyond the time limit
        self._left: list[tuple[float, Room]] = []  # workers that have gone, when, and what nobody knows the fate of
        self._failed: UserError | None = None  # why no worker will come
        self._lost = 0.0  # since when the scheduler is gone; 0: it is there
        self._closed = threading.Event()
        self._client = connect()
        self._introduce()
        self._look()
        threading.Thread(target=self._watch, name="cluster", daemon=True).start()

    def __exit__(self, *error: object) -> None:
        self.close()

    # ----- what a study sees

    @property
    def count(self) -> int:
        return sum(not room.leaving for room in list(self._rooms.values()))

    def expect(self, workers: int) -> None:
        """Waits until so many workers are there; raises UserError where they do not come."""
        deadline = time.monotonic() + PATIENCE
        while len(self._rooms) < workers:
            if self._failed is not None:
                raise self._failed
            if time.monotonic() > deadline:
                raise UserError(f"{len(self._rooms)} of {workers} workers came within {PATIENCE / 60:g} minutes")
            time.sleep(0.05)
            self._look()

    def prepare(self, load: Callable[[], object]) -> None:
        with self._lock:
            self._preparation = pickled(load)
            for room in self._rooms.values():
                self._make_ready(room)

    def hold(self, slots: int) -> None:
        self._slots = slots

    def remain(self, trials: int) -> None:
        self._remaining = trials

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has a call made by a worker; raises UserError for what cannot be pickled."""
        call = pickled(functools.partial(fn, *args, **kwargs))
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        name = next((f"trial {each.number}" for each in args if isinstance(each, Trial)), "a task")
        with self._lock:
            if self._failed is not None and not self._rooms:
                raise self._failed
            self._submitted += 1
            self._waiting.append(Task(name, call, future, self._submitted))
            self._fill()
        return future

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        return wait(futures, timeout=LOOK, return_when=FIRST_COMPLETED).done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Gives up all tasks, where `cancel_futures` says so: each future ends with an error, and at once."""
        if not cancel_futures:
            return
        with self._lock:
            given_up = self._waiting + self._taken_back()
            self._waiting = []
        for task in given_up:
            task.future.set_exception(WorkerLostError(f"{task.name} was given up"))

    def close(self) -> None:
        self._closed.set()
        self.shutdown(cancel_futures=True)
        self._client.close()

    # ----- what a batch system's jobs see

    @property
    def need(self) -> int:
        """Workers that what is to be done can keep busy."""
        with self._lock:
            tasks = [*self._waiting, *(task for room in self._rooms.values() for task in room.tasks)]
            alone = sum(task.alone for task in tasks)
            return alone + math.ceil((max(self._remaining, len(tasks)) - alone) / self._slots)

    @property
    def names(self) -> set[str]:
        """The workers of now, by the names that they were started with."""
        with self._lock:
            return {room.name for room in self._rooms.values()}

    def dismiss(self, names: Collection[str]) -> bool:
        """Gives some workers no more tasks, where none of them has any now; whether that is so."""
        with self._lock:
            rooms = [room for room in self._rooms.values() if room.name in names]
            if any(room.tasks for room in rooms):
                return False
            for room in rooms:
                room.leaving = True
            return True

    def came(self, name: str) -> bool:
        """Whether a worker of this name ever was there."""
        with self._lock:
            return name in self._came

    def fail(self, error: UserError) -> None:
        """Ends what waits for workers, of which none will come."""
        with self._lock:
            self._failed = error
            given_up, self._waiting = self._waiting, []
        for task in given_up:
            task.future.set_exception(error)

    # ----- the scheduler and its workers

    def _introduce(self) -> None:
        """Tells a scheduler, a new one too, what it has to know: retries are ours."""
        self._client.run_on_scheduler(_no_retries)
        self._client.subscribe_topic(OVERDUE, lambda event: self._overdue.add(event[1]["task"]))
        self._client.subscribe_topic(LEAVING, lambda event: self._excuse(event[1]["worker"]))
        self._client.subscribe_topic(TOLD, lambda event: self._pass_on(event[1]["text"]))

    def _pass_on(self, text: str) -> None:
        """Tells what a worker has to say, once, whichever say it."""
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)

    def _excuse(self, address: str) -> None:
        """A worker was told to go: it takes nothing more, and what it does not hand back runs elsewhere."""
        with self._lock:
            room = self._rooms.get(address)
            if room is not None and not room.excused:
                room.leaving = room.excused = True
                log.warning("A worker has to go; what it was running goes on elsewhere.")

    def _watch(self) -> None:
        """Until this is closed: looks which workers there are, and for a scheduler where it is gone."""
        while not self._closed.wait(LOOK / 2):
            try:
                if self._client.status == "running":
                    if self._lost:
                        self._introduce()
                        self._lost = 0.0
                        log.warning("The scheduler is back.")
                    self._look()
                    self._end_frozen()
                else:
                    self._seek()
            except Exception as trouble:  # it has just gone: the next round knows more
                log.debug("no scheduler: %s", trouble)

    def _seek(self) -> None:
        """The scheduler is gone: takes back what was on its workers, and waits for it; in the end in vain."""
        if not self._lost:
            self._lost = time.monotonic()
            log.warning("The scheduler is gone; waiting up to %.0f minutes for it.", PATIENCE / 60)
        with self._lock:
            self._waiting += self._taken_back()
            self._rooms.clear()
            given_up = self._waiting if time.monotonic() - self._lost > PATIENCE else []
            self._waiting = [] if given_up else self._waiting
        for task in given_up:
            task.future.set_exception(UserError("the scheduler is gone, and did not come back"))
        if self._client.status in ("closed", "failed"):
            self._client = self._connect()

    def _look(self) -> None:
        """Takes note of workers that came and went; what was only on its way to one that had gone goes elsewhere."""
        there = self._client.scheduler_info()["workers"]
        now = time.monotonic()
        with self._lock:
            self._left += [(now, self._rooms.pop(address)) for address in self._rooms.keys() - there.keys()]
            for when, room in [each for each in self._left if now - each[0] > TRANSIT]:
                self._left.remove((when, room))
                self._waiting += room.taken_back()
            for address in there.keys() - self._rooms.keys():
                self._failed = None
                self._rooms[address] = Room(address, there[address]["nthreads"], str(there[address]["name"]))
                self._came.add(self._rooms[address].name)
                self._make_ready(self._rooms[address])
            self._fill()
        if self._failed is not None and not self._rooms:
            self.fail(self._failed)

    def _end_frozen(self) -> None:
        """Ends workers that should have ended by themselves: stopped, or held up by a call that lets no thread run."""
        if self._limit is None:
            return
        latest = time.monotonic() - self._limit - FROZEN
        with self._lock:
            frozen = [room for room in self._rooms.values() if any(task.since < latest for task in room.tasks)]
            self._overdue |= {task.number for room in frozen for task in room.tasks if task.since < latest}
        for room in frozen:
            if self._end is not None:
                self._end(room.name)
            else:
                self._client.run_on_scheduler(_forget, address=room.address)

    def _taken_back(self) -> list[Task]:
        rooms = [*self._rooms.values(), *(room for _, room in self._left)]
        self._left.clear()
        return [task for room in rooms for task in room.taken_back()]

    # ----- a task's way

    def _fill(self) -> None:
        """Sends waiting tasks where there is room, to the emptiest worker first; the lock is held.

        What is to run alone keeps a worker from taking more, and begins when that is empty.
        """
        if self._lost:
            return
        free = [room for room in self._rooms.values() if room.open]
        left = []
        for task in sorted(self._waiting, key=lambda task: (not task.alone, task.number)):
            free = [room for room in free if len(room.tasks) < min(self._slots, room.threads)]
            room = min(free, key=lambda room: len(room.tasks), default=None)
            if room is not None and task.alone:
                free.remove(room)
            if room is None or (task.alone and room.tasks):
                left.append(task)
            else:
                self._send(task, room)
        self._waiting = left

    def _make_ready(self, room: Room) -> None:
        """Has a worker load what its trials will need; what goes wrong there goes wrong in the trials, and is told."""
        if self._preparation is not None:
            room.prepared = self._call(room, "preparation", self._preparation, 0, None)

    def _send(self, task: Task, room: Room) -> None:
        room.tasks.add(task)
        task.since = time.monotonic()
        task.handed = self._call(room, f"{task.name}-{task.number}", task.call, task.number, self._limit)
        task.handed.add_done_callback(functools.partial(self._ended, task, room))

    def _call(self, room: Room, name: str, *arguments: Any) -> distributed.Future:
        return self._client.submit(
            carried_out,
            *arguments,
            key=f"{name.replace(' ', '-')}-{time.monotonic_ns()}",
            workers=[room.address],
            pure=False,
            retries=0,
        )

    def _ended(self, task: Task, room: Room, handed: distributed.Future) -> None:
        """Passes a result on, or keeps the task for another worker; called by Dask, in a thread of its own."""
        found, error, lost = None, None, False
        try:
            found = handed.result(timeout=FETCH)
        except BaseException as raised:
            error, lost = raised, handed.status != "error"  # its worker died with the result, or the scheduler went
        with self._lock:
            if task.handed is not handed:  # taken back meanwhile, or given up
                return
            if isinstance(error, CancelledError):  # the scheduler has gone: `_seek` takes everything back
                return
            task.handed = None
            room.tasks.discard(task)
            if killed := isinstance(error, distributed.KilledWorker):
                if self._rooms.pop(room.address, None) is not None:  # the others' fates are told in a moment
                    self._left.append((time.monotonic(), room))
                error = None if room.excused else self._fate(task)
            preempted = isinstance(error, HandedBackError)
            room.leaving |= preempted
            if again := lost or preempted or (killed and error is None):
                self._waiting.append(task)
        if not again and error is None:
            task.future.set_result(found)
        elif not again:
            task.future.set_exception(error)
        with self._lock:
            self._fill()

    def _fate(self, task: Task) -> WorkerLostError | None:
        """Of a task whose worker died: the error of one that is given up; None for one that runs again, alone."""
        overdue = task.number in self._overdue
        if alone := task.alone or self._slots == 1:
            task.strikes += 1
        if alone and overdue:
            return WorkerLostError(f"no result within {self._limit:g} s, the time limit")
        if task.strikes >= STRIKES:
            return WorkerLostError(f"its worker died {STRIKES} times while it ran alone (killed, or out of memory?)")
        why = "left: over the time limit" if overdue else "died"
        log.warning("The worker of %s %s; it runs once more%s.", task.name, why, "" if alone else ", alone")
        task.alone = True
        return None


def pickled(call: Callable[[], object]) -> bytes:
    """A call for other processes; raises UserError for what cannot be sent to them."""
    try:
        return cast(bytes, cloudpickle.dumps(call))
    except Exception as error:
        raise UserError(f"worker processes need an objective that can be pickled: {error}") from None


def _no_retries(dask_scheduler: Scheduler) -> None:
    dask_scheduler.allowed_failures = 0


async def _forget(dask_scheduler: Scheduler, address: str) -> None:
    await dask_scheduler.remove_worker(address, stimulus_id="frozen")


# ----- where workers come from


@contextlib.contextmanager
def local(workers: int, time_limit: float | None = None, devices_each: int = 1) -> Iterator[Cluster]:
    """Worker processes of this machine: each with its own GPUs where there are any, else its share of the cores.

    Nobody else can talk to them, other users of this machine included. Raises UserError where there are fewer GPUs than
    asked for.
    """
    environments = _environments(workers, devices_each)
    security = security_of(*certified())
    with (
        scratch() as folder,
        _scheduler(security, folder) as scheduler,
        _kept() as keepers,
        Cluster(lambda: Client(scheduler, set_as_default=False), time_limit, keepers.kill) as found,
    ):
        needed = 1  # keepers that cannot go on before the study cannot; at the start all have to
        given_up: list[str] = []

        def give_up(reason: str) -> None:
            log.warning("A worker is given up: %s", reason)
            given_up.append(reason)
            if len(given_up) >= needed:
                found.fail(UserError(reason.splitlines()[0]))

        for environment in environments:
            settings = {**environment, **environment_of(security)}
            keepers.append(Keeper(scheduler.scheduler_address, settings, folder, found.came, give_up))
        found.expect(workers)
        needed = workers
        yield found


@contextlib.contextmanager
def _kept() -> Iterator[Keepers]:
    """Room for keepers, whose processes end with the context; after an interrupt they save first what they run."""
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


def _scheduler(security: Security, folder: Path) -> SpecCluster:
    """A scheduler in this process, without pages. Its workers are gone when their connections are.

    Dask's limit between two heartbeats goes by a clock that can be set, and would end them all when somebody does. Its
    look at the loop, 50 times a second, takes from workers that need every core.
    """
    place = {"host": LOOPBACK, "port": 0, "protocol": "tls://", "local_directory": str(folder)}
    scheduler = {"cls": PagelessScheduler, "options": {**place, "security": security, "dashboard": False}}
    with dask.config.set({"distributed.scheduler.worker-ttl": None, "distributed.admin.tick.interval": "1s"}):
        return SpecCluster(scheduler=scheduler, security=security, silence_logs=logging.CRITICAL)


class PagelessScheduler(Pageless, Scheduler):  # type: ignore[misc]
    """A scheduler that serves no pages."""


class Keeper:
    """Keeps one worker process running: one that ends is followed by another.

    environment: variables of the process, its certificate (`environment_of`) among them. folder: for what Dask keeps
    there. name: of the process of now. came: whether a worker of a name ever reached the scheduler. After FRUITLESS
    processes in a row that ended before that, no more are started, and give_up is told why, in another thread; by
    default they are started for ever. (Dask's Nanny is not used: it gives up for good when a worker dies in the moment
    in which it starts.)
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
        place = ("--host", LOOPBACK, *options, *WITHOUT_PAGES, *PRELOAD)
        self._command = (sys.executable, "-m", "dask", "worker", address, *place)
        self._environment = {**os.environ, **environment, PARENT: str(os.getpid())}
        self._came, self._give_up = came, give_up
        self._said = b""  # the end of what the process wrote; in memory, so that it is bounded and needs no disk
        self._stopped = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def kill(self) -> bool:
        """Kills the process, and another one follows; whether it was alive."""
        alive = self._process.poll() is None
        self._process.kill()
        return alive

    def terminate(self) -> None:
        """Tells the process to save what runs and to end; no other follows."""
        self._stopped.set()
        self._process.terminate()

    def stop(self, grace: float = 0.0) -> None:
        """Ends the process for good: kills it where it does not end by itself within some seconds."""
        self._stopped.set()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        self._thread.join()

    def _start(self) -> subprocess.Popen[bytes]:
        self.name, self._said = f"partune-{uuid.uuid4().hex[:12]}", b""
        process = subprocess.Popen(
            (*self._command, "--name", self.name),
            env=self._environment,
            start_new_session=True,  # so that Ctrl-C is the driver's alone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._listener = threading.Thread(target=self._listen, args=(process.stdout,), name="listener", daemon=True)
        self._listener.start()
        return process

    def _listen(self, pipe: IO[bytes]) -> None:
        """Keeps the end of what a process writes."""
        with pipe:
            while written := os.read(pipe.fileno(), 65536):
                self._said = (self._said + written)[-OUTPUT:]

    def _keep(self) -> None:
        fruitless = 0
        while True:
            began = time.monotonic()
            self._process.wait()
            if self._stopped.wait(max(0.0, 1.0 - (time.monotonic() - began))):  # one that cannot start: no busy loop
                return
            fruitless = 0 if self._came(self.name) else fruitless + 1
            if fruitless == FRUITLESS:
                self._give_up(self._reason())
                return
            try:
                self._process = self._start()
            except OSError as error:
                self._said = str(error).encode()
            if self._stopped.is_set():
                self._process.kill()

    def _reason(self) -> str:
        """Why no worker comes: a line, and below it all that is known."""
        self._listener.join(1.0)  # a process of the process's own may still hold the pipe
        said = self._said.decode(errors="replace").strip()
        last = said.splitlines()[-1].strip()[:300] if said else "it wrote nothing"
        return f"worker processes end before they can begin (status {self._process.returncode}): {last}\n{said}".strip()


class Keepers(list[Keeper]):
    """The keepers of this machine's workers."""

    def kill(self, name: str) -> None:
        """Kills the process of a name; another one follows."""
        for keeper in self:
            if keeper.name == name:
                keeper.kill()


def _environments(workers: int, devices_each: int) -> Sequence[Mapping[str, str]]:
    """The environment variables of each worker process."""
    visible = devices()
    if not visible and devices_each > 1:
        raise UserError(f"{devices_each} GPUs for each worker were asked for, and this machine has none")
    require_workers(workers)
    if not visible:
        share = str(max(1, (os.cpu_count() or 1) // workers))
        return [dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), share)] * workers
    if workers * devices_each > len(visible):
        raise UserError(
            f"{workers} workers with {devices_each} GPU each need {workers * devices_each}, "
            f"this machine has {len(visible)}"
        )
    shares = [visible[i * devices_each : (i + 1) * devices_each] for i in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


@contextlib.contextmanager
def joined(address: str, time_limit: float | None = None, tls: Path | None = None) -> Iterator[Cluster]:
    """The workers of a scheduler that runs already; tls: a folder that `write_certificates` made.

    Raises UserError where none answers, or where its traffic would cross a network in the clear.
    """
    host, _ = _host_and_port(address)
    if tls is not None and not address.startswith("tls://"):
        raise UserError(f"{address} is not encrypted, and --tls says that it is: give tls://{address.split('://')[-1]}")
    if tls is None and not is_loopback(host):
        raise UserError(
            f"{address} is not on this machine, and whoever reaches a scheduler can run code: give --tls FOLDER with "
            "the certificates that it was started with (partune certificates FOLDER makes some)"
        )
    if tls is None:
        log.warning(
            "%s asks nobody who they are: every user of this machine can run code as you there. "
            "partune certificates FOLDER closes it to them.",
            address,
        )
    security = None if tls is None else read_certificates(tls)

    def connect() -> Client:
        return Client(address, timeout=CONNECT, security=security, set_as_default=False)

    try:
        cluster = Cluster(connect, time_limit)
    except (OSError, TimeoutError) as error:
        raise UserError(f"no scheduler answers at {address}: {' '.join(str(error).split())[:200]}") from None
    with cluster:
        yield cluster


@contextlib.contextmanager
def batch(file: Path, time_limit: float | None = None) -> Iterator[Cluster]:
    """Workers that a batch system starts and stops, between a least and a most number; file: of a `config.Batch`.

    The scheduler runs in this process and speaks TLS, with a key of its own for each run: in a folder that only its
    owner can read, on a file system that the jobs share, until this ends. Raises UserError where nothing can be
    submitted.
    """
    settings = config.validated(config.Batch, config.load(file))
    require_connections(settings.maximum)
    command = _system(settings).job_cls.submit_command.split()[0]
    if shutil.which(command) is None:
        raise UserError(f"{command} is not there: start partune on a machine that can submit jobs")
    shared = settings.job.get("shared_temp_directory")
    folder = Path.cwd() if shared is None else Path(os.path.expandvars(shared)).expanduser()
    with (
        terminated_as_interrupted(),
        temporary_certificates(folder) as security,
        scratch() as own,
        make_batch(settings, security, own) as jobs,
        Cluster(lambda: Client(jobs, set_as_default=False), time_limit) as found,
        Jobs(jobs, found, settings),
    ):
        yield found


def _system(settings: config.Batch) -> Any:
    """dask-jobqueue's class for a batch system.

    The library's import lets SIGINT end the process, in place of KeyboardInterrupt: what was there before is put back.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ValueError:  # "signal only works in main thread": the first import has to be there
        raise UserError("a batch system's workers are asked for from the main thread") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)
    return getattr(dask_jobqueue, SYSTEMS[settings.system])


def make_batch(settings: config.Batch, security: Security, folder: Path) -> Any:
    """The dask-jobqueue cluster of some settings, without jobs yet; folder: for what Dask keeps beside the scheduler.

    A job asks for cores and memory; how many trials a worker takes at once is not the cores' number, and memory is
    for the batch system to limit. Raises UserError for what dask-jobqueue does not take.
    """
    kind = cluster_class(_system(settings), THREADS, settings.system)
    workers, job = settings.workers_per_job, dict(settings.job)
    job.pop("shared_temp_directory", None)
    if not isinstance(options := job.pop("scheduler_options", {}), dict):
        raise UserError(f"{settings.system}: job: scheduler_options is a mapping, got {options!r}")
    pages = options.get("dashboard") or "dashboard_address" in options  # where the file asks for them
    place = {"dashboard_address": f"{LOOPBACK}:0", "local_directory": str(folder)}
    fixed = {
        "processes": workers,
        "protocol": "tls://",
        "security": security,
        "worker_extra_args": [*PRELOAD, *PRELOAD_NANNY, *WITHOUT_PAGES, *job.pop("worker_extra_args", [])],
        "job_script_prologue": [
            f"export {WORKERS_EACH}={workers} {DEVICES_EACH}={settings.devices_per_worker}",
            *([] if settings.system == "htcondor" else [f"export {SCRATCH}=$(mktemp -d -t {PREFIX}XXXXXXXX)"]),
            *settings.prologue,
        ],
        "scheduler_options": {"dashboard": False, **place, **options},
        "scheduler_cls": Scheduler if pages else PagelessScheduler,
        "silence_logs": "critical",
        "job_cls": kind.job_cls,
        "n_workers": 0,
        "asynchronous": False,
    }
    defaults = {
        "cores": CORES_EACH * workers,
        "memory": f"{MEMORY_EACH * workers} GiB",
        **({"memory_per_core_property_name": "not_applicable"} if settings.system == "oar" else {}),
        # Without a shell between, which SIGTERM would end at once, and the job with it, before anything is saved.
        **({} if settings.system == "htcondor" else {"python": f"exec {sys.executable}"}),
    }
    if clash := sorted(fixed.keys() & job.keys()) or sorted({"protocol", "security"} & options.keys()):
        raise UserError(f"{settings.system}: job: {clash[0]} is not for the file to set")
    try:
        return kind(**defaults | job | fixed)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        text = str(error).partition(". Very likely this unexpected")[0].replace("Got unexpected", "unexpected")
        raise UserError(f"{settings.system}: {' '.join(text.split())}") from None


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        found: tuple[str, int] = distributed.comm.parse_host_port(distributed.comm.parse_address(address)[1])
    except ValueError as error:
        raise UserError(f"{address} is no address of a scheduler, as tcp://10.0.0.5:8786 is: {error}") from None
    return found
