"""The table of `partune bench packing`, as CSV and as Markdown: the same numbers, one line per contender."""

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
    """The median, least and greatest of some numbers."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Return the spread of numbers, of which there must be one."""
        return cls(statistics.median(numbers), min(numbers), max(numbers))


def ratios(baseline: Sequence[float], contender: Sequence[float]) -> Spread:
    """Return how many times as long the baseline took, repetition by repetition.

    Args:
        baseline: The baseline's seconds, one number per repetition.
        contender: The contender's seconds.

    Raises:
        ValueError: One of them has more repetitions.
    """
    return Spread.of([theirs / mine for theirs, mine in zip(baseline, contender, strict=True)])


@dataclass
class Line:
    """A contender's measurements.

    Attributes:
        name: The contender's name.
        baseline: Whether the lines below are compared with it.
        runs: One measurement per repetition.
        note: Why there is none.
        detail: How the contender was set up.
    """

    name: str
    baseline: bool = False
    runs: list[Measurement] = field(default_factory=list)
    note: str = ""
    detail: str = ""

    @property
    def title(self) -> str:
        """The name with detail and note."""
        more = ", ".join(filter(None, (self.detail, self.note)))
        return f"{self.name}: {more}" if more else self.name


@dataclass
class Row:
    """A line's numbers, medians over repetitions.

    Attributes:
        name: The contender's name.
        title: The name with detail and note.
        trials: How many trials a repetition has.
        seconds: Seconds per trial by part, of the kind that counts on the device.
        wall: Seconds per trial by the clock on the wall.
        tokens: Training tokens per second of training.
        peak: The most bytes held.
        ratios: How many times as long a baseline took, by (baseline, part).
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
        lines: The contenders, in order; each is compared with the baselines above it.
        device: The device's type, which says which seconds count.
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
    """Return the seconds per trial in each repetition.

    Args:
        line: The contender.
        part: "whole", "train", "score" or "setup".
        device: The device's type, which says which seconds count.
    """
    costs: list[Cost] = [getattr(run, part) for run in line.runs]
    return [cost.on(device) / run.trials for cost, run in zip(costs, line.runs, strict=True)]


# ----- writing


def write(folder: Path, head: Sequence[str], table: Sequence[Row]) -> None:
    """Write table.csv and table.md: what a trial costs, and how many times as long the baselines took.

    Args:
        folder: Where to.
        head: The lines above the table.
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
