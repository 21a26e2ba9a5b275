"""Where trials run: anything with the face of `concurrent.futures.Executor`, one future a trial."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Inline(Executor):
    """Runs each task at once in the caller's thread, so that an interrupt breaks off the task itself."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def in_process(workers: int) -> Executor:
    """One worker runs inline, several as threads (for objectives that release the interpreter or wait)."""
    return Inline() if workers == 1 else ThreadPoolExecutor(workers, thread_name_prefix="trial")
