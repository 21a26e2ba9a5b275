"""What runs come to: regrets, ranks and seconds, as Markdown, CSV and a picture.

    regret    of a configuration, by its true value: optimum less truth, over the problem's scale
    named     what a contender would name after n evaluations: its own recommendation, or the best scored
    visited   the best configuration, by the truth, that it has evaluated
    block     a (problem, seed) that every contender has run; ranks are within a block, 1 the best, equals share theirs

Intervals are 95 % by the bootstrap over seeds, all blocks of one together, as problems share its random numbers: the
same problems under other seeds. With a single seed, over the problems. The critical difference is Nemenyi's at 5 %: two
mean ranks over n blocks of k contenders that are further apart differ (Demsar 2006, section 3.2.2); it takes blocks to
be independent.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Self
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, studentized_range

from partune.bench.meter import NOTHING, number
from partune.bench.search.problems import SUITES
from partune.runtime import markdown

CHECKPOINTS = (10, 20, 30, 50, 100)
RESAMPLES = 2000
LEVEL = 0.05
LEAST = 1e-8  # a smaller regret counts as this one, as in BBOB

Array = NDArray[np.float64]


@dataclass
class Run:
    """One contender on one problem with one seed.

    scores, regrets, seconds: by evaluation; what the contender was told, the truth about it, and the processor's
    seconds of the suggestion, the telling before it included. named: regret after n evaluations. error: why it ended
    early.
    """

    problem: str
    contender: str
    seed: int
    budget: int
    scores: list[float] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    named: dict[int, float] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """The run of a line of JSON, whose keys are texts."""
        return cls(**{**line, "named": {int(n): regret for n, regret in line["named"].items()}})

    @property
    def suite(self) -> str:
        return self.problem.partition("/")[0]

    def regret(self, n: int, visited: bool = False) -> float:
        """After n evaluations; infinite where nothing was evaluated."""
        if visited:
            return min(self.regrets[:n], default=math.inf)
        return self.named.get(n, math.inf)


@dataclass(frozen=True)
class Standing:
    """A contender among others: its mean rank over blocks, and the interval of that."""

    contender: str
    rank: float
    low: float
    high: float


def regrets(runs: Iterable[Run], n: int, visited: bool = False) -> tuple[list[str], NDArray[np.int64], Array]:
    """Contenders; each whole block's seed, (blocks,); and regrets there after n evaluations, (blocks, contenders)."""
    table: dict[tuple[str, int], dict[str, float]] = {}
    for run in runs:
        table.setdefault((run.problem, run.seed), {})[run.contender] = run.regret(n, visited)
    contenders = list(dict.fromkeys(name for row in table.values() for name in row))
    whole = {block: row for block, row in table.items() if len(row) == len(contenders)}
    rows = [[row[name] for name in contenders] for row in whole.values()]
    return (
        contenders,
        np.array([seed for _, seed in whole], dtype=np.int64),
        np.array(rows).reshape(-1, len(contenders)),
    )


def ranks(values: Array) -> Array:
    """1 for the smallest of each row; (blocks, contenders) to the same."""
    found: Array = rankdata(np.maximum(values, LEAST), axis=1)
    return found


def interval(values: Array, groups: NDArray[np.int64], seed: int = 0) -> tuple[Array, Array]:
    """The 95 % interval of each column's mean, by the bootstrap over groups of rows: percentiles.

    values: (n, k); groups: (n,), rows of one are drawn together, or each by itself where there is one group only.
    Two of (k,).
    """
    names, places = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        places = np.arange(len(values))
    count = places.max() + 1
    sums = np.stack([np.bincount(places, column, count) for column in values.T], axis=1)  # (groups, k)
    sizes = np.bincount(places)
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None]  # (resamples, k)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return low, high


def standings(runs: Iterable[Run], n: int, visited: bool = False) -> tuple[list[Standing], int]:
    """The contenders after n evaluations, the best mean rank first, and the number of blocks."""
    contenders, seeds, values = regrets(runs, n, visited)
    if not len(values):
        return [], 0
    ranked = ranks(values)
    found = map(
        Standing, contenders, ranked.mean(axis=0).tolist(), *(each.tolist() for each in interval(ranked, seeds))
    )
    return sorted(found, key=lambda each: each.rank), len(values)


def critical_difference(k: int, n: int) -> float:
    """q sqrt(k (k + 1) / (6 n)), q the studentised range's quantile over sqrt(2)."""
    q = float(studentized_range.ppf(1 - LEVEL, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


# ----- writing


def write(folder: Path, head: Sequence[str], runs: Sequence[Run], budget: int) -> None:
    """table.md, regrets.csv, and a picture of the ranks of each suite, and of all."""
    marks = [*(n for n in CHECKPOINTS if n < budget), budget]
    suites = {name: [run for run in runs if run.suite == name] for name in dict.fromkeys(run.suite for run in runs)}
    parts = ["\n".join(f"- {text}" for text in head)]
    for name, own in suites.items():
        parts += [f"## {name}", *tables(own, marks, SUITES[name].logarithmic)]
    if len(suites) > 1:
        parts += ["## all", markdown.table(rank_rows(runs, marks))]
    failed = [f"- {run.problem}, {run.contender}, seed {run.seed}: {run.error}" for run in runs if run.error]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    for name, own in {**suites, **({"all": list(runs)} if len(suites) > 1 else {})}.items():
        found, blocks = standings(own, budget)
        if len(found) > 1:
            (folder / f"ranks-{name}.svg").write_text(picture(found, blocks, f"{name}, {budget} evaluations"), "utf-8")
    with (folder / "regrets.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["problem", "contender", "seed", "evaluations", "named", "visited"])
        writer.writerows(
            [run.problem, run.contender, run.seed, n, run.regret(n), run.regret(n, visited=True)]
            for run in runs
            for n in marks
        )


def tables(runs: Sequence[Run], marks: Sequence[int], logarithmic: bool) -> list[str]:
    """Of one suite: regrets, ranks, seconds."""
    what = "log10 of the regret" if logarithmic else "regret (1: a middling configuration)"
    _, _, values = regrets(runs, marks[-1])
    problems = len({run.problem for run in runs})
    return [
        f"{what} of the configuration named, by evaluations; mean and standard error of {len(values)} runs on "
        f"{problems} problem{'s' * (problems > 1)}",
        markdown.table(regret_rows(runs, marks, logarithmic)),
        "Mean rank, and its 95 % interval",
        markdown.table(rank_rows(runs, marks)),
        "Processor seconds a suggestion, medians, by the observations before it",
        markdown.table(second_rows(runs, marks)),
    ]


def regret_rows(runs: Sequence[Run], marks: Sequence[int], logarithmic: bool) -> list[list[str]]:
    contenders: list[str] = []
    cells = []
    for n, visited in columns(marks):
        contenders, _, values = regrets(runs, n, visited)
        values = np.log10(np.maximum(values, LEAST)) if logarithmic else values
        cells.append([_mean(column) for column in values.T])
    return [
        heads(marks),
        *([name, *row] for name, row in zip(contenders, map(list, zip(*cells, strict=True)), strict=True)),
    ]


def columns(marks: Sequence[int]) -> list[tuple[int, bool]]:
    """What is named at each number of evaluations, and the best visited at the last."""
    return [*((n, False) for n in marks), (marks[-1], True)]


def heads(marks: Sequence[int]) -> list[str]:
    return ["contender", *(f"visited, {n}" if visited else str(n) for n, visited in columns(marks))]


def _mean(values: Array) -> str:
    if not len(values) or not np.isfinite(values).all():
        return NOTHING
    error = f" ± {values.std(ddof=1) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{error}"


def rank_rows(runs: Sequence[Run], marks: Sequence[int]) -> list[list[str]]:
    """The best at the end first; the last row says which difference counts."""
    found = [standings(runs, n, visited) for n, visited in columns(marks)]
    last, blocks = found[-2]
    texts = [{each.contender: f"{each.rank:.2f} ({each.low:.2f}..{each.high:.2f})" for each in own} for own, _ in found]
    rows = [[each.contender, *(column[each.contender] for column in texts)] for each in last]
    if len(last) > 1:
        rows.append(["critical difference", *[f"{critical_difference(len(last), blocks):.2f}"] * len(found)])
    return [heads(marks), *rows]


def second_rows(runs: Sequence[Run], marks: Sequence[int]) -> list[list[str]]:
    edges = [0, *marks]
    spans = list(itertools.pairwise(edges))
    rows = []
    for name in dict.fromkeys(run.contender for run in runs):
        own = [run.seconds for run in runs if run.contender == name]
        taken = [[second for seconds in own for second in seconds[low:high]] for low, high in spans]
        later = [second for seconds in own for second in seconds[1:]]  # the first may have paid for imports
        texts = [
            *(number(median(each)) if each else NOTHING for each in taken),
            number(fmean(later)) if later else NOTHING,
        ]
        rows.append([name, *texts])
    return [["contender", *(f"{low} to {high - 1}" for low, high in spans), "mean of all but the first"], *rows]


def picture(found: Sequence[Standing], blocks: int, title: str) -> str:
    """Mean ranks with their intervals (SVG), the best above; the band is what a critical difference from it covers."""
    difference = critical_difference(len(found), blocks)
    left, width, line, top = 30 + 8 * max(len(each.contender) for each in found), 480, 24, 56
    height = top + line * len(found) + 34

    def x(rank: float) -> float:
        return round(left + width * (rank - 1) / (len(found) - 1), 1)

    bottom = top + line * len(found)
    band = min(x(found[0].rank + difference), left + width) - x(found[0].rank)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 30}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{left + width + 30}" height="{height}" fill="white"/>',
        f'<text x="10" y="20">{escape(title)}: mean rank, 95 % intervals, {blocks} blocks</text>',
        f'<text x="10" y="38" fill="#666">band: critical difference {difference:.2f} from the best</text>',
        f'<rect x="{x(found[0].rank)}" y="{top - 8}" width="{band:.1f}" height="{bottom - top + 8}" fill="#dbe9f6"/>',
    ]
    for rank in range(1, len(found) + 1):
        lines.append(f'<line x1="{x(rank)}" y1="{bottom}" x2="{x(rank)}" y2="{bottom + 5}" stroke="black"/>')
        lines.append(f'<text x="{x(rank)}" y="{bottom + 20}" text-anchor="middle">{rank}</text>')
    lines.append(f'<line x1="{left}" y1="{bottom}" x2="{left + width}" y2="{bottom}" stroke="black"/>')
    for row, each in enumerate(found):
        y = top + line * row + line / 2 - 4
        lines.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(each.contender)}</text>')
        lines.append(
            f'<line x1="{x(each.low)}" y1="{y}" x2="{x(each.high)}" y2="{y}" stroke="#1f4e79" stroke-width="2"/>'
        )
        lines.append(f'<circle cx="{x(each.rank)}" cy="{y}" r="4" fill="#1f4e79"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"
