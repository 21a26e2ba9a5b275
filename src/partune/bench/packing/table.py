"""The table of a benchmark, as CSV and as Markdown: the same numbers, one line a contender."""

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
    from partune.bench.packing.contenders import Run

PARTS = ("whole", "train", "score")
COSTS = ("line", "trials", "seconds", "set-up", "train", "score", "wall seconds", "tokens/s", "peak MiB")


@dataclass(frozen=True)
class Spread:
    """Median, least and most of some numbers."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        return cls(statistics.median(numbers), min(numbers), max(numbers))


def ratios(baseline: Sequence[float], own: Sequence[float]) -> Spread:
    """How many times as long the baseline took, pair by pair: each of one repetition. Raises ValueError."""
    return Spread.of([theirs / mine for theirs, mine in zip(baseline, own, strict=True)])


@dataclass
class Line:
    """A contender: its runs, one a repetition, or a note why it has none. detail: how it was set."""

    name: str
    baseline: bool = False
    runs: list[Run] = field(default_factory=list)
    note: str = ""
    detail: str = ""

    @property
    def title(self) -> str:
        said = ", ".join(filter(None, (self.detail, self.note)))
        return f"{self.name}: {said}" if said else self.name


@dataclass
class Row:
    """What a line's runs come to: medians over repetitions of a trial's seconds, and ratios by (baseline, part).

    seconds: by part, of the kind that counts on the device; wall: of the clock on the wall. tokens: of training, a
    second of it; peak: bytes.
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
    """The lines of the contenders' runs so far."""
    found: list[Row] = []
    baselines: list[Line] = []
    for line in lines:
        found.append(_row(line, baselines, device))  # against the baselines above it
        if line.baseline and line.runs:
            baselines.append(line)
    return found


def _row(line: Line, baselines: Sequence[Line], device: str) -> Row:
    if not line.runs:
        return Row(line.name, line.title)

    def median(value: Callable[[Run], float]) -> float:
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
    """A trial's seconds of each repetition."""
    costs: list[Cost] = [getattr(run, part) for run in line.runs]
    return [cost.on(device) / run.trials for cost, run in zip(costs, line.runs, strict=True)]


# ----- writing


def write(folder: Path, head: Sequence[str], table: Sequence[Row]) -> None:
    """table.csv and table.md, of the same texts: what a trial costs, and how many times as long the baselines took."""
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
