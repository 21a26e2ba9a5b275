"""Workers in other processes, on this machine or on many, through Dask (the extra `dask`).

A study hands out trials, one future each, with the objective's settings (`partune.workers.base`); a worker process
builds base, tokens and requests once and keeps them. It takes as many trials at once as the objective has slots, one
thread each, so that packs form there by themselves.

Any process may die at any moment. What then becomes of its tasks is the business of `partune.workers.queue`; here is
what talks to Dask. Which task goes where is decided by that queue, not by Dask, which would queue tasks at workers: if
a worker dies we have to know what it was running, and not only what it had been sent. Dask's own retries are off.

A worker that is told to go (SIGTERM) hands back what it runs; a fine-tuning has saved where it stands, and goes on from
there elsewhere. Where the scheduler goes away, tasks wait for one at the same address.
"""

from __future__ import annotations

import functools
import logging
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
from partune.workers.process import LEAVING, OVERDUE, TOLD, HandedBackError, carry_out
from partune.workers.queue import Queue, Task, Worker

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 600.0  # seconds to wait for a scheduler that has gone, or for a cluster's first worker
LOOK = 2.0  # seconds after which a study looks again how many workers there are
FROZEN = 30.0  # seconds beyond the time limit after which a worker that has not ended itself is ended
FETCH = 30.0  # seconds to wait for a result that is there
CORES_EACH, MEMORY_EACH = 4, 32  # what a batch job asks for each worker, where its file does not say; memory in GiB

log = logging.getLogger(__name__)


class Cluster(Workers):
    """The workers of a Dask scheduler. A context; `close` ends it.

    Args:
        connect: Returns a client of the scheduler, and another one when that scheduler has gone.
        time_limit: Seconds that a task may take on its worker, of which the first one there loads model and data, too;
            None for any number.
        end: Ends a worker, by its name, that is frozen; without it the scheduler forgets that worker.
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
        self._remaining = 0  # trials that the search has still to finish
        self._lock = threading.RLock()  # guards the queue
        self._queue = Queue(time_limit)
        self._messages: set[str] = set()  # what workers said
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
        """How many workers there are that take tasks."""
        return sum(not worker.leaving for worker in list(self._queue.workers.values()))

    def expect(self, workers: int) -> None:
        """Wait until a number of workers is there; raise UserError where they do not come."""
        deadline = time.monotonic() + PATIENCE
        while len(self._queue.workers) < workers:
            if self._failed is not None:
                raise self._failed
            if time.monotonic() > deadline:
                raise UserError(
                    f"{len(self._queue.workers)} of {workers} workers came within {PATIENCE / 60:g} minutes"
                )
            time.sleep(0.05)
            self._look()

    def prepare(self, load: Callable[[], object]) -> None:
        """Have each worker make a call, now or when it comes; see `Workers.prepare`."""
        with self._lock:
            self._preparation = pickled(load)
            for worker in self._queue.workers.values():
                self._make_ready(worker)

    def hold(self, slots: int) -> None:
        """Set how many tasks a worker holds at once."""
        self._queue.slots = slots

    def remain(self, trials: int) -> None:
        """Set how many trials the search has still to finish."""
        self._remaining = trials

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker make a call; raise UserError for what cannot be pickled."""
        call = pickled(functools.partial(fn, *args, **kwargs))
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # running from the start: no caller may cancel what a worker may have
        name = next((f"trial {argument.number}" for argument in args if isinstance(argument, Trial)), "a task")
        with self._lock:
            if self._failed is not None and not self._queue.workers:
                raise self._failed
            self._queue.submit(name, call, future)
            self._fill()
        return future

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Wait for the first of some futures to end, LOOK seconds at most; return those that have."""
        return wait(futures, timeout=LOOK, return_when=FIRST_COMPLETED).done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Give up all tasks, if `cancel_futures`: each future ends with an error, and at once.

        Args:
            wait: Has no effect; the signature is `Executor`'s.
            cancel_futures: Whether to give up tasks that workers run, too.
        """
        if not cancel_futures:
            return
        with self._lock:
            given_up = self._queue.give_up()
        for task in given_up:
            task.future.set_exception(WorkerLostError(f"{task.name} was given up"))

    def close(self) -> None:
        """Give up all tasks, and leave the scheduler."""
        self._closed.set()
        self.shutdown(cancel_futures=True)
        self._client.close()

    # ----- what a batch system's jobs see

    @property
    def need(self) -> int:
        """How many workers can be kept busy."""
        with self._lock:
            return self._queue.need(self._remaining)

    @property
    def names(self) -> set[str]:
        """The workers that are there, by the names that they were started with."""
        with self._lock:
            return self._queue.names

    def dismiss(self, names: Collection[str]) -> bool:
        """Give some workers no more tasks, if none of them has any; return whether that is so."""
        with self._lock:
            return self._queue.dismiss(names)

    def came(self, name: str) -> bool:
        """Return whether a worker of this name ever was there."""
        with self._lock:
            return self._queue.came(name)

    def fail(self, error: UserError) -> None:
        """End with an error what waits for workers, of which none will come."""
        with self._lock:
            self._failed = error
            given_up = self._queue.give_up_waiting()
        for task in given_up:
            task.future.set_exception(error)

    # ----- the scheduler and its workers

    def _introduce(self) -> None:
        """Tell a scheduler, a new one too, what it has to know: retries are ours."""
        self._client.run_on_scheduler(_no_retries)
        self._client.subscribe_topic(OVERDUE, lambda event: self._note_overdue(event[1]["task"]))
        self._client.subscribe_topic(LEAVING, lambda event: self._excuse(event[1]["worker"]))
        self._client.subscribe_topic(TOLD, lambda event: self._pass_on(event[1]["text"]))

    def _pass_on(self, text: str) -> None:
        """Log what a worker has to say, once, however many workers say it."""
        if text not in self._messages:
            self._messages.add(text)
            log.warning("%s", text)

    def _note_overdue(self, number: int) -> None:
        with self._lock:
            self._queue.note_overdue(number)

    def _excuse(self, address: str) -> None:
        """Take note that a worker was told to go: what it does not hand back runs elsewhere."""
        with self._lock:
            if self._queue.excuse(address):
                log.warning("A worker has to go; what it was running goes on elsewhere.")

    def _watch(self) -> None:
        """Look which workers there are, and for a scheduler where it is gone, until this is closed."""
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
        """Take back what was on the workers of a scheduler that is gone, and wait for it; in the end in vain."""
        if not self._lost:
            self._lost = time.monotonic()
            log.warning("The scheduler is gone; waiting up to %.0f minutes for it.", PATIENCE / 60)
        with self._lock:
            self._queue.scatter()
            given_up = self._queue.give_up_waiting() if time.monotonic() - self._lost > PATIENCE else []
        for task in given_up:
            task.future.set_exception(UserError("the scheduler is gone, and did not come back"))
        if self._client.status in ("closed", "failed"):
            self._client = self._connect()

    def _look(self) -> None:
        """Take note of workers that came and went; what was only on its way to one that has gone goes elsewhere."""
        listed = self._client.scheduler_info()["workers"]
        with self._lock:
            known = self._queue.workers.keys()
            self._queue.lose(known - listed.keys(), time.monotonic())
            for address in listed.keys() - known:
                self._failed = None
                worker = self._queue.join(address, listed[address]["nthreads"], str(listed[address]["name"]))
                self._make_ready(worker)
            self._fill()
        if self._failed is not None and not self._queue.workers:
            self.fail(self._failed)

    def _end_frozen(self) -> None:
        """End workers that should have ended by themselves: stopped, or held up by a call that lets no thread run."""
        if self._limit is None:
            return
        with self._lock:
            frozen = self._queue.frozen(time.monotonic() - self._limit - FROZEN)
        for worker in frozen:
            if self._end is not None:
                self._end(worker.name)
            else:
                self._client.run_on_scheduler(_forget, address=worker.address)

    # ----- a task's way

    def _fill(self) -> None:
        """Send waiting tasks where there is room; the lock is held."""
        if self._lost:
            return
        for task, worker in self._queue.assign(time.monotonic()):
            handle = self._call(worker, f"{task.name}-{task.number}", task.call, task.number, self._limit)
            # Dask drops a call when nobody holds its future: the task does, until it ends or is taken back.
            task.handle = handle
            handle.add_done_callback(functools.partial(self._ended, task, worker))

    def _make_ready(self, worker: Worker) -> None:
        """Have a worker load what its trials will need; what goes wrong there goes wrong in the trials, and is told."""
        if self._preparation is not None:
            worker.preparation = self._call(worker, "preparation", self._preparation, 0, None)

    def _call(self, worker: Worker, name: str, *arguments: Any) -> distributed.Future:
        return self._client.submit(
            carry_out,
            *arguments,
            # Dask makes one call of two that have one key, and a task may be sent several times.
            key=f"{name.replace(' ', '-')}-{time.monotonic_ns()}",
            workers=[worker.address],
            pure=False,
            retries=0,
        )

    def _ended(self, task: Task, worker: Worker, handle: distributed.Future) -> None:
        """Pass a result on, or keep the task for another worker; called by Dask, in a thread of its own."""
        result, error, result_lost = None, None, False
        try:
            result = handle.result(timeout=FETCH)
        except BaseException as raised:
            # Without an error of the task itself, its worker died with the result, or the scheduler went.
            error, result_lost = raised, handle.status != "error"
        with self._lock:
            if task.handle is not handle:  # taken back meanwhile, or given up
                return
            if isinstance(error, CancelledError):  # the scheduler has gone: `_seek` takes everything back
                return
            again = True
            if isinstance(error, distributed.KilledWorker):
                error = self._queue.die(task, worker, time.monotonic())
                again = error is None
            elif isinstance(error, HandedBackError):
                self._queue.hand_back(task, worker)
            elif result_lost:
                self._queue.repeat(task, worker)
            else:
                self._queue.end(task, worker)
                again = False
        # Without the lock: what was added to the future as a callback runs now, in this thread.
        if not again and error is None:
            task.future.set_result(result)
        elif not again:
            task.future.set_exception(error)
        with self._lock:
            self._fill()


def pickled(call: Callable[[], object]) -> bytes:
    """Return a call in a form for other processes; raise UserError for what cannot be sent to them."""
    try:
        return cast(bytes, cloudpickle.dumps(call))
    except Exception as error:
        raise UserError(f"worker processes need an objective that can be pickled: {error}") from None


def _no_retries(dask_scheduler: Scheduler) -> None:
    dask_scheduler.allowed_failures = 0


async def _forget(dask_scheduler: Scheduler, address: str) -> None:
    await dask_scheduler.remove_worker(address, stimulus_id="frozen")
