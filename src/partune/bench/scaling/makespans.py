"""What simulated studies come to: makespan, utilisation and regret, as Markdown, CSV and a picture.

busy          seconds in which workers evaluate, summed over them
driver        seconds in which the driver computes
makespan      seconds from the first ask until the last trial is told
utilisation   busy / (workers x makespan)
tail          what is left of the makespan once the last trial has begun
speed-up      busy / makespan: over one worker whose driver takes no time
sustained     trials / driver: trials a second that the driver could begin and tell, had it nothing to wait for
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
    """One simulated study. cv: the coefficient of variation of its trials' lengths."""

    algorithm: str
    mode: Mode
    cv: float
    workers: int
    seed: int


@dataclass(frozen=True)
class Task:
    """What a worker did: a trial's seconds on the virtual clock, and whether the worker was lost at their end."""

    worker: int
    begin: float
    end: float
    lost: bool = False


@dataclass(frozen=True)
class Run:
    """A case when it has ended. regrets: of each task's trial by itself, infinite for a failure."""

    case: Case
    tasks: Sequence[Task]
    regrets: Sequence[float]
    driver: float
    makespan: float

    @cached_property
    def busy(self) -> float:
        return math.fsum(task.end - task.begin for task in self.tasks)

    @property
    def speedup(self) -> float:
        return self.busy / self.makespan

    @property
    def utilisation(self) -> float:
        return self.speedup / self.case.workers

    @property
    def ideal(self) -> float:
        """The utilisation where every free worker is given a trial at once."""
        seconds = [task.end - task.begin for task in self.tasks]
        shortest = greedy if self.case.mode == "async" else batched
        return self.busy / (self.case.workers * shortest(seconds, self.case.workers))

    @property
    def before_tail(self) -> float:
        """The utilisation until the last trial began; nan where no moment lies before that."""
        last = max(task.begin for task in self.tasks)
        busy = math.fsum(min(task.end, last) - task.begin for task in self.tasks)
        return busy / (self.case.workers * last) if last > 0 else math.nan

    @property
    def driver_share(self) -> float:
        return self.driver / self.makespan

    @property
    def sustained(self) -> float:
        return len(self.tasks) / self.driver if self.driver > 0 else math.inf

    @property
    def lost(self) -> int:
        return sum(task.lost for task in self.tasks)

    @cached_property
    def course(self) -> list[tuple[float, float]]:
        """The regret against the clock: (seconds, regret) at each improvement, regrets falling."""
        found: list[tuple[float, float]] = []
        best = math.inf
        for task, regret in sorted(zip(self.tasks, self.regrets, strict=True), key=lambda each: each[0].end):
            if regret < best:
                best = regret
                found.append((task.end, regret))
        return found

    @property
    def regret(self) -> float:
        return self.course[-1][1] if self.course else math.inf


def greedy(seconds: Sequence[float], workers: int) -> float:
    """The makespan where each trial in turn begins on the worker that is free first."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def batched(seconds: Sequence[float], workers: int) -> float:
    """The makespan where a batch of as many as there are workers begins when the one before it has ended."""
    return math.fsum(max(seconds[i : i + workers]) for i in range(0, len(seconds), workers))


# ----- writing


def write(folder: Path, head: Sequence[str], runs: Sequence[Run]) -> None:
    """table.md and table.csv, a row for each case, means over seeds; regrets.csv; a picture for each algorithm."""
    table = [HEADS, *rows(runs)]
    parts = ["\n".join(f"- {text}" for text in head), markdown.table(table)]
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table)
    with (folder / "regrets.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*Case._fields, "seconds", "regret"])
        writer.writerows([*run.case, *each] for run in runs for each in run.course)
    for name in dict.fromkeys(run.case.algorithm for run in runs):
        own = [run for run in runs if run.case.algorithm == name]
        file_name = f"scaling-{''.join(c if c.isalnum() or c in '-.' else '-' for c in name)}.svg"
        (folder / file_name).write_text(figure(own, f"{name}, {len(own[0].tasks)} trials"), encoding="utf-8")


def rows(runs: Sequence[Run]) -> Iterator[list[str]]:
    for own in _alike(runs):
        case = own[0].case
        yield [
            *(case.algorithm, case.mode, f"{case.cv:g}", str(case.workers)),
            number(_mean(own, lambda run: run.speedup)),
            f"{_mean(own, lambda run: run.utilisation):.3f}",
            f"{_mean(own, lambda run: run.ideal):.3f}",
            f"{_mean(own, lambda run: run.before_tail):.3f}",
            number(_mean(own, lambda run: run.makespan)),
            f"{_mean(own, lambda run: run.driver_share):.2%}",
            number(_mean(own, lambda run: run.sustained)),
            number(_mean(own, lambda run: run.lost)),
            number(_mean(own, lambda run: run.regret)),
        ]


def _alike(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """The runs that differ in their seeds only, together."""
    for case in dict.fromkeys(run.case._replace(seed=0) for run in runs):
        yield [run for run in runs if run.case._replace(seed=0) == case]


def _mean(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return fmean(map(value, runs))


# ----- the picture


def figure(runs: Sequence[Run], title: str) -> str:
    """Of one algorithm (SVG): speed-up and utilisation by workers, and the regret against the clock.

    Colours are coefficients of variation; a line that is broken is the synchronous loop. The regret is that of the most
    workers, the mean over seeds.
    """
    most = max(run.case.workers for run in runs)
    colours = dict(zip(dict.fromkeys(run.case.cv for run in runs), COLOURS * len(runs), strict=False))

    def lines(value: Callable[[Run], float]) -> list[Curve]:
        found: dict[tuple[float, Mode], list[tuple[float, float]]] = {}
        for own in _alike(runs):
            case = own[0].case
            found.setdefault((case.cv, case.mode), []).append((case.workers, _mean(own, value)))
        return [Curve(sorted(points), colours[cv], mode == "sync") for (cv, mode), points in found.items()]

    largest = [own for own in _alike(runs) if own[0].case.workers == most]
    courses = [Curve(steps(own), colours[own[0].case.cv], own[0].case.mode == "sync") for own in largest]
    ideal = Curve([(n, n) for n in sorted({run.case.workers for run in runs})], "#bbbbbb")
    panels = [
        Panel("speed-up", "workers", [ideal, *lines(lambda run: run.speedup)], log_x=True, log_y=True),
        Panel("utilisation", "workers", lines(lambda run: run.utilisation), log_x=True, y=(0, 1)),
        Panel(f"regret, {most} workers", "seconds on the virtual clock", courses, log_x=True, log_y=True),
    ]
    legend = [(f"CV {cv:g}", colour) for cv, colour in colours.items()]
    return picture(title, "whole lines: asynchronous; broken: synchronous; grey: ideal", panels, legend)


def steps(runs: Sequence[Run]) -> list[tuple[float, float]]:
    """The mean regret of some runs against the clock, as corners of a staircase, from when all have a score."""
    if not all(run.course for run in runs):
        return []
    begin = max(run.course[0][0] for run in runs)
    end = fmean(run.makespan for run in runs)
    times = sorted({begin, *(second for run in runs for second, _ in run.course if begin < second < end)})
    corners: list[tuple[float, float]] = []
    for second in times:
        regret = fmean(min(each for at, each in run.course if at <= second) for run in runs)
        corners += [(second, corners[-1][1]), (second, regret)] if corners else [(second, regret)]
    return [*corners, (end, corners[-1][1])]
