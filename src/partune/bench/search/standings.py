"""The tables and pictures of `partune bench search`: the contenders' regrets, ranks and seconds.

    regret    of a configuration, by its true value: optimum less truth, over the problem's scale
    named     the configuration that a contender would choose after n evaluations: its own recommendation, or the one
              with the best score
    visited   the best configuration, by the truth, that it has evaluated
    block     a (problem, seed) that every contender has run; ranks are within a block, 1 the best, equals share theirs

Intervals are 95 % by the bootstrap over seeds: they say what the same problems would give under other seeds. All blocks
of a seed are drawn together, as problems share its random numbers. With a single seed the bootstrap is over problems.
The critical difference is Nemenyi's at 5 %: two mean ranks over n blocks of k contenders that are further apart differ
(Demsar 2006, section 3.2.2); it assumes that blocks are independent.
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
class SearchRun:
    """A run of one contender on one problem with one seed.

    Attributes:
        problem: The problem's name.
        contender: The contender's name.
        seed: The seed.
        budget: The evaluations it may take.
        scores: What the contender was told, by evaluation.
        regrets: The true regrets of the same configurations.
        seconds: The processor's seconds per suggestion, the telling before it included.
        named: The regret of the configuration that it would choose, by the number of evaluations.
        error: Why it ended early.
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
        """Return the run of a line of JSON, whose keys are texts."""
        return cls(**{**line, "named": {int(n): regret for n, regret in line["named"].items()}})

    @property
    def suite(self) -> str:
        """The suite of its problem."""
        return self.problem.partition("/")[0]

    def regret(self, n: int, visited: bool = False) -> float:
        """Return the regret after some evaluations; infinite if there were none.

        Args:
            n: The number of evaluations.
            visited: Whether it is that of the best configuration visited, instead of the one named.
        """
        if visited:
            return min(self.regrets[:n], default=math.inf)
        return self.named.get(n, math.inf)


@dataclass(frozen=True)
class Standing:
    """A contender among others.

    Attributes:
        contender: Its name.
        rank: Its mean rank over blocks.
        low: The lower end of the mean's 95 % interval.
        high: The upper end.
    """

    contender: str
    rank: float
    low: float
    high: float


def regrets(runs: Iterable[SearchRun], n: int, visited: bool = False) -> tuple[list[str], NDArray[np.int64], Array]:
    """Return the regrets in all blocks that every contender has run.

    Args:
        runs: The runs.
        n: The number of evaluations.
        visited: Whether they are those of the best configurations visited, instead of the ones named.

    Returns:
        The contenders; the blocks' seeds, (blocks,); the regrets, (blocks, contenders).
    """
    table: dict[tuple[str, int], dict[str, float]] = {}
    for run in runs:
        table.setdefault((run.problem, run.seed), {})[run.contender] = run.regret(n, visited)
    contenders = list(dict.fromkeys(name for row in table.values() for name in row))
    # A contender that is missing in a block would gain or lose ranks by the absence: such blocks are left out.
    whole = {block: row for block, row in table.items() if len(row) == len(contenders)}
    rows = [[row[name] for name in contenders] for row in whole.values()]
    return (
        contenders,
        np.array([seed for _, seed in whole], dtype=np.int64),
        np.array(rows).reshape(-1, len(contenders)),
    )


def ranks(values: Array) -> Array:
    """Return ranks within each row, 1 for the smallest value; (blocks, contenders) to the same."""
    ranked: Array = rankdata(np.maximum(values, LEAST), axis=1)
    return ranked


def interval(values: Array, groups: NDArray[np.int64], seed: int = 0) -> tuple[Array, Array]:
    """Return the 95 % interval of each column's mean, by the percentile bootstrap over groups of rows.

    Args:
        values: The values, (n, k).
        groups: The rows' groups, (n,). Rows of a group are drawn together; if there is one group only, each by itself.
        seed: The seed of the draws.

    Returns:
        The lower and the upper ends, (k,) each.
    """
    names, indices = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        indices = np.arange(len(values))
    count = indices.max() + 1
    sums = np.stack([np.bincount(indices, column, count) for column in values.T], axis=1)  # (groups, k)
    sizes = np.bincount(indices)
    # Drawn with a fixed seed, so that the same runs give the same table.
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None]  # (resamples, k)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return low, high


def standings(runs: Iterable[SearchRun], n: int, visited: bool = False) -> tuple[list[Standing], int]:
    """Return the contenders, the best mean rank first, and the number of blocks.

    Args:
        runs: The runs.
        n: The number of evaluations.
        visited: Whether the best configurations visited are ranked, instead of the ones named.
    """
    contenders, seeds, values = regrets(runs, n, visited)
    if not len(values):
        return [], 0
    ranked = ranks(values)
    low, high = interval(ranked, seeds)
    table = map(Standing, contenders, ranked.mean(axis=0).tolist(), low.tolist(), high.tolist())
    return sorted(table, key=lambda standing: standing.rank), len(values)


def critical_difference(k: int, n: int) -> float:
    """Return Nemenyi's q sqrt(k (k + 1) / (6 n)), q the studentised range's quantile over sqrt(2).

    Args:
        k: The number of contenders.
        n: The number of blocks.
    """
    q = float(studentized_range.ppf(1 - LEVEL, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


# ----- writing


def write(folder: Path, head: Sequence[str], runs: Sequence[SearchRun], budget: int) -> None:
    """Write table.md, regrets.csv, and a picture of the ranks for each suite and for all together.

    Args:
        folder: Where to.
        head: The lines above the tables.
        runs: The runs.
        budget: The evaluations per run.
    """
    marks = [*(n for n in CHECKPOINTS if n < budget), budget]
    suites = {name: [run for run in runs if run.suite == name] for name in dict.fromkeys(run.suite for run in runs)}
    parts = ["\n".join(f"- {text}" for text in head)]
    for name, suite_runs in suites.items():
        parts += [f"## {name}", *tables(suite_runs, marks, SUITES[name].logarithmic)]
    if len(suites) > 1:
        parts += ["## all", markdown.table(rank_rows(runs, marks))]
    failed = [f"- {run.problem}, {run.contender}, seed {run.seed}: {run.error}" for run in runs if run.error]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    for name, shown in {**suites, **({"all": list(runs)} if len(suites) > 1 else {})}.items():
        ranked, blocks = standings(shown, budget)
        if len(ranked) > 1:
            (folder / f"ranks-{name}.svg").write_text(picture(ranked, blocks, f"{name}, {budget} evaluations"), "utf-8")
    with (folder / "regrets.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["problem", "contender", "seed", "evaluations", "named", "visited"])
        writer.writerows(
            [run.problem, run.contender, run.seed, n, run.regret(n), run.regret(n, visited=True)]
            for run in runs
            for n in marks
        )


def tables(runs: Sequence[SearchRun], marks: Sequence[int], logarithmic: bool) -> list[str]:
    """Return the tables of one suite, with a line above each: regrets, ranks, seconds.

    Args:
        runs: The suite's runs.
        marks: The numbers of evaluations to show.
        logarithmic: Whether regrets are compared by their orders of magnitude.
    """
    what = "log10 of the regret" if logarithmic else "regret (1: a middling configuration)"
    _, _, values = regrets(runs, marks[-1])
    problems = len({run.problem for run in runs})
    return [
        f"{what} of the configuration named, by evaluations; mean and standard error of {len(values)} runs on "
        f"{problems} problem{'s' * (problems > 1)}",
        markdown.table(regret_rows(runs, marks, logarithmic)),
        "Mean rank, and its 95 % interval",
        markdown.table(rank_rows(runs, marks)),
        "Processor seconds per suggestion, medians, by the observations before it",
        markdown.table(second_rows(runs, marks)),
    ]


def regret_rows(runs: Sequence[SearchRun], marks: Sequence[int], logarithmic: bool) -> list[list[str]]:
    """Return the table of mean regrets with their standard errors.

    Args:
        runs: The suite's runs.
        marks: The numbers of evaluations to show.
        logarithmic: Whether to take the means of logarithms.
    """
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
    """Return the columns as arguments of `regrets`: what is named at each mark, and the best visited at the last."""
    return [*((n, False) for n in marks), (marks[-1], True)]


def heads(marks: Sequence[int]) -> list[str]:
    """Return the head of a table over numbers of evaluations."""
    return ["contender", *(f"visited, {n}" if visited else str(n) for n, visited in columns(marks))]


def _mean(values: Array) -> str:
    if not len(values) or not np.isfinite(values).all():
        return NOTHING
    error = f" ± {values.std(ddof=1) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{error}"


def rank_rows(runs: Sequence[SearchRun], marks: Sequence[int]) -> list[list[str]]:
    """Return the table of mean ranks, the best at the end first; its last row has the critical difference.

    Args:
        runs: The runs.
        marks: The numbers of evaluations to show.
    """
    by_column = [standings(runs, n, visited) for n, visited in columns(marks)]
    last, blocks = by_column[-2]  # of what is named at the last mark; behind it is the best visited
    texts = [
        {standing.contender: f"{standing.rank:.2f} ({standing.low:.2f}..{standing.high:.2f})" for standing in ranked}
        for ranked, _ in by_column
    ]
    rows = [[standing.contender, *(column[standing.contender] for column in texts)] for standing in last]
    if len(last) > 1:
        rows.append(["critical difference", *[f"{critical_difference(len(last), blocks):.2f}"] * len(by_column)])
    return [heads(marks), *rows]


def second_rows(runs: Sequence[SearchRun], marks: Sequence[int]) -> list[list[str]]:
    """Return the table of seconds per suggestion.

    Args:
        runs: The runs.
        marks: The numbers of observations that divide the columns.
    """
    edges = [0, *marks]
    spans = list(itertools.pairwise(edges))
    rows = []
    for name in dict.fromkeys(run.contender for run in runs):
        by_run = [run.seconds for run in runs if run.contender == name]
        taken = [[second for seconds in by_run for second in seconds[low:high]] for low, high in spans]
        later = [second for seconds in by_run for second in seconds[1:]]  # the first may have paid for imports
        texts = [
            *(number(median(span_seconds)) if span_seconds else NOTHING for span_seconds in taken),
            number(fmean(later)) if later else NOTHING,
        ]
        rows.append([name, *texts])
    return [["contender", *(f"{low} to {high - 1}" for low, high in spans), "mean of all but the first"], *rows]


def picture(ranked: Sequence[Standing], blocks: int, title: str) -> str:
    """Return mean ranks with their intervals as SVG, the best above, and a band of a critical difference from it.

    Args:
        ranked: The contenders, the best first.
        blocks: The number of blocks.
        title: The title.
    """
    difference = critical_difference(len(ranked), blocks)
    left, width, line, top = 30 + 8 * max(len(standing.contender) for standing in ranked), 480, 24, 56
    height = top + line * len(ranked) + 34

    def x(rank: float) -> float:
        return round(left + width * (rank - 1) / (len(ranked) - 1), 1)

    bottom = top + line * len(ranked)
    band = min(x(ranked[0].rank + difference), left + width) - x(ranked[0].rank)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 30}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{left + width + 30}" height="{height}" fill="white"/>',
        f'<text x="10" y="20">{escape(title)}: mean rank, 95 % intervals, {blocks} blocks</text>',
        f'<text x="10" y="38" fill="#666">band: critical difference {difference:.2f} from the best</text>',
        f'<rect x="{x(ranked[0].rank)}" y="{top - 8}" width="{band:.1f}" height="{bottom - top + 8}" fill="#dbe9f6"/>',
    ]
    for rank in range(1, len(ranked) + 1):
        lines.append(f'<line x1="{x(rank)}" y1="{bottom}" x2="{x(rank)}" y2="{bottom + 5}" stroke="black"/>')
        lines.append(f'<text x="{x(rank)}" y="{bottom + 20}" text-anchor="middle">{rank}</text>')
    lines.append(f'<line x1="{left}" y1="{bottom}" x2="{left + width}" y2="{bottom}" stroke="black"/>')
    for row, standing in enumerate(ranked):
        y = top + line * row + line / 2 - 4
        lines.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(standing.contender)}</text>')
        lines.append(
            f'<line x1="{x(standing.low)}" y1="{y}" x2="{x(standing.high)}" y2="{y}" stroke="#1f4e79" '
            'stroke-width="2"/>'
        )
        lines.append(f'<circle cx="{x(standing.rank)}" cy="{y}" r="4" fill="#1f4e79"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"
