"""Where trials run: workers with the face of `concurrent.futures.Executor`, one future a trial."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Any, ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkerLostError(RuntimeError):
    """A task whose worker died again and again while it ran, each time with nothing else to blame."""


class Workers(Executor):
    """Workers that trials are handed to; each holds as many at once as the objective has slots.

    remote: whether tasks run in other processes. What is submitted is pickled then, and an objective stays there.
    """

    remote: ClassVar[bool] = False

    @property
    @abstractmethod
    def count(self) -> int:
        """How many workers there are now; a cluster's number may change, and be 0."""

    def clock(self) -> float:
        """Seconds on the clock that tasks take their time by; only differences mean something, and they are >= 0."""
        return time.monotonic()

    def prepare(self, load: Callable[[], object]) -> None:
        """Told what loads all that trials need: workers make the call when they come, not with their first trial."""

    def hold(self, slots: int) -> None:
        """Told how many trials a worker holds at once, before the first is submitted."""

    def remain(self, trials: int) -> None:
        """Told how many trials a search has still to finish, so that no more workers are kept than these need."""

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Waits for the first of some futures to end; those that have ended, none where the workers' number changed."""
        return wait(futures, return_when=FIRST_COMPLETED).done

    def interrupt(self, objective: Any) -> None:
        """Makes what other processes evaluate end soon."""


class Meter:
    """The seconds of all workers: for how long each has been there, whether it had something to do or not.

    The workers' number may change between two looks; for the time between them it counts as it is at the second.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._since = workers.clock()
        self._seconds = 0.0

    def look(self) -> None:
        now = self._workers.clock()
        self._seconds += self._workers.count * (now - self._since)
        self._since = now

    def take(self) -> float:
        """The seconds since they were last taken, or since the beginning."""
        self.look()
        taken, self._seconds = self._seconds, 0.0
        return taken


class Inline(Workers):
    """Runs each task at once in the caller's thread, so that an interrupt breaks off the task itself."""

    count = 1

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Threads(ThreadPoolExecutor, Workers):
    """Workers that are threads of this process, for objectives that release the interpreter or wait."""

    def __init__(self, count: int, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="trial")
        self._count = count

    @property
    def count(self) -> int:
        return self._count


def in_process(count: int, threads: int) -> Workers:
    """Workers of this process and the threads that they run trials in: inline where there is but one."""
    return Inline() if threads == 1 else Threads(count, threads)
