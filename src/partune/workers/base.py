"""Define workers, which run trials, with the interface of `concurrent.futures.Executor`: one future per trial."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Any, ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkerLostError(RuntimeError):
    """A task was given up.

    Its worker died while it ran only this task, the task took too long, or the cluster was closed.
    """


class Workers(Executor):
    """Workers that run trials. Each worker runs as many trials at once as the objective has slots.

    Attributes:
        remote: Whether tasks run in other processes. If so, submitted calls are pickled, and each process keeps its
            copy of the objective.
    """

    remote: ClassVar[bool] = False

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of workers at this moment. On a cluster it may change, and be 0."""

    def clock(self) -> float:
        """Return the seconds on a monotonic clock that times tasks. Only differences have a meaning."""
        return time.monotonic()

    def prepare(self, load: Callable[[], object]) -> None:
        """Have each worker call a function that loads what trials need. Do nothing by default."""

    def hold(self, slots: int) -> None:
        """Set the number of trials that a worker runs at once, before the first trial is submitted."""

    def remain(self, trials: int) -> None:
        """Set the number of trials that the search has still to finish, so that no idle workers are kept for it."""

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Wait for a future to be done, and return those that are done. A cluster may return none after a while."""
        return wait(futures, return_when=FIRST_COMPLETED).done

    def interrupt(self, objective: Any) -> None:
        """Make evaluations in other processes stop soon."""


class Meter:
    """A meter of worker-seconds: the time for which each worker existed, busy or idle, summed over the workers.

    If the number of workers changes between two calls of `update`, the number at the second call counts for all the
    time between the calls.

    Args:
        workers: The workers whose seconds are counted, from now on.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._since = workers.clock()
        self._seconds = 0.0

    def update(self) -> None:
        """Add the worker-seconds since the last update."""
        now = self._workers.clock()
        self._seconds += self._workers.count * (now - self._since)
        self._since = now

    @property
    def pending(self) -> float:
        """The worker-seconds since the last call of `take`."""
        self.update()
        return self._seconds

    def take(self) -> float:
        """Return the worker-seconds since the last call, or since the beginning."""
        self.update()
        taken, self._seconds = self._seconds, 0.0
        return taken


class Inline(Workers):
    """A worker that runs each task at once in the caller's thread, so that Ctrl-C interrupts the task itself."""

    count = 1

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Make a call at once, and return a future that is done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Threads(ThreadPoolExecutor, Workers):
    """Workers that are threads of this process, for objectives that release the interpreter lock or wait.

    Args:
        count: The number of workers that the threads count as.
        threads: The number of threads.
    """

    def __init__(self, count: int, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="trial")
        self._count = count

    @property
    def count(self) -> int:
        """The number of workers."""
        return self._count


def in_process(count: int, threads: int) -> Workers:
    """Return workers in this process: `Inline` for one thread, otherwise `Threads`.

    Args:
        count: The number of workers that the threads count as. `Inline` always counts as one.
        threads: The number of trials that run at once.
    """
    return Inline() if threads == 1 else Threads(count, threads)
