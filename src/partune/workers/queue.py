"""Which task waits, which worker runs it, and what becomes of a task whose worker died. Knows nothing of Dask.

What a worker was running when it died is run again *alone*, on a worker with nothing else; only a task that dies alone
counts a strike, and after STRIKES of them it is given up (`WorkerLostError`): a poison pill takes neither the cluster
nor its neighbours down. A task beyond its time limit takes its worker along, since no thread can be stopped from
outside; alone, once is enough.

The queue has no thread, lock or clock of its own: whoever uses it holds a lock, and says what time it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from partune.workers.base import WorkerLostError

STRIKES = 3  # deaths of a worker that ran a task alone, after which the task is given up
TRANSIT = 5.0  # seconds after which a task that a dead worker was sent counts as never arrived

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Task:
    """Something to do: until its future is done it waits, or is on a worker.

    Attributes:
        name: What messages call it.
        call: What to do, pickled.
        future: Ends with the result.
        number: Its place in the order of submission.
        alone: Whether it is run on a worker with nothing else.
        strikes: How many workers died while it ran there alone.
        handle: What the cluster holds of the call while it runs; a task that was taken back has none.
        since: When it was assigned to its worker, in seconds of the caller's clock.
    """

    name: str
    call: bytes
    future: Future[Any]
    number: int
    alone: bool = False
    strikes: int = 0
    handle: object | None = field(default=None, repr=False)
    since: float = 0.0


@dataclass(eq=False)
class Worker:
    """A worker and the tasks that it holds.

    Attributes:
        address: Where it is, unique among the workers.
        threads: How many tasks it can hold.
        name: What it was started with.
        leaving: Whether it takes no more tasks.
        excused: Whether it was told to go: tasks that it takes along are under no suspicion.
        tasks: The tasks that it holds.
        preparation: What the cluster holds of the call that makes it ready.
    """

    address: str
    threads: int
    name: str = ""
    leaving: bool = False
    excused: bool = False
    tasks: set[Task] = field(default_factory=set)
    preparation: object | None = field(default=None, repr=False)

    @property
    def open(self) -> bool:
        """Whether it may be sent tasks, where it has room."""
        return not self.leaving and not any(task.alone for task in self.tasks)

    def take_back(self) -> list[Task]:
        """Return all its tasks, as if they had never been assigned; what becomes of them there does not count."""
        tasks = sorted(self.tasks, key=lambda task: task.number)
        self.tasks.clear()
        for task in tasks:
            task.handle = None
        return tasks


class Queue:
    """The tasks of a cluster and its workers.

    Args:
        limit: Seconds that a task may take, as a message names them; None for any number.

    Attributes:
        slots: How many tasks a worker holds at once, if it has the threads.
        workers: The workers by address.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.slots = 1
        self.workers: dict[str, Worker] = {}
        self._limit = limit
        self._waiting: list[Task] = []
        self._submitted = 0
        self._names: set[str] = set()  # of the workers that ever came
        self._overdue: set[int] = set()  # numbers of the tasks that ran beyond the time limit
        self._gone: list[tuple[float, Worker]] = []  # with tasks whose fate is not known yet, and when they went

    # ----- what is there

    @property
    def names(self) -> set[str]:
        """The workers that are there, by the names that they were started with."""
        return {worker.name for worker in self.workers.values()}

    def need(self, remaining: int) -> int:
        """Return how many workers can be kept busy.

        Args:
            remaining: How many trials the search has still to finish; more tasks may be submitted already.
        """
        tasks = [*self._waiting, *(task for worker in self.workers.values() for task in worker.tasks)]
        alone = sum(task.alone for task in tasks)
        return alone + math.ceil((max(remaining, len(tasks)) - alone) / self.slots)

    def came(self, name: str) -> bool:
        """Return whether a worker of this name ever was there."""
        return name in self._names

    # ----- tasks wait, are assigned, and end

    def submit(self, name: str, call: bytes, future: Future[Any]) -> Task:
        """Append a task to those that wait.

        Args:
            name: What messages call it.
            call: What to do, pickled.
            future: Ends with the result.
        """
        self._submitted += 1
        task = Task(name, call, future, self._submitted)
        self._waiting.append(task)
        return task

    def assign(self, now: float) -> list[tuple[Task, Worker]]:
        """Assign waiting tasks to workers that have room, to the emptiest worker first.

        Args:
            now: The time.

        Returns:
            The tasks that are to be sent now, each with its worker.
        """
        free = [worker for worker in self.workers.values() if worker.open]
        assigned, left = [], []
        for task in sorted(self._waiting, key=lambda task: (not task.alone, task.number)):
            free = [worker for worker in free if len(worker.tasks) < min(self.slots, worker.threads)]
            worker = min(free, key=lambda worker: len(worker.tasks), default=None)
            # A task that is to run alone reserves the emptiest worker: that takes no more, and is empty in the end.
            if worker is not None and task.alone:
                free.remove(worker)
            if worker is None or (task.alone and worker.tasks):
                left.append(task)
            else:
                worker.tasks.add(task)
                task.since = now
                assigned.append((task, worker))
        self._waiting = left
        return assigned

    def end(self, task: Task, worker: Worker) -> None:
        """Take a task off its worker, as its result is known.

        Args:
            task: On the worker.
            worker: Where it ran.
        """
        task.handle = None
        worker.tasks.discard(task)

    def repeat(self, task: Task, worker: Worker) -> None:
        """Let a task wait again that lost its result, or that its worker handed back.

        Args:
            task: On the worker.
            worker: Where it ran.
        """
        self.end(task, worker)
        self._waiting.append(task)

    def hand_back(self, task: Task, worker: Worker) -> None:
        """Let a task wait again whose worker has to go; the worker takes no more.

        Args:
            task: On the worker.
            worker: Where it ran.
        """
        worker.leaving = True
        self.repeat(task, worker)

    def die(self, task: Task, worker: Worker, now: float) -> WorkerLostError | None:
        """Judge a task whose worker died while it ran: it runs once more, or is given up.

        Args:
            task: On the worker.
            worker: Which died.
            now: The time.

        Returns:
            The error of a task that is given up; None for one that waits again.
        """
        self.end(task, worker)
        if self.workers.pop(worker.address, None) is not None:
            self._gone.append((now, worker))  # whether its other tasks died with it will be said in a moment
        error = None if worker.excused else self._strike(task)
        if error is None:
            self._waiting.append(task)
        return error

    def _strike(self, task: Task) -> WorkerLostError | None:
        """Return the error of a task that is given up; None for one that runs again, alone."""
        overdue = task.number in self._overdue
        # With one slot a task has no neighbours: it was alone from the start, and its worker's death is its own doing.
        if alone := task.alone or self.slots == 1:
            task.strikes += 1
        if alone and overdue:
            return WorkerLostError(f"no result within {self._limit:g} s, the time limit")
        if task.strikes >= STRIKES:
            return WorkerLostError(f"its worker died {STRIKES} times while it ran alone (killed, or out of memory?)")
        why = "left: over the time limit" if overdue else "died"
        log.warning("The worker of %s %s; it runs once more%s.", task.name, why, "" if alone else ", alone")
        task.alone = True
        return None

    # ----- workers come and go

    def join(self, address: str, threads: int, name: str) -> Worker:
        """Take a worker in.

        Args:
            address: Where it is.
            threads: How many tasks it can hold.
            name: What it was started with.
        """
        worker = self.workers[address] = Worker(address, threads, name)
        self._names.add(name)
        return worker

    def lose(self, addresses: Iterable[str], now: float) -> None:
        """Take note of workers that have gone.

        What they were running will be reported as dead. What was only on its way to them nobody reports: after TRANSIT
        seconds it waits again, without a strike.

        Args:
            addresses: Of the workers.
            now: The time.
        """
        self._gone += [(now, self.workers.pop(address)) for address in addresses]
        for when, worker in [entry for entry in self._gone if now - entry[0] > TRANSIT]:
            self._gone.remove((when, worker))
            self._waiting += worker.take_back()

    def excuse(self, address: str) -> bool:
        """Take note that a worker was told to go; return whether that is news."""
        worker = self.workers.get(address)
        if worker is None or worker.excused:
            return False
        worker.leaving = worker.excused = True
        return True

    def dismiss(self, names: Collection[str]) -> bool:
        """Give some workers no more tasks, if none of them has any; return whether that is so."""
        workers = [worker for worker in self.workers.values() if worker.name in names]
        if any(worker.tasks for worker in workers):
            return False
        for worker in workers:
            worker.leaving = True
        return True

    def note_overdue(self, number: int) -> None:
        """Take note that the task of a number ran beyond the time limit."""
        self._overdue.add(number)

    def frozen(self, latest: float) -> list[Worker]:
        """Return the workers that hold a task since before a time, and take note that these tasks are overdue."""
        frozen = []
        for worker in self.workers.values():
            late = {task.number for task in worker.tasks if task.since < latest}
            self._overdue |= late
            if late:
                frozen.append(worker)
        return frozen

    # ----- all at once

    def scatter(self) -> None:
        """Forget all workers; what they held waits again."""
        self._waiting += self._taken_back()
        self.workers.clear()

    def give_up_waiting(self) -> list[Task]:
        """Return the tasks that wait, and forget them."""
        given_up, self._waiting = self._waiting, []
        return given_up

    def give_up(self) -> list[Task]:
        """Return all tasks, and forget them; the workers stay, with room."""
        return self.give_up_waiting() + self._taken_back()

    def _taken_back(self) -> list[Task]:
        workers = [*self.workers.values(), *(worker for _, worker in self._gone)]
        self._gone.clear()
        return [task for worker in workers for task in worker.take_back()]
