"""Run trials in worker processes, on one machine or many, through Dask (the extra `dask`).

A study submits trials together with the objective's settings, one future per trial (`partune.workers.base`). A worker
process loads the base model and the tokenised data once and keeps them. It runs as many trials at once as the objective
has slots, each in its own thread, so that the objective can train them together as a pack.

Any process may die at any moment. `partune.workers.queue` decides what happens to its tasks; this module talks to Dask.
That queue also decides which worker runs a task. Dask itself would queue tasks at workers, but if a worker dies we must
know what it was running, not only what it had been sent. Dask's own retries are turned off.

A worker that receives SIGTERM saves and hands back its tasks, and other workers resume them. If the scheduler
disappears, tasks wait for a scheduler at the same address.
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

PATIENCE = 600.0  # seconds to wait for a scheduler that disappeared, or for a cluster's workers
LOOK = 2.0  # seconds after which a study checks the number of workers again
FROZEN = 30.0  # seconds after the time limit at which a worker is ended if it has not ended itself
FETCH = 30.0  # seconds to fetch a result that is ready
CORES_EACH, MEMORY_EACH = 4, 32  # cores and memory (GiB) per worker that a batch job requests by default

log = logging.getLogger(__name__)


class Cluster(Workers):
    """The workers of a Dask scheduler, as a context manager. The end of the context closes the connection.

    Args:
        connect: A function that returns a client of the scheduler. It is called again if the scheduler disappears.
        time_limit: The number of seconds that a task may take on its worker; None for no limit. The first task on a
            worker also loads the model and the data.
        end: A function that takes a worker's name and ends the worker. It is called for a worker that hangs. Without
            this function, the scheduler only forgets such a worker.
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
        self._preparation: bytes | None = None  # the pickled call that prepares a worker for trials
        self._remaining = 0  # the number of trials that the search has still to finish
        self._lock = threading.RLock()  # guards the queue
        self._queue = Queue(time_limit)
        self._logged: set[str] = set()  # warnings from workers that were logged
        self._failed: UserError | None = None  # the reason why no worker will come
        self._lost = 0.0  # when the scheduler disappeared; 0 while it answers
        self._closed = threading.Event()
        self._client = connect()
        self._set_up_scheduler()
        self._update_workers()
        threading.Thread(target=self._watch, name="cluster", daemon=True).start()

    def __exit__(self, *error: object) -> None:
        self.close()

    # ----- what a study sees

    @property
    def count(self) -> int:
        """The number of workers that accept tasks."""
        return sum(not worker.leaving for worker in list(self._queue.workers.values()))

    def expect(self, workers: int) -> None:
        """Wait until a number of workers has arrived; raise UserError if that takes too long."""
        deadline = time.monotonic() + PATIENCE
        while len(self._queue.workers) < workers:
            if self._failed is not None:
                raise self._failed
            if time.monotonic() > deadline:
                raise UserError(
                    f"{len(self._queue.workers)} of {workers} workers came within {PATIENCE / 60:g} minutes"
                )
            time.sleep(0.05)
            self._update_workers()

    def prepare(self, load: Callable[[], object]) -> None:
        """Have each worker, now or when it arrives, call a function that loads what trials need."""
        with self._lock:
            self._preparation = pickled(load)
            for worker in self._queue.workers.values():
                self._make_ready(worker)

    def hold(self, slots: int) -> None:
        """Set the number of tasks that a worker runs at once."""
        self._queue.slots = slots

    def remain(self, trials: int) -> None:
        """Set the number of trials that the search has still to finish."""
        self._remaining = trials

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker make a call; raise UserError if the call cannot be pickled."""
        call = pickled(functools.partial(fn, *args, **kwargs))
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # so that no caller can cancel a call that a worker may run
        name = next((f"trial {argument.number}" for argument in args if isinstance(argument, Trial)), "a task")
        with self._lock:
            if self._failed is not None and not self._queue.workers:
                raise self._failed
            self._queue.submit(name, call, future)
            self._fill()
        return future

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Wait at most LOOK seconds for a future to be done, and return those that are done."""
        return wait(futures, timeout=LOOK, return_when=FIRST_COMPLETED).done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Give up all tasks if `cancel_futures` is set, and do nothing otherwise.

        Args:
            wait: Has no effect. It belongs to the signature of `Executor.shutdown`.
            cancel_futures: Whether to give up all tasks, running ones too. Their futures fail at once.
        """
        if not cancel_futures:
            return
        with self._lock:
            given_up = self._queue.give_up()
        for task in given_up:
            task.future.set_exception(WorkerLostError(f"{task.name} was given up"))

    def close(self) -> None:
        """Give up all tasks, and disconnect from the scheduler."""
        self._closed.set()
        self.shutdown(cancel_futures=True)
        self._client.close()

    # ----- what the code that submits jobs to a batch system sees

    @property
    def need(self) -> int:
        """The number of workers that can be kept busy."""
        with self._lock:
            return self._queue.need(self._remaining)

    @property
    def names(self) -> set[str]:
        """The names that the present workers were started with."""
        with self._lock:
            return self._queue.names

    def dismiss(self, names: Collection[str]) -> bool:
        """Stop giving tasks to some workers if none of them has a task; return whether this was done."""
        with self._lock:
            return self._queue.dismiss(names)

    def came(self, name: str) -> bool:
        """Return whether a worker with a name has ever arrived."""
        with self._lock:
            return self._queue.came(name)

    def fail(self, error: UserError) -> None:
        """Fail all waiting tasks with an error, because no worker will come."""
        with self._lock:
            self._failed = error
            given_up = self._queue.give_up_waiting()
        for task in given_up:
            task.future.set_exception(error)

    # ----- the scheduler and its workers

    def _set_up_scheduler(self) -> None:
        """Turn off the scheduler's retries, and subscribe to the messages of workers."""
        self._client.run_on_scheduler(_no_retries)
        self._client.subscribe_topic(OVERDUE, lambda event: self._note_overdue(event[1]["task"]))
        self._client.subscribe_topic(LEAVING, lambda event: self._note_leaving(event[1]["worker"]))
        self._client.subscribe_topic(TOLD, lambda event: self._log_once(event[1]["text"]))

    def _log_once(self, text: str) -> None:
        """Log a warning from a worker, only once if several workers send it."""
        if text not in self._logged:
            self._logged.add(text)
            log.warning("%s", text)

    def _note_overdue(self, number: int) -> None:
        with self._lock:
            self._queue.note_overdue(number)

    def _note_leaving(self, address: str) -> None:
        """Note that a worker was told to stop. Other workers run its tasks, even those that it does not hand back."""
        with self._lock:
            if self._queue.excuse(address):
                log.warning("A worker has to stop; its tasks continue on other workers.")

    def _watch(self) -> None:
        """Keep track of the workers, and reconnect if the scheduler disappears, until the cluster is closed."""
        while not self._closed.wait(LOOK / 2):
            try:
                if self._client.status == "running":
                    if self._lost:
                        self._set_up_scheduler()
                        self._lost = 0.0
                        log.warning("The scheduler is back.")
                    self._update_workers()
                    self._end_frozen()
                else:
                    self._await_scheduler()
            except Exception as trouble:  # the scheduler has just disappeared: the next round handles that
                log.debug("no scheduler: %s", trouble)

    def _await_scheduler(self) -> None:
        """Take back all tasks of a scheduler that disappeared, and reconnect; after PATIENCE seconds, give up."""
        if not self._lost:
            self._lost = time.monotonic()
            log.warning("The scheduler is gone; waiting up to %.0f minutes for it.", PATIENCE / 60)
        with self._lock:
            self._queue.scatter()
            given_up = self._queue.give_up_waiting() if time.monotonic() - self._lost > PATIENCE else []
        for task in given_up:
            task.future.set_exception(UserError("the scheduler is gone and did not come back"))
        if self._client.status in ("closed", "failed"):
            self._client = self._connect()

    def _update_workers(self) -> None:
        """Note which workers arrived or left, and send waiting tasks to workers with room."""
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
        """End workers that should have ended themselves, but are suspended or in a call that blocks all threads."""
        if self._limit is None:
            return
        with self._lock:
            frozen = self._queue.frozen(time.monotonic() - self._limit - FROZEN)
        for worker in frozen:
            if self._end is not None:
                self._end(worker.name)
            else:
                self._client.run_on_scheduler(_forget, address=worker.address)

    # ----- sending tasks and receiving results

    def _fill(self) -> None:
        """Send waiting tasks to workers with room. The caller holds the lock."""
        if self._lost:
            return
        for task, worker in self._queue.assign(time.monotonic()):
            handle = self._call(worker, f"{task.name}-{task.number}", task.call, task.number, self._limit)
            # Dask drops a call if nobody holds its future. So `task.handle` holds the future while the task runs.
            task.handle = handle
            handle.add_done_callback(functools.partial(self._ended, task, worker))

    def _make_ready(self, worker: Worker) -> None:
        """Have a worker load what its trials will need. An error there is ignored, as the trials report it again."""
        if self._preparation is not None:
            worker.preparation = self._call(worker, "preparation", self._preparation, 0, None)

    def _call(self, worker: Worker, name: str, *arguments: Any) -> distributed.Future:
        return self._client.submit(
            carry_out,
            *arguments,
            # Dask runs two calls with the same key only once, but a task may be sent several times.
            key=f"{name.replace(' ', '-')}-{time.monotonic_ns()}",
            workers=[worker.address],
            pure=False,
            retries=0,
        )

    def _ended(self, task: Task, worker: Worker, handle: distributed.Future) -> None:
        """Pass a result on, or queue the task for another worker. Dask calls this in a separate thread."""
        result, error, result_lost = None, None, False
        try:
            result = handle.result(timeout=FETCH)
        except BaseException as raised:
            # Either the task failed, or its result is lost because the worker died or the scheduler disappeared.
            error, result_lost = raised, handle.status != "error"
        with self._lock:
            if task.handle is not handle:  # the task was taken back or given up meanwhile
                return
            if isinstance(error, CancelledError):  # the scheduler disappeared: `_await_scheduler` takes all tasks back
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
        # Release the lock first, because the future's callbacks run now, in this thread.
        if not again and error is None:
            task.future.set_result(result)
        elif not again:
            task.future.set_exception(error)
        with self._lock:
            self._fill()


def pickled(call: Callable[[], object]) -> bytes:
    """Return a pickled call, to be sent to another process; raise UserError if it cannot be pickled."""
    try:
        return cast(bytes, cloudpickle.dumps(call))
    except Exception as error:
        raise UserError(f"worker processes need an objective that can be pickled: {error}") from None


def _no_retries(dask_scheduler: Scheduler) -> None:
    dask_scheduler.allowed_failures = 0


async def _forget(dask_scheduler: Scheduler, address: str) -> None:
    await dask_scheduler.remove_worker(address, stimulus_id="frozen")
