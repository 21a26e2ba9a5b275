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

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from typing import Any, ParamSpec, TypeVar, cast

import cloudpickle
import distributed
from distributed import Client, Scheduler

from partune.errors import UserError
from partune.trial import Trial
from partune.workers.base import WorkerLostError, Workers
from partune.workers.process import (
    LEAVING,
    OVERDUE,
    TOLD,
    HandedBackError,
    carried_out,
)
from partune.workers.queue import STRIKES, Room, Task

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 600.0  # seconds to wait for a scheduler that has gone, or for a cluster's first worker
LOOK = 2.0  # seconds after which a study looks again how many workers there are
TRANSIT = 5.0  # seconds after which a task that a dead worker was sent counts as never arrived
FROZEN = 30.0  # seconds beyond the time limit after which a worker that has not ended itself is ended
FETCH = 30.0  # seconds to wait for a result that is there
CORES_EACH, MEMORY_EACH = 4, 32  # what a batch job asks for each worker, where its file does not say; memory in GiB

log = logging.getLogger(__name__)


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
