"""The tables and pictures of `partune bench scaling`: makespan, utilisation and regret of simulated studies.

busy          seconds in which workers evaluate, summed over them
driver        seconds in which the driver computes
makespan      seconds from the first ask until the last trial is told
utilisation   busy / (workers x makespan)
tail          the rest of the makespan once the last trial has begun
speed-up      busy / makespan: over one worker whose driver takes no time
sustained     trials / driver: trials per second that the driver could begin and tell if it never had to wait
regret        optimum less the best score among the trials that have ended
"""

from __future__ import annotations

import csv
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from partune.bench.meter import number
from partune.report.svg.panels import Curve, Panel, picture
from partune.runtime import markdown

Mode = Literal["async", "sync"]
HEADS = (
    *("algorithm", "loop", "CV", "workers", "speed-up", "utilisation", "ideal", "until the tail"),
    *("makespan, s", "driver busy", "sustained, trials/s", "lost", "regret"),
)
COLOURS = ("#1f4e79", "#c55a11", "#548235", "#7f6000", "#7030a0")


class Case(NamedTuple):
    """A study to simulate.

    Attributes:
        algorithm: Its algorithm.
        mode: Its loop, "async" or "sync".
        cv: The coefficient of variation of its trials' lengths.
        workers: The number of workers.
        seed: The seed.
    """

    algorithm: str
    mode: Mode
    cv: float
    workers: int
    seed: int


@dataclass(frozen=True)
class WorkerSpan:
    """What a worker did: the time of one trial.

    Attributes:
        worker: The worker's number.
        begin: When the trial began, on the virtual clock.
        end: When it ended.
        lost: Whether the worker was lost at the end.
    """

    worker: int
    begin: float
    end: float
    lost: bool = False


@dataclass(frozen=True)
class SimulatedStudy:
    """A simulated study that has ended.

    Attributes:
        case: What was simulated.
        tasks: What the workers did.
        regrets: The regret of each task's trial by itself; infinite for a failure.
        driver: The seconds in which the driver computed.
        makespan: The seconds of the whole study.
    """

    case: Case
    tasks: Sequence[WorkerSpan]
    regrets: Sequence[float]
    driver: float
    makespan: float

    @cached_property
    def busy(self) -> float:
        """The seconds in which workers evaluated, summed over them."""
        return math.fsum(task.end - task.begin for task in self.tasks)

    @property
    def speedup(self) -> float:
        """How many times as fast it was as one worker whose driver takes no time."""
        return self.busy / self.makespan

    @property
    def utilisation(self) -> float:
        """The share of the workers' time in which they evaluated."""
        return self.speedup / self.case.workers

    @property
    def ideal(self) -> float:
        """The utilisation if every free worker were given a trial at once."""
        seconds = [task.end - task.begin for task in self.tasks]
        shortest = greedy if self.case.mode == "async" else batched
        return self.busy / (self.case.workers * shortest(seconds, self.case.workers))

    @property
    def before_tail(self) -> float:
        """The utilisation until the last trial began; nan if that was at the very start."""
        last = max(task.begin for task in self.tasks)
        busy = math.fsum(min(task.end, last) - task.begin for task in self.tasks)
        return busy / (self.case.workers * last) if last > 0 else math.nan

    @property
    def driver_share(self) -> float:
        """The share of the makespan in which the driver computed."""
        return self.driver / self.makespan

    @property
    def sustained(self) -> float:
        """How many trials per second the driver could begin and tell if it never had to wait."""
        return len(self.tasks) / self.driver if self.driver > 0 else math.inf

    @property
    def lost(self) -> int:
        """How many workers were lost."""
        return sum(task.lost for task in self.tasks)

    @cached_property
    def course(self) -> list[tuple[float, float]]:
        """The regret against the clock: (seconds, regret) at each improvement, regrets falling."""
        corners: list[tuple[float, float]] = []
        best = math.inf
        for task, regret in sorted(zip(self.tasks, self.regrets, strict=True), key=lambda pair: pair[0].end):
            if regret < best:
                best = regret
                corners.append((task.end, regret))
        return corners

    @property
    def regret(self) -> float:
        """The regret at the end; infinite if no trial has a score."""
        return self.course[-1][1] if self.course else math.inf


def greedy(seconds: Sequence[float], workers: int) -> float:
    """Return the makespan if each trial in turn begins on the worker that is free first.

    Args:
        seconds: The trials' lengths, in order.
        workers: The number of workers.
    """
    free = [0.0] * workers
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def batched(seconds: Sequence[float], workers: int) -> float:
    """Return the makespan if a batch, one trial per worker, begins when the batch before it has ended.

    Args:
        seconds: The trials' lengths, in order.
        workers: The number of workers.
    """
    return math.fsum(max(seconds[i : i + workers]) for i in range(0, len(seconds), workers))


# ----- writing


def write(folder: Path, head: Sequence[str], runs: Sequence[SimulatedStudy]) -> None:
    """Write table.md and table.csv (a row per case, means over seeds), regrets.csv, and a picture per algorithm.

    Args:
        folder: Where to.
        head: The lines above the table.
        runs: The simulated studies.
    """
    table = [HEADS, *rows(runs)]
    parts = ["\n".join(f"- {text}" for text in head), markdown.table(table)]
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table)
    with (folder / "regrets.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*Case._fields, "seconds", "regret"])
        writer.writerows([*run.case, *point] for run in runs for point in run.course)
    for name in dict.fromkeys(run.case.algorithm for run in runs):
        of_algorithm = [run for run in runs if run.case.algorithm == name]
        title = f"{name}, {len(of_algorithm[0].tasks)} trials"
        file_name = f"scaling-{''.join(c if c.isalnum() or c in '-.' else '-' for c in name)}.svg"
        (folder / file_name).write_text(figure(of_algorithm, title), encoding="utf-8")


def rows(runs: Sequence[SimulatedStudy]) -> Iterator[list[str]]:
    """Yield the table's rows, one per case, means over seeds."""
    for alike in _alike(runs):
        case = alike[0].case
        yield [
            *(case.algorithm, case.mode, f"{case.cv:g}", str(case.workers)),
            number(_mean(alike, lambda run: run.speedup)),
            f"{_mean(alike, lambda run: run.utilisation):.3f}",
            f"{_mean(alike, lambda run: run.ideal):.3f}",
            f"{_mean(alike, lambda run: run.before_tail):.3f}",
            number(_mean(alike, lambda run: run.makespan)),
            f"{_mean(alike, lambda run: run.driver_share):.2%}",
            number(_mean(alike, lambda run: run.sustained)),
            number(_mean(alike, lambda run: run.lost)),
            number(_mean(alike, lambda run: run.regret)),
        ]


def _alike(runs: Sequence[SimulatedStudy]) -> Iterator[list[SimulatedStudy]]:
    """Yield the studies in groups that differ in their seeds only."""
    for case in dict.fromkeys(run.case._replace(seed=0) for run in runs):
        yield [run for run in runs if run.case._replace(seed=0) == case]


def _mean(runs: Sequence[SimulatedStudy], value: Callable[[SimulatedStudy], float]) -> float:
    return fmean(map(value, runs))


# ----- the picture


def figure(runs: Sequence[SimulatedStudy], title: str) -> str:
    """Return one algorithm's speed-up and utilisation by workers, and its regret against the clock, as SVG.

    Colours are coefficients of variation; broken lines are the synchronous loop. The regret is that of the largest
    number of workers, the mean over seeds.

    Args:
        runs: The algorithm's studies.
        title: The title.
    """
    most = max(run.case.workers for run in runs)
    colours = dict(zip(dict.fromkeys(run.case.cv for run in runs), COLOURS * len(runs), strict=False))

    def lines(value: Callable[[SimulatedStudy], float]) -> list[Curve]:
        by_loop: dict[tuple[float, Mode], list[tuple[float, float]]] = {}
        for alike in _alike(runs):
            case = alike[0].case
            by_loop.setdefault((case.cv, case.mode), []).append((case.workers, _mean(alike, value)))
        return [Curve(sorted(points), colours[cv], mode == "sync") for (cv, mode), points in by_loop.items()]

    largest = [alike for alike in _alike(runs) if alike[0].case.workers == most]
    courses = [Curve(steps(alike), colours[alike[0].case.cv], alike[0].case.mode == "sync") for alike in largest]
    ideal = Curve([(n, n) for n in sorted({run.case.workers for run in runs})], "#bbbbbb")
    panels = [
        Panel("speed-up", "workers", [ideal, *lines(lambda run: run.speedup)], log_x=True, log_y=True),
        Panel("utilisation", "workers", lines(lambda run: run.utilisation), log_x=True, y=(0, 1)),
        Panel(f"regret, {most} workers", "seconds on the virtual clock", courses, log_x=True, log_y=True),
    ]
    legend = [(f"CV {cv:g}", colour) for cv, colour in colours.items()]
    return picture(title, "whole lines: asynchronous; broken: synchronous; grey: ideal", panels, legend)


def steps(runs: Sequence[SimulatedStudy]) -> list[tuple[float, float]]:
    """Return the mean regret of studies against the clock, as a staircase's corners, from when all have a score."""
    if not all(run.course for run in runs):
        return []
    # Before that a mean would be over fewer studies, and fall or rise as the next one joins.
    begin = max(run.course[0][0] for run in runs)
    end = fmean(run.makespan for run in runs)
    times = sorted({begin, *(second for run in runs for second, _ in run.course if begin < second < end)})
    corners: list[tuple[float, float]] = []
    for second in times:
        regret = fmean(min(value for at, value in run.course if at <= second) for run in runs)
        corners += [(second, corners[-1][1]), (second, regret)] if corners else [(second, regret)]
    return [*corners, (end, corners[-1][1])]
