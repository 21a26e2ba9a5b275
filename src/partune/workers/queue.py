"""What waits for workers: tasks, and who has room for them. Knows nothing of Dask."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import distributed

STRIKES = 3


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
