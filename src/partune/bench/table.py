"""The table of a benchmark, as CSV and as Markdown: the same numbers, one line a contender."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partune.bench.contenders import Run
    from partune.bench.meter import Cost
    from partune.bench.packing import Entry

PARTS = ("whole", "train", "score")
NOTHING = "-"

Cell = str | tuple[str, ...]  # one text, or three: median, least and most


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
class Row:
    """A line: medians over repetitions of a trial's seconds, and ratios by (baseline, part).

    seconds: by part, of the kind that counts on the device; wall: of the clock on the wall. tokens: of training, a
    second of it; peak: bytes.
    """

    name: str
    trials: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    wall: float = math.nan
    tokens: float = math.nan
    peak: float = math.nan
    ratios: dict[tuple[str, str], Spread] = field(default_factory=dict)
    note: str = ""


def rows(entries: Iterable[Entry], device: str) -> list[Row]:
    """The lines of the contenders' runs so far."""
    found: list[Row] = []
    baselines: list[Entry] = []
    for entry in entries:
        found.append(_row(entry, baselines, device))  # against the baselines above it
        if entry.baseline and entry.runs:
            baselines.append(entry)
    return found


def _row(entry: Entry, baselines: Sequence[Entry], device: str) -> Row:
    if not entry.runs:
        return Row(entry.name, note=entry.note)

    def median(value: Callable[[Run], float]) -> float:
        return statistics.median(map(value, entry.runs))

    return Row(
        entry.name,
        entry.runs[0].trials,
        {part: statistics.median(seconds(entry, part, device)) for part in (*PARTS, "start")},
        median(lambda run: run.whole.wall / run.trials),
        median(lambda run: run.tokens / run.train.on(device)),
        max(run.peak for run in entry.runs),
        {
            (baseline.name, part): ratios(seconds(baseline, part, device), seconds(entry, part, device))
            for baseline in baselines
            for part in PARTS
        },
        entry.note,
    )


def seconds(entry: Entry, part: str, device: str) -> list[float]:
    """A trial's seconds of each repetition."""
    costs: list[Cost] = [getattr(run, part) for run in entry.runs]
    return [cost.on(device) / run.trials for cost, run in zip(costs, entry.runs, strict=True)]


# ----- writing


def write(folder: Path, head: Sequence[str], lines: Sequence[Row]) -> None:
    """table.csv and table.md, of the same cells."""
    costs, gains = cost_cells(lines), ratio_cells(lines)
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [*first, *(part for cell in second[1:] for part in _split(cell))]
            for first, second in zip(costs, gains, strict=True)
        )
    parts = ["  \n".join(head), _markdown([list(row) for row in costs])]
    if len(gains[0]) > 1:
        parts.append(_markdown([[_joined(cell) for cell in row] for row in gains]))
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def cost_cells(lines: Sequence[Row]) -> list[list[str]]:
    """Headings, then the cells of each line: what a trial costs."""
    headings = ["", "trials", "seconds", "start", "train", "score", "wall seconds", "tokens/s", "peak MiB"]
    cells = [headings]
    for row in lines:
        if row.note:
            cells.append([f"{row.name}: {row.note}", *[NOTHING] * (len(headings) - 1)])
            continue
        times = [row.seconds[part] for part in ("whole", "start", "train", "score")]
        numbers = [*times, row.wall, row.tokens, row.peak / 2**20]
        cells.append([row.name, str(row.trials), *map(_number, numbers)])
    return cells


def ratio_cells(lines: Sequence[Row]) -> list[list[Cell]]:
    """Headings, then the cells of each line: how many times as long the baselines took, (median, least, most)."""
    keys = list(dict.fromkeys(key for row in lines for key in row.ratios))
    names = [baseline if part == PARTS[0] else f"{baseline}: {part}" for baseline, part in keys]
    cells: list[list[Cell]] = [["", *((name, f"{name} (least)", f"{name} (most)") for name in names)]]
    for row in lines:
        spreads = [row.ratios.get(key) for key in keys]
        found = [(s.median, s.least, s.most) if s is not None else None for s in spreads]
        cells.append([row.name, *(tuple(map(_number, each)) if each else (NOTHING,) * 3 for each in found)])
    return cells


def _split(cell: Cell) -> Sequence[str]:
    return [cell] if isinstance(cell, str) else cell


def _joined(cell: Cell) -> str:
    """A ratio as "median (least..most)"; a heading as its first."""
    median, least, most = (cell, "", "") if isinstance(cell, str) else cell
    return f"{median} ({least}..{most})" if most and median != NOTHING and not most.endswith(")") else median


def _number(value: float) -> str:
    """Three digits that count; a dash for what was not measured."""
    if not math.isfinite(value):
        return NOTHING
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{round(value, digits):.{max(0, digits)}f}"


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    head, *body = cells
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))
