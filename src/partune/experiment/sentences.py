"""Describe the results of an experiment in sentences and tables, from its data (`partune.experiment.findings`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from partune.report import words
from partune.report.comparison import bounds, tables
from partune.report.comparison.bounds import BASE, DEFAULTS, SEARCH, VERDICT
from partune.report.comparison.data import MEASURES
from partune.report.plain_data import Summary
from partune.report.tables import Section, tell
from partune.runtime import rounding

if TYPE_CHECKING:
    from rich.console import Console

UPPER = "upper bound"


def headline(findings: Summary) -> str:
    """Say whether the algorithms differ, and whether their winners are better than the base model."""
    return " ".join(filter(None, [_differing(findings["comparison"]), _leading(findings), _judged(findings["better"])]))


def badge(findings: Summary) -> tuple[str, str]:
    """Return a few words on whether the algorithms differ, and the kind of their badge: good or open."""
    tested = findings["comparison"]["differences"]
    if any(difference["significant"] for difference in tested):
        return "algorithms differ", "good"
    if any(difference["shows"] for difference in tested):
        return "no difference shown", "open"
    return "too few repeats to tell", "open"


def _differing(compared: Summary) -> str:
    tested = compared["differences"]
    if not tested:
        return "Whether algorithms differ is not tested. A test takes at least two algorithms with two repeats each."
    worse: dict[str, list[str]] = {}
    for difference in tested:
        if difference["significant"]:
            better, other = (
                (difference["first"], difference["second"])
                if difference["gain"] > 0
                else (difference["second"], difference["first"])
            )
            worse.setdefault(better, []).append(other)
    if worse:
        claims = [f"{better} is better than {words.listed(others)}" for better, others in worse.items()]
        most = max(difference["corrected"] for difference in tested if difference["significant"])
        return f"The algorithms differ: {'; '.join(claims)} (p ≤ {rounding.number(most, 2)}, corrected)."
    least = min(difference["corrected"] for difference in tested)
    repeats = max(len(algorithm["seeds"]) for algorithm in compared["algorithms"])
    names = words.listed([algorithm["algorithm"] for algorithm in compared["algorithms"]])
    if any(difference["shows"] for difference in tested):
        return (
            f"No difference between {names} is shown over {words.several(repeats, 'repeat')} "
            f"(smallest corrected {rounding.chance(least)})."
        )
    return f"{words.several(repeats, 'repeat')} cannot show that {names} differ, whatever the scores."


def _leading(findings: Summary) -> str:
    """Name the algorithm with the best mean, with its score and those of the baselines."""
    compared = findings["comparison"]
    best, kind = compared["algorithms"][0], VERDICT if compared["measure"] == "verdict" else SEARCH
    text = f"{best['algorithm']} has the best mean, {rounding.number(best['result']['mean'], 3)}"
    others = {row["name"]: row["scores"][kind] for row in findings["bounds"] if kind in row["scores"]}
    baselines = [
        f"{label} {rounding.number(others[name]['score'], 3)}"
        for name, label in ((BASE, BASE), (DEFAULTS, "defaults"))
        if name in others
    ]
    return f"{text} ({', '.join([MEASURES[compared['measure']], *baselines])})."


def _judged(better: Summary | None) -> str:
    if better is None:
        return ""
    if not better["than_base"]:
        return (
            f"None of {words.several(better['studies'], 'winner')} is shown to be better than the untouched base model."
        )
    return (
        f"{better['than_base']:,} of {words.several(better['studies'], 'winner')} are shown to be better than the "
        f"untouched base model, and {better['than_defaults']:,} of them better than the defaults too.{_about(better)}"
    )


def _about(better: Summary) -> str:
    """Say how many verdicts compare only one adapter per configuration; empty if none does."""
    alone = better["adapters"]
    count = words.several(alone, "verdict")
    return f" In {count} each configuration has only one adapter: other seeds may change the verdict." if alone else ""


# ----- as tables


def sections(findings: Summary) -> dict[str, list[Section]]:
    """Return the tables by the part of the report that shows them."""
    compared = findings["comparison"]
    return {
        **({"calibration": [_epochs(findings["calibration"])]} if findings["calibration"] is not None else {}),
        "bounds": [_bound_table(findings)],
        "algorithms": [
            tables.algorithm_table(compared),
            tables.significance(compared["differences"], MEASURES[compared["measure"]]),
        ],
        "tests": tables.test_tables(findings["tests"]),
        "cost": [tables.cost_table(compared)],
        "studies": [_unnamed(tables.study_table(compared))],
    }


def _unnamed(studies: Section) -> Section:
    """Return the table without its first column, the folders, whose names only repeat algorithm and seed."""
    return studies._replace(headers=studies.headers[1:], rows=[row[1:] for row in studies.rows])


def _bound_table(findings: Summary) -> Section:
    section = bounds.table(findings["bounds"], bounds.goals(findings["comparison"], findings["tests"]))
    notes = [*section.notes]
    if any(row["name"].startswith(UPPER) for row in findings["bounds"]):
        notes.append("The scores of the upper bound are from the user's file. They are over all items of a task.")
    notes += [f"{name} is left out, because all its trials failed." for name in findings["failed"]]
    return section._replace(notes=notes)


def _epochs(calibrated: Summary) -> Section:
    scores = np.array([[math.nan if score is None else score for score in row] for row in calibrated["scores"]])
    rows = []
    for k, step in enumerate(calibrated["steps"]):
        column = scores[:, k][~np.isnan(scores[:, k])]
        correlation = step["correlation"]
        rows.append(
            [
                str(step["epochs"]),
                *(
                    [rounding.number(float(column.mean())), rounding.number(float(column.max()))]
                    if len(column)
                    else [rounding.NONE] * 2
                ),
                rounding.NONE if correlation is None else rounding.fixed(correlation, 2),
                rounding.NONE if step["leader"] is None else rounding.number(step["leader"]),
                "enough" if step["epochs"] == calibrated["epochs"] else "",
            ]
        )
    most = calibrated["steps"][-1]["epochs"]
    n = len(calibrated["configurations"])
    note = (
        f"{words.several(n, 'configuration')} from a Latin hypercube, each trained for 1 to {most} epochs, each "
        f"time with its own schedule. Enough is the smallest number from which the rank correlation (Spearman) with "
        f"{most} epochs is at least {calibrated['sufficient']:g}. All studies train for this number, "
        f"{calibrated['epochs']}."
    )
    notes = [note]
    if calibrated["epochs"] == most:
        notes.append("Fewer epochs do not keep the order of the configurations, so the full number is used.")
    leader = "score of its best configuration after full training"
    heads = ["epochs", "mean score", "best", "rank correlation", leader, ""]
    return Section("How many epochs are enough", heads, rows, notes)


def show(findings: Summary, quiet: bool = False, console: Console | None = None) -> None:
    """Print the tables and the headline.

    Args:
        findings: What the experiment found.
        quiet: Print the headline only.
        console: Where to print; standard output by default.
    """
    if not quiet:
        tell([section for part in sections(findings).values() for section in part], console)
    print(findings["headline"])
