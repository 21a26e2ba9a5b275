"""`partune bench scaling`: studies with many workers, whose evaluations take time on a virtual clock only.

Optimiser, study loop and record are the real ones; only the workers are simulated. A trial is evaluated at once, on a
synthetic function, and takes as long on the virtual clock as a seeded log-normal variable says. The time that the
driver takes between two events (optimiser, loop, record) is measured and added to that clock, so that a slow driver
keeps workers waiting as it would on a real cluster.
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
LENGTH = 141_421  # the stream that a trial's length is drawn from, which no optimiser uses


class Length(NamedTuple):
    """How long a trial takes.

    Attributes:
        seconds: Its seconds on the virtual clock.
        lost: Whether its worker is lost at the end of them.
    """

    seconds: float
    lost: bool = False


@dataclass(frozen=True)
class LogNormal:
    """Log-normal lengths of trials, drawn by `default_rng([seed, n])`.

    Attributes:
        mean: Their mean, in seconds.
        cv: Their coefficient of variation, the standard deviation over the mean.
        failures: The probability that a trial's worker is lost, at a moment uniform over the trial's length.
        seed: The seed.
    """

    mean: float
    cv: float
    failures: float = 0.0
    seed: int = 0

    def __call__(self, n: int) -> Length:
        """Return the length of trial n, from 0 on."""
        # A function of n alone, so that a trial takes the same under every optimiser, number of workers and loop.
        variance = math.log1p(self.cv**2)  # of the logarithm
        rng = np.random.default_rng([self.seed, n, LENGTH])
        seconds = self.mean * float(np.exp(math.sqrt(variance) * rng.standard_normal() - variance / 2))
        lost = bool(rng.random() < self.failures)
        return Length(seconds * float(rng.random()) if lost else seconds, lost)


class Running(NamedTuple):
    """A task that has begun; tasks are ordered by their ends.

    Attributes:
        end: When it ends, on the virtual clock.
        n: Its number, which decides among tasks that end together.
        future: Its future.
        settle: Gives the future its result or its exception.
    """

    end: float
    n: int
    future: Future[Any]
    settle: Callable[[], None]


class Simulated(Workers):
    """Workers on a virtual clock, in seconds since `hold`.

    Args:
        count: The number of workers.
        length: Called with n, returns how long the n-th task takes.
        barrier: Whether nothing is answered before all that runs has ended, so that the study begins whole batches.
        clock: Measures the driver's own seconds, those within `submit` and `first` excluded.

    Attributes:
        tasks: What the workers did, in the order in which tasks were submitted.
        now: The virtual time.
        driver: The seconds that the driver has taken.
    """

    remote: ClassVar[bool] = True  # a study then treats them as worker processes, which they stand for

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
        self._free = [(0.0, worker) for worker in range(count)]  # when each is free, a heap
        self._running: list[Running] = []  # a heap
        self._left = clock()  # when the driver was last left to itself
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
        """Begin to measure the driver; the number of trials per worker changes nothing here."""
        self._left = self._clock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function at once and return a future that is settled when its virtual time is over.

        Args:
            fn: The function.
            args: Its arguments.
            kwargs: Its keyword arguments.
        """
        with self._standing():
            future: Future[T] = Future()
            n = len(self.tasks)
            seconds, lost = self._length(n)
            # If more is submitted than there are workers, a task begins when the first of them is free.
            free, worker = heapq.heappop(self._free)
            begin = max(self.now, free)
            task = WorkerSpan(worker, begin, begin + seconds, lost)
            settle: Callable[[], None]
            if lost:
                settle = partial(future.set_exception, WorkerLostError("the simulated worker was lost"))
            else:
                # Evaluated now, but told at its end: until then the optimiser must not know.
                settle = partial(future.set_result, fn(*args, **kwargs))
            heapq.heappush(self._free, (task.end, worker))
            heapq.heappush(self._running, Running(task.end, n, future, settle))
            self.tasks.append(task)
        return future

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Advance the clock to the next end of a task, and return the futures that have ended by then."""
        with self._standing():
            self.now = max(self.now, (max(self._running) if self._barrier else self._running[0]).end)
            done = set()
            while self._running and self._running[0].end <= self.now:
                ended = heapq.heappop(self._running)
                ended.settle()
                done.add(ended.future)
        return done

    def end(self) -> None:
        """Add the driver's last seconds, when the study is over."""
        self._pass()

    @contextmanager
    def _standing(self) -> Iterator[None]:
        """Stop the clock inside the context, for what would be done elsewhere."""
        self._pass()
        yield
        self._left = self._clock()

    def _pass(self) -> None:
        """Advance the clock by the seconds since the driver was last left to itself."""
        took = self._clock() - self._left
        self.now += took
        self.driver += took

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel whatever still runs.

        Args:
            wait: Changes nothing here.
            cancel_futures: Changes nothing here.
        """
        for task in self._running:
            task.future.cancel()
        self._running.clear()


# ----- the benchmark


def bench(options: Scaling, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Simulate a study of each algorithm, loop, spread, number of workers and seed, and write tables and pictures.

    Args:
        options: What to combine, and how long trials take.
        tell: Called with a line before a study is simulated.

    Returns:
        The folder of the tables and pictures.

    Raises:
        UserError: An option is not valid.
    """
    for name in options.algorithms:
        optimizer(name, SYNTHETIC[options.objective].space)  # raises before anything runs if there is none
    out = make_folder(Path(options.out))
    runs = []
    cases = list_cases(options)
    for done, case in enumerate(cases, start=1):
        tell(f"{done} of {len(cases)}: {case.algorithm}, {case.mode}, CV {case.cv:g}, {case.workers} workers")
        runs.append(simulate(case, options))
    write(out, heading(options), runs)
    return out


def list_cases(options: Scaling) -> list[Case]:
    """Return all cases of a benchmark, in order."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return list(
        map(Case._make, itertools.product(options.algorithms, options.modes, options.cv, options.workers, seeds))
    )


def simulate(case: Case, options: Scaling) -> SimulatedStudy:
    """Run one study, which is real except for its workers.

    Args:
        case: The case.
        options: What to measure; the study's record is in a folder of `options.out` while it runs.
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
    """Return the lines above the table: command, machine, versions, and what the numbers are."""
    import torch

    return [
        f"command: `{repeated_by('scaling', options)}`",
        f"machine: {machine(torch.device('cpu'), 1)}",
        f"versions: {versions(PACKAGES)}",
        f"studies: {options.trials} trials of {options.seconds:g} s in the mean on {options.objective}, "
        f"{options.failures:.0%} of them lost, the record {'on disk' if options.record == 'disk' else 'in memory'}; "
        f"means of {options.seeds} seed{'s' * (options.seeds > 1)}",
    ]
