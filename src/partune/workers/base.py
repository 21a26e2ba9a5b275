"""Where trials run: workers with the face of `concurrent.futures.Executor`, one future per trial."""

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

    Attributes:
        remote: Whether tasks run in other processes. What is submitted is pickled then, and an objective stays there.
    """

    remote: ClassVar[bool] = False

    @property
    @abstractmethod
    def count(self) -> int:
        """How many workers there are at this moment; a cluster's number may change, and be 0."""

    def clock(self) -> float:
        """Return the seconds of the clock that times tasks; only differences mean something, and they are >= 0."""
        return time.monotonic()

    def prepare(self, load: Callable[[], object]) -> None:
        """Have each worker call a function when it comes that loads what trials need; by default do nothing."""

    def hold(self, slots: int) -> None:
        """Set how many trials a worker holds at once, before the first is submitted."""

    def remain(self, trials: int) -> None:
        """Set how many trials a search has still to finish, so that no more workers are kept than these need."""

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Wait for the first of some futures to end; return those that have: none where the workers' number changed."""
        return wait(futures, return_when=FIRST_COMPLETED).done

    def interrupt(self, objective: Any) -> None:
        """Make what other processes evaluate end soon."""


class Meter:
    """The seconds of all workers: for how long each has been there, whether it had something to do or not.

    The number of workers may change between two looks; the time between them is counted with the number at the second.

    Args:
        workers: Whose seconds are counted, from now on.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._since = workers.clock()
        self._seconds = 0.0

    def look(self) -> None:
        """Add the seconds since the last look."""
        now = self._workers.clock()
        self._seconds += self._workers.count * (now - self._since)
        self._since = now

    def take(self) -> float:
        """Return the seconds since they were last taken, or since the beginning."""
        self.look()
        taken, self._seconds = self._seconds, 0.0
        return taken


class Inline(Workers):
    """Runs each task at once in the caller's thread, so that an interrupt breaks off the task itself."""

    count = 1

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Make a call at once, and return a future that has ended."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Threads(ThreadPoolExecutor, Workers):
    """Workers that are threads of this process, for objectives that release the interpreter or wait.

    Args:
        count: How many workers they count as.
        threads: How many threads they share.
    """

    def __init__(self, count: int, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="trial")
        self._count = count

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self._count


def in_process(count: int, threads: int) -> Workers:
    """Return workers of this process: inline if there is one thread.

    Args:
        count: How many workers they count as.
        threads: How many trials run at once.
    """
    return Inline() if threads == 1 else Threads(count, threads)
