"""Write the tables and pictures of `partune bench scaling`: makespan, utilisation and regret of simulated studies.

busy             seconds in which workers evaluate, summed over all workers
driver           seconds in which the driver computes (the process that runs the optimiser and the study's loop)
makespan         seconds from the first proposal until the optimiser has been told the last result
utilisation      busy / (workers x makespan)
tail             the part of the makespan after the last trial has begun
until the tail   the utilisation before the tail
speed-up         busy / makespan; 8 means 8 times as fast as one worker whose driver takes no time
sustained        trials / driver, the trials per second that the driver could handle if it never had to wait
regret           the optimum minus the best score among the trials that have ended
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
        algorithm: The name of the algorithm.
        mode: The kind of loop: "async" begins a trial whenever one ends, "sync" begins a batch once all have ended.
        cv: The coefficient of variation of the lengths of trials.
        workers: The number of workers.
        seed: The seed of the study and of the lengths.
    """

    algorithm: str
    mode: Mode
    cv: float
    workers: int
    seed: int


@dataclass(frozen=True)
class WorkerSpan:
    """The time that a worker spent on one trial, in seconds on the virtual clock.

    Attributes:
        worker: The number of the worker.
        begin: The time when the trial began.
        end: The time when the trial ended.
        lost: Whether the trial failed at `end` because its worker was lost then.
    """

    worker: int
    begin: float
    end: float
    lost: bool = False


@dataclass(frozen=True)
class SimulatedStudy:
    """A simulated study that has ended.

    Attributes:
        case: The case that was simulated.
        tasks: The time that workers spent on each trial.
        regrets: The optimum minus the score of each trial, in the order of `tasks`; infinite for a failed trial.
        driver: The seconds in which the driver computed.
        makespan: The duration of the study, in seconds on the virtual clock.
    """

    case: Case
    tasks: Sequence[WorkerSpan]
    regrets: Sequence[float]
    driver: float
    makespan: float

    @cached_property
    def busy(self) -> float:
        """The seconds in which workers evaluated, summed over all workers."""
        return math.fsum(task.end - task.begin for task in self.tasks)

    @property
    def speedup(self) -> float:
        """The speed of the study, as a multiple of the speed of one worker whose driver takes no time."""
        return self.busy / self.makespan

    @property
    def utilisation(self) -> float:
        """The share of the time of all workers in which they evaluated."""
        return self.speedup / self.case.workers

    @property
    def ideal(self) -> float:
        """The utilisation that the same trials would reach with a driver that takes no time."""
        seconds = [task.end - task.begin for task in self.tasks]
        shortest = greedy if self.case.mode == "async" else batched
        return self.busy / (self.case.workers * shortest(seconds, self.case.workers))

    @property
    def before_tail(self) -> float:
        """The utilisation until the last trial began; nan if the last trial began at time 0."""
        last = max(task.begin for task in self.tasks)
        busy = math.fsum(min(task.end, last) - task.begin for task in self.tasks)
        return busy / (self.case.workers * last) if last > 0 else math.nan

    @property
    def driver_share(self) -> float:
        """The share of the makespan in which the driver computed."""
        return self.driver / self.makespan

    @property
    def sustained(self) -> float:
        """The number of trials per second that the driver could handle if it never had to wait."""
        return len(self.tasks) / self.driver if self.driver > 0 else math.inf

    @property
    def lost(self) -> int:
        """The number of times that a worker was lost."""
        return sum(task.lost for task in self.tasks)

    @cached_property
    def course(self) -> list[tuple[float, float]]:
        """The smallest regret so far over time, as a pair (seconds, regret) for each improvement."""
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
    """Return the makespan if each trial, in order, begins on the worker that is free first.

    Args:
        seconds: The lengths of the trials, in order.
        workers: The number of workers.
    """
    free = [0.0] * workers
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def batched(seconds: Sequence[float], workers: int) -> float:
    """Return the makespan if trials run in batches of one per worker, and each batch waits for the one before.

    Args:
        seconds: The lengths of the trials, in order.
        workers: The number of workers.
    """
    return math.fsum(max(seconds[i : i + workers]) for i in range(0, len(seconds), workers))


# ----- writing


def write(folder: Path, head: Sequence[str], runs: Sequence[SimulatedStudy]) -> None:
    """Write table.md and table.csv (one row per case, with means over seeds), regrets.csv, and a picture per algorithm.

    Args:
        folder: The folder to write to.
        head: The lines of text above the table.
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
    """Yield the rows of the table, one per case, with means over seeds."""
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
    """Yield the studies in groups. The studies of a group differ only in their seeds."""
    for case in dict.fromkeys(run.case._replace(seed=0) for run in runs):
        yield [run for run in runs if run.case._replace(seed=0) == case]


def _mean(runs: Sequence[SimulatedStudy], value: Callable[[SimulatedStudy], float]) -> float:
    return fmean(map(value, runs))


# ----- the picture


def figure(runs: Sequence[SimulatedStudy], title: str) -> str:
    """Return an SVG picture of an algorithm: speed-up and utilisation by number of workers, and regret over time.

    Each colour is a coefficient of variation, and dashed lines are the synchronous loop. The panel of the regret shows
    only the studies with the largest number of workers, as means over seeds.

    Args:
        runs: The studies of the algorithm.
        title: The title of the picture.
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
    return picture(title, "solid lines: asynchronous; dashed: synchronous; grey: ideal", panels, legend)


def steps(runs: Sequence[SimulatedStudy]) -> list[tuple[float, float]]:
    """Return the mean regret of some studies over time, as the corners of a staircase.

    The staircase begins when every study has a score. It is empty if a study never has one.
    """
    if not all(run.course for run in runs):
        return []
    # Begin when the last study gets its first score. Before, the mean would jump at every first score.
    begin = max(run.course[0][0] for run in runs)
    end = fmean(run.makespan for run in runs)
    times = sorted({begin, *(second for run in runs for second, _ in run.course if begin < second < end)})
    corners: list[tuple[float, float]] = []
    for second in times:
        regret = fmean(min(value for at, value in run.course if at <= second) for run in runs)
        corners += [(second, corners[-1][1]), (second, regret)] if corners else [(second, regret)]
    return [*corners, (end, corners[-1][1])]
