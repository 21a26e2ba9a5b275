"""Write the table of `partune bench packing` as CSV and as Markdown.

Each contender is one way to run the same trials, such as in packs, or in one process per trial.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from partune.bench.meter import NOTHING, number
from partune.runtime import markdown

if TYPE_CHECKING:
    from partune.bench.meter import Cost
    from partune.bench.packing.contenders import Measurement

PARTS = ("whole", "train", "score")
COSTS = ("line", "trials", "seconds", "set-up", "train", "score", "wall seconds", "tokens/s", "peak MiB")


@dataclass(frozen=True)
class Spread:
    """The median, the smallest and the largest of some numbers."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Return the spread of at least one number."""
        return cls(statistics.median(numbers), min(numbers), max(numbers))


def ratios(baseline: Sequence[float], contender: Sequence[float]) -> Spread:
    """Return the spread over repetitions of the baseline's time divided by the contender's time.

    Args:
        baseline: The seconds of the baseline, one number per repetition.
        contender: The seconds of the contender, one number per repetition.

    Raises:
        ValueError: The numbers of repetitions differ.
    """
    return Spread.of([theirs / mine for theirs, mine in zip(baseline, contender, strict=True)])


@dataclass
class Line:
    """The measurements of a contender.

    Attributes:
        name: The name of the contender.
        baseline: Whether the contenders in the lines below are compared with this one.
        runs: The measurements, one per repetition.
        note: The reason why the contender has no measurements; empty if it has some.
        detail: How the contender was set up, such as its batch sizes.
    """

    name: str
    baseline: bool = False
    runs: list[Measurement] = field(default_factory=list)
    note: str = ""
    detail: str = ""

    @property
    def title(self) -> str:
        """The name, followed by the detail and the note."""
        more = ", ".join(filter(None, (self.detail, self.note)))
        return f"{self.name}: {more}" if more else self.name


@dataclass
class Row:
    """The numbers in a line of the table: medians over repetitions, except for the peak.

    Attributes:
        name: The name of the contender.
        title: The name, followed by the detail and the note.
        trials: The number of trials in a repetition.
        seconds: Maps each part of a trial ("whole", "train", "score" or "setup") to its seconds per trial: CPU time on
            a CPU, and wall time on any other device.
        wall: The wall time per trial, in seconds.
        tokens: The number of training tokens per second of training.
        peak: The peak memory over all repetitions, in bytes.
        ratios: The key is a pair: the name of a baseline and a part. The value is the time that the baseline took for
            the part, divided by the time that this contender took.
    """

    name: str
    title: str
    trials: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    wall: float = math.nan
    tokens: float = math.nan
    peak: float = math.nan
    ratios: dict[tuple[str, str], Spread] = field(default_factory=dict)


def rows(lines: Iterable[Line], device: str) -> list[Row]:
    """Return the rows of the measurements so far.

    Args:
        lines: The contenders, in order; each is compared with the baselines before it.
        device: The type of the device, which decides between CPU time and wall time (`Cost.on`).
    """
    table: list[Row] = []
    baselines: list[Line] = []
    for line in lines:
        table.append(_row(line, baselines, device))
        if line.baseline and line.runs:
            baselines.append(line)
    return table


def _row(line: Line, baselines: Sequence[Line], device: str) -> Row:
    if not line.runs:
        return Row(line.name, line.title)

    def median(value: Callable[[Measurement], float]) -> float:
        return statistics.median(map(value, line.runs))

    return Row(
        line.name,
        line.title,
        line.runs[0].trials,
        {part: statistics.median(seconds(line, part, device)) for part in (*PARTS, "setup")},
        median(lambda run: run.whole.wall / run.trials),
        median(lambda run: run.tokens / run.train.on(device)),
        max(run.peak for run in line.runs),
        {
            (baseline.name, part): ratios(seconds(baseline, part, device), seconds(line, part, device))
            for baseline in baselines
            for part in PARTS
        },
    )


def seconds(line: Line, part: str, device: str) -> list[float]:
    """Return the seconds per trial that a part took in each repetition.

    Args:
        line: The contender.
        part: The part to measure: "whole", "train", "score" or "setup".
        device: The type of the device, which decides between CPU time and wall time (`Cost.on`).
    """
    costs: list[Cost] = [getattr(run, part) for run in line.runs]
    return [cost.on(device) / run.trials for cost, run in zip(costs, line.runs, strict=True)]


# ----- writing


def write(folder: Path, head: Sequence[str], table: Sequence[Row]) -> None:
    """Write table.csv and table.md: the cost per trial of each contender, and each baseline's time as a multiple of it.

    Args:
        folder: The folder to write to.
        head: The lines of text above the table.
        table: The rows.
    """
    keys = list(dict.fromkeys(key for row in table for key in row.ratios))
    names = [baseline if part == PARTS[0] else f"{baseline}: {part}" for baseline, part in keys]
    costs = [[row.title, *_costs(row)] for row in table]
    gains = [[_spread(row.ratios.get(key)) for key in keys] for row in table]
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COSTS, *(f"{name}{which}" for name in names for which in ("", " (least)", " (most)"))])
        writer.writerows(
            [*cost, *(text for texts in gain for text in texts)] for cost, gain in zip(costs, gains, strict=True)
        )
    parts = ["\n".join(f"- {text}" for text in head), markdown.table([COSTS, *costs])]
    if keys:
        joined = [[row.name, *map(_joined, gain)] for row, gain in zip(table, gains, strict=True) if row.ratios]
        parts.append(markdown.table([["line", *names], *joined]))
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _costs(row: Row) -> list[str]:
    if not row.trials:
        return [NOTHING] * (len(COSTS) - 1)
    times = [row.seconds[part] for part in ("whole", "setup", "train", "score")]
    costs = (*times, row.wall, row.tokens, row.peak / 2**20)
    return [str(row.trials), *map(number, costs)]


def _spread(spread: Spread | None) -> tuple[str, str, str]:
    if spread is None:
        return NOTHING, NOTHING, NOTHING
    return number(spread.median), number(spread.least), number(spread.most)


def _joined(texts: tuple[str, str, str]) -> str:
    median, least, most = texts
    return NOTHING if median == NOTHING else f"{median} ({least}..{most})"
