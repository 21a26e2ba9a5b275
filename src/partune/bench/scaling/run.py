"""`partune bench scaling`: studies of many workers, whose evaluations take their time on a virtual clock only.

Optimiser, study loop and record are the real ones; only the workers are not. A trial is evaluated at once, on a
synthetic function, and takes as long on the virtual clock as a seeded log-normal variable says. What the driver takes
between two events (optimiser, loop, record) is measured and added to that clock, so that a slow driver lets workers
wait here as it would anywhere else.
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
from partune.bench.scaling.makespans import Case, Run, Task, write
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers import optimizer
from partune.runtime.paths import make_folder
from partune.runtime.threads import torch_threads
from partune.study import Study
from partune.workers.base import WorkerLostError, Workers

P = ParamSpec("P")
T = TypeVar("T")

PACKAGES = ("partune", "optuna", "numpy", "scipy")
LENGTH = 141_421  # the stream that a trial's length is drawn from, no optimiser's


class Length(NamedTuple):
    """How long a trial takes, in seconds, and whether its worker is lost at the end of that."""

    seconds: float
    lost: bool = False


@dataclass(frozen=True)
class LogNormal:
    """Lengths of a mean and a coefficient of variation (standard deviation over mean), by `default_rng([seed, n])`.

    With probability `failures` a trial's worker is lost, at a moment that is uniform over the trial's length.
    """

    mean: float
    cv: float
    failures: float = 0.0
    seed: int = 0

    def __call__(self, n: int) -> Length:
        """Of trial n = 0, 1, ...: the same under every optimiser, number of workers and loop."""
        variance = math.log1p(self.cv**2)  # of the logarithm
        rng = np.random.default_rng([self.seed, n, LENGTH])
        seconds = self.mean * float(np.exp(math.sqrt(variance) * rng.standard_normal() - variance / 2))
        lost = bool(rng.random() < self.failures)
        return Length(seconds * float(rng.random()) if lost else seconds, lost)


class Running(NamedTuple):
    """A task that has begun, ordered by its end; `settle` lets its future know what became of it."""

    end: float
    n: int
    future: Future[Any]
    settle: Callable[[], None]


class Simulated(Workers):
    """Workers on a virtual clock, in seconds since `hold`.

    length: of the n-th task handed in.
    barrier: whether nothing is answered before all that runs has ended, so that the study begins whole batches.
    clock: what the driver's own seconds are measured by; those within `submit` and `first` are not the driver's.
    """

    remote: ClassVar[bool] = True

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
        self.tasks: list[Task] = []
        self.now = 0.0
        self.driver = 0.0

    @property
    def count(self) -> int:
        return self._count

    def clock(self) -> float:
        return self.now

    def hold(self, slots: int) -> None:
        self._left = self._clock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._standing():
            future: Future[T] = Future()
            n = len(self.tasks)
            seconds, lost = self._length(n)
            free, worker = heapq.heappop(self._free)
            begin = max(self.now, free)
            task = Task(worker, begin, begin + seconds, lost)
            settle: Callable[[], None]
            if lost:
                settle = partial(future.set_exception, WorkerLostError("the simulated worker was lost"))
            else:
                settle = partial(future.set_result, fn(*args, **kwargs))
            heapq.heappush(self._free, (task.end, worker))
            heapq.heappush(self._running, Running(task.end, n, future, settle))
            self.tasks.append(task)
        return future

    def first(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        with self._standing():
            self.now = max(self.now, (max(self._running) if self._barrier else self._running[0]).end)
            done = set()
            while self._running and self._running[0].end <= self.now:
                ended = heapq.heappop(self._running)
                ended.settle()
                done.add(ended.future)
        return done

    def end(self) -> None:
        """Told that the study is over, so that the driver's last seconds count too."""
        self._pass()

    @contextmanager
    def _standing(self) -> Iterator[None]:
        """The clock stands within: what is done there would be done elsewhere."""
        self._pass()
        yield
        self._left = self._clock()

    def _pass(self) -> None:
        """The clock goes on by what the driver took since it was last left to itself."""
        took = self._clock() - self._left
        self.now += took
        self.driver += took

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for each in self._running:
            each.future.cancel()
        self._running.clear()


# ----- the benchmark


def bench(options: Scaling, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Simulates every case and writes tables and pictures; returns their folder. Raises UserError.

    tell: is told what runs, a line each.
    """
    for name in options.algorithms:
        optimizer(name, SYNTHETIC[options.objective].space)  # raises where there is none
    out = make_folder(Path(options.out))
    runs = []
    cases = list_cases(options)
    for done, case in enumerate(cases, start=1):
        tell(f"{done} of {len(cases)}: {case.algorithm}, {case.mode}, CV {case.cv:g}, {case.workers} workers")
        runs.append(simulate(case, options))
    write(out, heading(options), runs)
    return out


def list_cases(options: Scaling) -> list[Case]:
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return list(
        map(Case._make, itertools.product(options.algorithms, options.modes, options.cv, options.workers, seeds))
    )


def simulate(case: Case, options: Scaling) -> Run:
    """One study: real but for its workers. Its record is in a folder of `options.out` for as long as it runs."""
    length = LogNormal(options.seconds, case.cv, options.failures, case.seed)
    workers = Simulated(case.workers, length, barrier=case.mode == "sync")
    function = SYNTHETIC[options.objective]
    with torch_threads(1), TemporaryDirectory(dir=options.out) as folder:
        where = Path(folder) / "study" if options.record == "disk" else None
        study = Study(function.space, function, case.algorithm, case.seed, where, workers=workers)
        study.run(options.trials)
        workers.end()
        study.close()
    regrets = [function.optimum - trial.score for trial in study.trials]
    return Run(case, workers.tasks, regrets, workers.driver, workers.now)


def heading(options: Scaling) -> list[str]:
    """What stands above the table: command, machine, versions, and what the numbers are."""
    import torch

    return [
        f"command: `{repeated_by('scaling', options)}`",
        f"machine: {machine(torch.device('cpu'), 1)}",
        f"versions: {versions(PACKAGES)}",
        f"studies: {options.trials} trials of {options.seconds:g} s in the mean on {options.objective}, "
        f"{options.failures:.0%} of them lost, the record {'on disk' if options.record == 'disk' else 'in memory'}; "
        f"means of {options.seeds} seed{'s' * (options.seeds > 1)}",
    ]
