"""`partune bench scaling`: run studies with many simulated workers on a virtual clock.

The optimiser, the study's loop and the record are real; only the workers are simulated. A trial is evaluated at once,
on a synthetic function. Its length on the virtual clock is drawn from a seeded log-normal distribution. The real time
that the driver (optimiser, loop and record) takes between two events is measured and added to the virtual clock, so
that a slow driver keeps workers waiting as it would on a real cluster.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple, ParamSpec, TypeVar

import numpy as np

from partune.bench.meter import machine, versions
from partune.bench.options import Scaling, repeated_by
from partune.bench.scaling.makespans import Case, SimulatedStudy, WorkerSpan, write
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers import optimizer
from partune.runtime.paths import make_folder
from partune.runtime.threads import torch_threads
from partune.study import Study
from partune.workers.base import WorkerLostError, Workers

P = ParamSpec("P")
T = TypeVar("T")

PACKAGES = ("partune", "optuna", "numpy", "scipy")
LENGTH = 141_421  # identifies the random stream of the lengths of trials, which no optimiser uses


class Length(NamedTuple):
    """The length of a trial.

    Attributes:
        seconds: The length in seconds, on the virtual clock.
        lost: Whether the worker is lost when that time is over.
    """

    seconds: float
    lost: bool = False


@dataclass(frozen=True)
class LogNormal:
    """Log-normal lengths of trials; the length of trial n is drawn by `default_rng([seed, n, LENGTH])`.

    Attributes:
        mean: The mean of the lengths, in seconds.
        cv: The coefficient of variation of the lengths, which is their standard deviation over their mean.
        failures: The probability that the worker of a trial is lost, at a time that is uniform over the trial's length.
        seed: The seed.
    """

    mean: float
    cv: float
    failures: float = 0.0
    seed: int = 0

    def __call__(self, n: int) -> Length:
        """Return the length of trial n; the first trial is 0."""
        # The length depends on n alone, so that it is the same for every optimiser, number of workers and loop.
        variance = math.log1p(self.cv**2)  # the variance of the logarithm of a length
        rng = np.random.default_rng([self.seed, n, LENGTH])
        seconds = self.mean * float(np.exp(math.sqrt(variance) * rng.standard_normal() - variance / 2))
        lost = bool(rng.random() < self.failures)
        return Length(seconds * float(rng.random()) if lost else seconds, lost)


class Running(NamedTuple):
    """A task that has not ended yet; tasks are ordered by the time when they end.

    Attributes:
        end: The time when the task ends, on the virtual clock.
        n: The number of the task, which orders tasks that end at the same time.
        future: The future of the task.
        settle: A function that sets the result or the exception of the future.
    """

    end: float
    n: int
    future: Future[Any]
    settle: Callable[[], None]


class Simulated(Workers):
    """Simulated workers on a virtual clock.

    Args:
        count: The number of workers.
        length: A function that returns the length of task n.
        barrier: Whether all running tasks must end before any result is returned, so that the study runs in batches.
        clock: A function that returns the real time in seconds. The driver's time is what passes outside the calls of
            `submit` and `first`.

    Attributes:
        tasks: The time that workers spent on each task, in the order in which the tasks were submitted.
        now: The virtual time in seconds, from 0 on.
        driver: The seconds in which the driver has computed.
    """

    remote: ClassVar[bool] = True  # so that a study treats these workers like worker processes

    def __init__(
        self,
        count: int,
        length: Callable[[int], Length],
        barrier: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._count = count
        self._length = length
        self._barrier = barrier
        self._clock = clock
        self._free = [(0.0, worker) for worker in range(count)]  # a heap: when each worker is free, and its number
        self._running: list[Running] = []  # a heap
        self._resumed = clock()  # the real time up to which the driver has been measured
        self.tasks: list[WorkerSpan] = []
        self.now = 0.0
        self.driver = 0.0

    @property
    def count(self) -> int:
        """The number of workers."""
        return self._count

    def clock(self) -> float:
        """Return the virtual time, in seconds."""
        return self.now

    def hold(self, slots: int) -> None:
        """Begin to measure the driver. The number of trials per worker has no effect here."""
        self._resumed = self._clock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function at once, and return a future that is settled when the task ends on the virtual clock.

        Args:
            fn: The function.
            args: The arguments of the function.
            kwargs: The keyword arguments of the function.
        """
        with self._driver_paused():
            future: Future[T] = Future()
            n = len(self.tasks)
            seconds, lost = self._length(n)
            # If all workers are busy, the task begins when the first of them becomes free.
            free, worker = heapq.heappop(self._free)
            begin = max(self.now, free)
            task = WorkerSpan(worker, begin, begin + seconds, lost)
            settle: Callable[[], None]
            if lost:
                settle = partial(future.set_exception, WorkerLostError("the simulated worker was lost"))
            else:
                # The function runs now, but the optimiser must not see its result before the task ends.
                settle = partial(future.set_result, fn(*args, **kwargs))
            heapq.heappush(self._free, (task.end, worker))
            heapq.heappush(self._running, Running(task.end, n, future, settle))
            self.tasks.append(task)
        return future

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Advance the clock to the next end of a task, and return the futures of all tasks that have ended by then.

        With a barrier, advance the clock to the last end of a task instead.
        """
        with self._driver_paused():
            self.now = max(self.now, (max(self._running) if self._barrier else self._running[0]).end)
            done = set()
            while self._running and self._running[0].end <= self.now:
                ended = heapq.heappop(self._running)
                ended.settle()
                done.add(ended.future)
        return done

    def end(self) -> None:
        """Add the last seconds of the driver to the clock, after the study has ended."""
        self._add_driver_time()

    @contextmanager
    def _driver_paused(self) -> Iterator[None]:
        """Pause the measurement of the driver inside the context, for work that a real driver would not do."""
        self._add_driver_time()
        yield
        self._resumed = self._clock()

    def _add_driver_time(self) -> None:
        """Advance the virtual clock by the real time that has not been measured yet."""
        seconds = self._clock() - self._resumed
        self.now += seconds
        self.driver += seconds

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel all tasks that still run.

        Args:
            wait: Has no effect here.
            cancel_futures: Has no effect here.
        """
        for task in self._running:
            task.future.cancel()
        self._running.clear()


# ----- the benchmark


def bench(options: Scaling, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Simulate a study for each combination of algorithm, loop, CV, workers and seed; write tables and pictures.

    Args:
        options: The algorithms, loops, CVs, numbers of workers and seeds to combine, and how long trials take.
        tell: Called with a line before a study is simulated.

    Returns:
        The folder of the tables and pictures.

    Raises:
        UserError: An option is not valid.
    """
    for name in options.algorithms:
        optimizer(name, SYNTHETIC[options.objective].space)  # raises UserError for an unknown name before anything runs
    out = make_folder(Path(options.out))
    runs = []
    cases = list_cases(options)
    for done, case in enumerate(cases, start=1):
        tell(f"{done} of {len(cases)}: {case.algorithm}, {case.mode}, CV {case.cv:g}, {case.workers} workers")
        runs.append(simulate(case, options))
    write(out, heading(options), runs)
    return out


def list_cases(options: Scaling) -> list[Case]:
    """Return all cases that some options describe, in order."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return list(
        map(Case._make, itertools.product(options.algorithms, options.modes, options.cv, options.workers, seeds))
    )


def simulate(case: Case, options: Scaling) -> SimulatedStudy:
    """Run one study, in which only the workers are simulated.

    Args:
        case: The case to simulate.
        options: The options of the benchmark. If they ask for a record on disk, it is written to a temporary folder in
            `options.out`.
    """
    length = LogNormal(options.seconds, case.cv, options.failures, case.seed)
    workers = Simulated(case.workers, length, barrier=case.mode == "sync")
    function = SYNTHETIC[options.objective]
    with torch_threads(1), TemporaryDirectory(dir=options.out) as folder:
        directory = Path(folder) / "study" if options.record == "disk" else None
        study = Study(function.space, function, case.algorithm, case.seed, directory, workers=workers)
        study.run(options.trials)
        workers.end()
        study.close()
    regrets = [function.optimum - trial.score for trial in study.trials]
    return SimulatedStudy(case, workers.tasks, regrets, workers.driver, workers.now)


def heading(options: Scaling) -> list[str]:
    """Return the lines of text above the table: command, machine, versions, and a description of the studies."""
    import torch

    return [
        f"command: `{repeated_by('scaling', options)}`",
        f"machine: {machine(torch.device('cpu'), 1)}",
        f"versions: {versions(PACKAGES)}",
        f"studies: {options.trials} trials of {options.seconds:g} s on average on {options.objective}, "
        f"each lost with a probability of {options.failures:.0%}, "
        f"the record {'on disk' if options.record == 'disk' else 'in memory'}; "
        f"means of {options.seeds} seed{'s' * (options.seeds > 1)}",
    ]
