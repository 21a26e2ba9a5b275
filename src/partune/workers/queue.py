"""Decide which worker runs which task, and what happens to the tasks of a worker that died, independently of Dask.

If a worker dies, each of its tasks is run again *alone*: on a worker that has no other task. A task gets a strike only
if its worker dies while the task runs alone. After STRIKES strikes the task is given up (`WorkerLostError`), so a task
that kills its workers harms neither the cluster nor other tasks. A task that exceeds its time limit ends its worker,
because a thread cannot be stopped from outside. If this happens to a task that runs alone, it is given up at once.

The queue has no thread, lock or clock. Its caller holds a lock and passes the time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from partune.workers.base import WorkerLostError

STRIKES = 3  # workers that may die while they run a task alone, before the task is given up
TRANSIT = 5.0  # seconds after which a task sent to a dead worker counts as never arrived

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Task:
    """A call for a worker to make. Until its future is done, the task waits or is on a worker.

    Attributes:
        name: The name of the task in messages.
        call: The pickled call.
        future: The future that gets the result.
        number: The position of the task in the order of submission.
        alone: Whether the task has to run on a worker that has no other task.
        strikes: The number of workers that died while they ran the task alone.
        handle: The cluster's object for the running call; None for a task that waits or was taken back.
        since: When the task was assigned to its worker, in seconds of the caller's clock.
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
        address: The address of the worker, which no other worker has.
        threads: The number of tasks that the worker can hold.
        name: The name that the worker was started with.
        leaving: Whether the worker takes no more tasks.
        excused: Whether the worker was told to stop, so that its tasks are not suspected of killing it.
        tasks: The tasks that the worker holds.
        preparation: The cluster's object for the call that prepares the worker.
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
        """Whether the worker may be sent tasks if it has room."""
        return not self.leaving and not any(task.alone for task in self.tasks)

    def take_back(self) -> list[Task]:
        """Take all tasks off the worker and return them. Their results there will be ignored."""
        tasks = sorted(self.tasks, key=lambda task: task.number)
        self.tasks.clear()
        for task in tasks:
            task.handle = None
        return tasks


class Queue:
    """The tasks of a cluster and its workers.

    Args:
        limit: The number of seconds that a task may take, for messages only; None for no limit.

    Attributes:
        slots: The number of tasks that a worker with enough threads holds at once.
        workers: The workers by address.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.slots = 1
        self.workers: dict[str, Worker] = {}
        self._limit = limit
        self._waiting: list[Task] = []
        self._submitted = 0
        self._names: set[str] = set()  # the names of all workers that have ever come
        self._overdue: set[int] = set()  # numbers of the tasks that exceeded the time limit
        # The time when each worker left, and the worker, while it is not known whether all of its tasks died with it.
        self._gone: list[tuple[float, Worker]] = []

    # ----- the present state

    @property
    def names(self) -> set[str]:
        """The names that the present workers were started with."""
        return {worker.name for worker in self.workers.values()}

    def need(self, remaining: int) -> int:
        """Return how many workers can be kept busy.

        Args:
            remaining: The number of trials that the search has still to finish. The queue may hold more tasks.
        """
        tasks = [*self._waiting, *(task for worker in self.workers.values() for task in worker.tasks)]
        alone = sum(task.alone for task in tasks)
        return alone + math.ceil((max(remaining, len(tasks)) - alone) / self.slots)

    def came(self, name: str) -> bool:
        """Return whether a worker with a name has ever come."""
        return name in self._names

    # ----- tasks wait, are assigned, and end

    def submit(self, name: str, call: bytes, future: Future[Any]) -> Task:
        """Add a task to the waiting ones.

        Args:
            name: The name of the task in messages.
            call: The pickled call.
            future: The future that gets the result.
        """
        self._submitted += 1
        task = Task(name, call, future, self._submitted)
        self._waiting.append(task)
        return task

    def assign(self, now: float) -> list[tuple[Task, Worker]]:
        """Assign waiting tasks to workers that have room, always to the one with the fewest tasks.

        Args:
            now: The time in seconds.

        Returns:
            The tasks to send now, each with its worker.
        """
        free = [worker for worker in self.workers.values() if worker.open]
        assigned, waiting = [], []
        for task in sorted(self._waiting, key=lambda task: (not task.alone, task.number)):
            free = [worker for worker in free if len(worker.tasks) < min(self.slots, worker.threads)]
            worker = min(free, key=lambda worker: len(worker.tasks), default=None)
            # A task that has to run alone reserves the worker with the fewest tasks: that worker gets no other task.
            if worker is not None and task.alone:
                free.remove(worker)
            if worker is None or (task.alone and worker.tasks):
                waiting.append(task)
            else:
                worker.tasks.add(task)
                task.since = now
                assigned.append((task, worker))
        self._waiting = waiting
        return assigned

    def end(self, task: Task, worker: Worker) -> None:
        """Take a task off its worker because its result is known.

        Args:
            task: The task.
            worker: The worker that ran it.
        """
        task.handle = None
        worker.tasks.discard(task)

    def repeat(self, task: Task, worker: Worker) -> None:
        """Let a task wait again because its result was lost or its worker handed it back.

        Args:
            task: The task.
            worker: The worker that ran it.
        """
        self.end(task, worker)
        self._waiting.append(task)

    def hand_back(self, task: Task, worker: Worker) -> None:
        """Let a task wait again because its worker has to stop. The worker takes no more tasks.

        Args:
            task: The task.
            worker: The worker that ran it.
        """
        worker.leaving = True
        self.repeat(task, worker)

    def die(self, task: Task, worker: Worker, now: float) -> WorkerLostError | None:
        """Handle the death of a worker that ran a task: let the task wait again, or give it up.

        Args:
            task: The task.
            worker: The worker that died.
            now: The time in seconds.

        Returns:
            The error if the task is given up, or None if it waits again.
        """
        self.end(task, worker)
        if self.workers.pop(worker.address, None) is not None:
            self._gone.append((now, worker))  # Dask will soon report whether its other tasks died too
        error = None if worker.excused else self._strike(task)
        if error is None:
            self._waiting.append(task)
        return error

    def _strike(self, task: Task) -> WorkerLostError | None:
        """Count a strike if the task ran alone. Return the error if the task is given up, or None if it runs again."""
        overdue = task.number in self._overdue
        # With one slot every task runs alone, so only the task can have caused the death of its worker.
        if alone := task.alone or self.slots == 1:
            task.strikes += 1
        if alone and overdue:
            return WorkerLostError(f"no result within the time limit of {self._limit:g} s")
        if task.strikes >= STRIKES:
            return WorkerLostError(
                f"its worker died {STRIKES} times while it ran no other task (killed, or out of memory?)"
            )
        why = "was ended at the time limit" if overdue else "died"
        log.warning("The worker of %s %s. The task runs again%s.", task.name, why, "" if alone else ", alone")
        task.alone = True
        return None

    # ----- workers come and go

    def join(self, address: str, threads: int, name: str) -> Worker:
        """Add a worker.

        Args:
            address: The address of the worker.
            threads: The number of tasks that it can hold.
            name: The name that it was started with.
        """
        worker = self.workers[address] = Worker(address, threads, name)
        self._names.add(name)
        return worker

    def lose(self, addresses: Iterable[str], now: float) -> None:
        """Remove workers that have left.

        Dask will report the death of each task that these workers were running. Nobody reports a task that had not
        reached its worker, so such a task waits again after TRANSIT seconds, without a strike.

        Args:
            addresses: The addresses of the workers.
            now: The time in seconds.
        """
        self._gone += [(now, self.workers.pop(address)) for address in addresses]
        for when, worker in [entry for entry in self._gone if now - entry[0] > TRANSIT]:
            self._gone.remove((when, worker))
            self._waiting += worker.take_back()

    def excuse(self, address: str) -> bool:
        """Note that a worker was told to stop; return whether this was not known before."""
        worker = self.workers.get(address)
        if worker is None or worker.excused:
            return False
        worker.leaving = worker.excused = True
        return True

    def dismiss(self, names: Collection[str]) -> bool:
        """Stop giving tasks to some workers if none of them has a task; return whether this was done."""
        workers = [worker for worker in self.workers.values() if worker.name in names]
        if any(worker.tasks for worker in workers):
            return False
        for worker in workers:
            worker.leaving = True
        return True

    def note_overdue(self, number: int) -> None:
        """Note that the task with a number exceeded the time limit."""
        self._overdue.add(number)

    def frozen(self, latest: float) -> list[Worker]:
        """Return the workers with tasks that were assigned before a given time, and note that these are overdue."""
        frozen = []
        for worker in self.workers.values():
            late = {task.number for task in worker.tasks if task.since < latest}
            self._overdue |= late
            if late:
                frozen.append(worker)
        return frozen

    # ----- all tasks at once

    def scatter(self) -> None:
        """Forget all workers, and let their tasks wait again."""
        self._waiting += self._take_back_all()
        self.workers.clear()

    def give_up_waiting(self) -> list[Task]:
        """Remove and return the waiting tasks."""
        given_up, self._waiting = self._waiting, []
        return given_up

    def give_up(self) -> list[Task]:
        """Remove and return all tasks. The workers stay."""
        return self.give_up_waiting() + self._take_back_all()

    def _take_back_all(self) -> list[Task]:
        workers = [*self.workers.values(), *(worker for _, worker in self._gone)]
        self._gone.clear()
        return [task for worker in workers for task in worker.take_back()]
