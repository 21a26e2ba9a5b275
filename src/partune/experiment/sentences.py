"""What an experiment found, in sentences and tables, from its data (`partune.experiment.findings`)."""

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
    """Return whether algorithms differ, and whether their winners are better than the base."""
    return " ".join(filter(None, [_differing(findings["comparison"]), _leading(findings), _judged(findings["better"])]))


def badge(findings: Summary) -> tuple[str, str]:
    """Return the first answer in a few words, and its kind: good or open."""
    tested = findings["comparison"]["differences"]
    if any(difference["significant"] for difference in tested):
        return "algorithms differ", "good"
    if any(difference["shows"] for difference in tested):
        return "no difference shown", "open"
    return "too few repeats to tell", "open"


def _differing(compared: Summary) -> str:
    tested = compared["differences"]
    if not tested:
        return "Whether algorithms differ is not tested: it takes two repeats of two algorithms."
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
            f"That {names} differ is not shown over {words.several(repeats, 'repeat')} "
            f"(smallest corrected {rounding.chance(least)})."
        )
    return f"{words.several(repeats, 'repeat')} cannot show that {names} differ, whatever the scores."


def _leading(findings: Summary) -> str:
    """Return who leads, in numbers."""
    compared = findings["comparison"]
    best, kind = compared["algorithms"][0], VERDICT if compared["measure"] == "verdict" else SEARCH
    text = f"{best['algorithm']} leads in the mean with {rounding.number(best['result']['mean'], 3)}"
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
            f"Of {words.several(better['studies'], 'winner')} none is shown to be better than the untouched base model."
        )
    return (
        f"{better['than_base']:,} of {words.several(better['studies'], 'winner')} are shown to be better than the "
        f"untouched base model, {better['than_defaults']:,} than the defaults too.{_about(better)}"
    )


def _about(better: Summary) -> str:
    """Return which verdicts are about one adapter of each configuration."""
    alone = better["adapters"]
    return f" {words.several(alone, 'verdict')} by one adapter of each: other seeds would give others." if alone else ""


# ----- as tables


def sections(findings: Summary) -> dict[str, list[Section]]:
    """Return the tables, by the part of the report that they belong to."""
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
    """Return a table without the studies' folders, which are those of their algorithms and seeds."""
    return studies._replace(headers=studies.headers[1:], rows=[row[1:] for row in studies.rows])


def _bound_table(findings: Summary) -> Section:
    section = bounds.table(findings["bounds"])
    notes = [*section.notes]
    if any(row["name"].startswith(UPPER) for row in findings["bounds"]):
        notes.append("The upper bound is what the user's table says of whole tasks.")
    notes += [f"Every trial of {name} failed: it is left out." for name in findings["failed"]]
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
                rounding.NONE if correlation is None else f"{correlation:.2f}",
                rounding.NONE if step["leader"] is None else rounding.number(step["leader"]),
                "enough" if step["epochs"] == calibrated["epochs"] else "",
            ]
        )
    most = calibrated["steps"][-1]["epochs"]
    n = len(calibrated["configurations"])
    note = (
        f"{words.several(n, 'configuration')} from a Latin hypercube, each trained for 1 to {most} epochs with a "
        f"schedule of its own. Enough is the smallest number from which the rank correlation (Spearman) with the "
        f"training of {most} epochs is {calibrated['sufficient']:g} or more: {calibrated['epochs']}, which all "
        "studies have."
    )
    notes = [note]
    if calibrated["epochs"] == most:
        notes.append("Fewer do not keep the order, so the full number is taken.")
    heads = ["epochs", "mean score", "best", "rank correlation", "its best one, fully trained", ""]
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
