"""Write the tables and pictures of `partune bench search`: regrets, ranks and seconds of the contenders.

    regret    the optimum minus the true value of a configuration, divided by the scale of the problem
    named     the configuration that a contender would choose after n evaluations: the one that it recommends, or the
              one with the best score if it recommends none
    visited   the configuration with the best true value that a contender has evaluated
    block     a pair (problem, seed) that every contender has run; contenders are ranked within a block, where 1 is the
              best and equal contenders share their mean rank

The 95 % intervals come from a bootstrap over seeds, and show how the means would vary on the same problems with other
seeds. All blocks of a seed are drawn together, because problems share the random numbers of a seed. With a single seed,
the bootstrap is over problems. The critical difference is Nemenyi's, for the mean ranks of k contenders over n blocks
(Demsar 2006, section 3.2.2): two mean ranks that are further apart differ at the 5 % level. This test assumes that
blocks are independent.
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
LEAST = 1e-8  # smaller regrets count as this value, as in BBOB

Array = NDArray[np.float64]


@dataclass
class SearchRun:
    """A run of one contender on one problem with one seed.

    Attributes:
        problem: The name of the problem.
        contender: The name of the contender.
        seed: The seed.
        budget: The number of evaluations that the run may take.
        scores: The score that the contender was told for each evaluation.
        regrets: The true regret of the configuration in each evaluation.
        seconds: The CPU time of each suggestion, in seconds; it includes the call of `tell` before the suggestion.
        named: The key is a number of evaluations. The value is the regret of the configuration that the contender would
            choose after them.
        error: The error that ended the run early; empty if there was none.
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
        """Return the run that a parsed line of JSON describes; in JSON, the keys of `named` are strings."""
        return cls(**{**line, "named": {int(n): regret for n, regret in line["named"].items()}})

    @property
    def suite(self) -> str:
        """The name of the suite that the problem belongs to."""
        return self.problem.partition("/")[0]

    def regret(self, n: int, visited: bool = False) -> float:
        """Return the regret after n evaluations; infinite if the contender had no configuration then.

        Args:
            n: The number of evaluations.
            visited: Whether to return the regret of the best configuration visited, instead of the one named.
        """
        if visited:
            return min(self.regrets[:n], default=math.inf)
        return self.named.get(n, math.inf)


@dataclass(frozen=True)
class Standing:
    """The mean rank of a contender among others.

    Attributes:
        contender: The name of the contender.
        rank: The mean rank over blocks.
        low: The lower end of the 95 % interval of the mean rank.
        high: The upper end of the 95 % interval of the mean rank.
    """

    contender: str
    rank: float
    low: float
    high: float


def regrets(runs: Iterable[SearchRun], n: int, visited: bool = False) -> tuple[list[str], NDArray[np.int64], Array]:
    """Return the regrets of all contenders in all blocks: the pairs (problem, seed) that every contender has run.

    Args:
        runs: The runs.
        n: The number of evaluations.
        visited: Whether to use the best configurations visited, instead of the ones named.

    Returns:
        The names of the contenders; the seeds of the blocks, (blocks,); the regrets, (blocks, contenders).
    """
    table: dict[tuple[str, int], dict[str, float]] = {}
    for run in runs:
        table.setdefault((run.problem, run.seed), {})[run.contender] = run.regret(n, visited)
    contenders = list(dict.fromkeys(name for row in table.values() for name in row))
    # Pairs that some contender has not run are left out, because its absence would change the ranks of the others.
    blocks = {block: row for block, row in table.items() if len(row) == len(contenders)}
    rows = [[row[name] for name in contenders] for row in blocks.values()]
    return (
        contenders,
        np.array([seed for _, seed in blocks], dtype=np.int64),
        np.array(rows).reshape(-1, len(contenders)),
    )


def ranks(values: Array) -> Array:
    """Return the ranks within each row, 1 for the smallest value; both arrays are (blocks, contenders)."""
    ranked: Array = rankdata(np.maximum(values, LEAST), axis=1)
    return ranked


def interval(values: Array, groups: NDArray[np.int64], seed: int = 0) -> tuple[Array, Array]:
    """Return the 95 % interval of the mean of each column, by the percentile bootstrap over groups of rows.

    Args:
        values: The values, (n, k).
        groups: The group of each row, (n,). The rows of a group are drawn together. If there is only one group, each
            row is drawn by itself.
        seed: The seed of the draws.

    Returns:
        The lower ends, (k,), and the upper ends, (k,).
    """
    names, indices = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        indices = np.arange(len(values))
    count = indices.max() + 1
    sums = np.stack([np.bincount(indices, column, count) for column in values.T], axis=1)  # (groups, k)
    sizes = np.bincount(indices)
    # The seed is fixed, so that the same runs always result in the same table.
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None]  # (resamples, k)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return low, high


def standings(runs: Iterable[SearchRun], n: int, visited: bool = False) -> tuple[list[Standing], int]:
    """Return the contenders in order of their mean ranks, the best first, and the number of blocks.

    Args:
        runs: The runs.
        n: The number of evaluations.
        visited: Whether to rank by the best configurations visited, instead of the ones named.
    """
    contenders, seeds, values = regrets(runs, n, visited)
    if not len(values):
        return [], 0
    ranked = ranks(values)
    low, high = interval(ranked, seeds)
    table = map(Standing, contenders, ranked.mean(axis=0).tolist(), low.tolist(), high.tolist())
    return sorted(table, key=lambda standing: standing.rank), len(values)


def critical_difference(k: int, n: int) -> float:
    """Return Nemenyi's critical difference, q sqrt(k (k + 1) / (6 n)).

    Here q is the upper 5 % quantile of the studentised range, divided by sqrt(2).

    Args:
        k: The number of contenders.
        n: The number of blocks.
    """
    q = float(studentized_range.ppf(1 - LEVEL, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


# ----- writing


def write(folder: Path, head: Sequence[str], runs: Sequence[SearchRun], budget: int) -> None:
    """Write table.md, regrets.csv, and a picture of the ranks for each suite and for all suites together.

    Args:
        folder: The folder to write to.
        head: The lines of text above the tables.
        runs: The runs.
        budget: The number of evaluations per run.
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
    """Return the tables of regrets, ranks and seconds of one suite, with a line of text above each.

    Args:
        runs: The runs of the suite.
        marks: The numbers of evaluations to show.
        logarithmic: Whether regrets are compared on a log scale.
    """
    what = "log10 of the regret" if logarithmic else "regret (1: that of a median configuration)"
    _, _, values = regrets(runs, marks[-1])
    problems = len({run.problem for run in runs})
    return [
        f"{what} of the configuration named, by evaluations; mean and standard error of {len(values)} runs on "
        f"{problems} problem{'s' * (problems > 1)}",
        markdown.table(regret_rows(runs, marks, logarithmic)),
        "Mean rank, and its 95 % interval",
        markdown.table(rank_rows(runs, marks)),
        "Processor seconds per suggestion, medians, by the number of observations before the suggestion",
        markdown.table(second_rows(runs, marks)),
    ]


def regret_rows(runs: Sequence[SearchRun], marks: Sequence[int], logarithmic: bool) -> list[list[str]]:
    """Return the table of mean regrets with their standard errors.

    Args:
        runs: The runs of the suite.
        marks: The numbers of evaluations to show.
        logarithmic: Whether to average the logarithms of the regrets.
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
    """Return the columns of a table as arguments (n, visited) of `regrets`.

    There is a column for the configurations named at each mark, and one for the best visited at the last mark.
    """
    return [*((n, False) for n in marks), (marks[-1], True)]


def heads(marks: Sequence[int]) -> list[str]:
    """Return the header of a table whose columns are numbers of evaluations."""
    return ["contender", *(f"visited, {n}" if visited else str(n) for n, visited in columns(marks))]


def _mean(values: Array) -> str:
    if not len(values) or not np.isfinite(values).all():
        return NOTHING
    error = f" ± {values.std(ddof=1) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{error}"


def rank_rows(runs: Sequence[SearchRun], marks: Sequence[int]) -> list[list[str]]:
    """Return the table of mean ranks, ordered by the ranks at the last mark; its last row is the critical difference.

    Args:
        runs: The runs.
        marks: The numbers of evaluations to show.
    """
    by_column = [standings(runs, n, visited) for n, visited in columns(marks)]
    last, blocks = by_column[-2]  # the configurations named at the last mark; column -1 is the best visited
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
        marks: The numbers of observations at which one column ends and the next begins.
    """
    edges = [0, *marks]
    spans = list(itertools.pairwise(edges))
    rows = []
    for name in dict.fromkeys(run.contender for run in runs):
        by_run = [run.seconds for run in runs if run.contender == name]
        taken = [[second for seconds in by_run for second in seconds[low:high]] for low, high in spans]
        later = [second for seconds in by_run for second in seconds[1:]]  # the first may include imports
        texts = [
            *(number(median(span_seconds)) if span_seconds else NOTHING for span_seconds in taken),
            number(fmean(later)) if later else NOTHING,
        ]
        rows.append([name, *texts])
    return [["contender", *(f"{low} to {high - 1}" for low, high in spans), "mean of all but the first"], *rows]


def picture(ranked: Sequence[Standing], blocks: int, title: str) -> str:
    """Return an SVG picture of mean ranks with their intervals, and a band that is one critical difference wide.

    The best contender is at the top, and the band starts at its rank.

    Args:
        ranked: The contenders, the best first.
        blocks: The number of blocks.
        title: The title of the picture.
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
