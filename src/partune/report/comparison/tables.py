"""The tables of a comparison, in Markdown and in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from partune.report import sentences, words
from partune.report.comparison import bounds
from partune.report.comparison.data import MEASURES, QUARTILES
from partune.report.plain_data import Summary
from partune.report.tables import Section, marked, tell
from partune.runtime import rounding
from partune.verdict.repeats import fewest

if TYPE_CHECKING:
    from rich.console import Console


TRIALS = [f"trials: {name}" for name in QUARTILES]  # the heads of their columns


def sections(compared: Summary) -> list[Section]:
    """Return all tables of a comparison, in their order."""
    return [
        algorithm_table(compared),
        significance(compared["differences"], MEASURES[compared["measure"]]),
        *([bounds.table(compared["bounds"])] if compared["bounds"] else []),
        *test_tables(compared["tests"]),
        study_table(compared),
        cost_table(compared),
    ]


def algorithm_table(compared: Summary) -> Section:
    """Return the table of the algorithms: their results, and how their trials scored."""
    rows = [
        [
            algorithm["algorithm"],
            str(len(algorithm["seeds"])),
            rounding.number(algorithm["result"]["mean"]),
            _interval(algorithm["result"]),
            *(rounding.number(algorithm["scores"][name]) for name in QUARTILES),
        ]
        for algorithm in compared["algorithms"]
    ]
    note = (
        "Means over repeats; the interval is Student's t over them. The last five columns are the scores of all "
        "trials that are done (on search items, where there are items): they say where an algorithm spends its "
        "trials, not how good its winner is."
    )
    heads = ["algorithm", "repeats", MEASURES[compared["measure"]], "95 % interval", *TRIALS]
    return Section("Algorithms", heads, rows, [note, *compared["notes"]])


def test_tables(tests: Mapping[str, Summary]) -> list[Section]:
    """Return two tables for each test task: the scores, and the tests of their differences."""
    return [table for task, compared in tests.items() for table in _test_tables(task, compared)]


def _test_tables(task: str, compared: Summary) -> list[Section]:
    tried = any(algorithm["scores"] is not None for algorithm in compared["algorithms"])
    rows = [
        [
            algorithm["algorithm"],
            str(len(algorithm["seeds"])),
            rounding.number(algorithm["result"]),
            *(_spread(algorithm["scores"]) if tried else []),
        ]
        for algorithm in compared["algorithms"]
    ]
    heads = ["algorithm", "repeats", "winner's score", *(TRIALS if tried else [])]
    note = "Means over repeats. No optimiser saw this task: it chose no winner."
    tested = significance(compared["differences"], f"winners' scores on {task}", f"Significance on {task}")
    return [Section(f"Test task {task}", heads, rows, [note]), tested]


def _spread(scores: Mapping[str, float] | None) -> list[str]:
    """Return the cells of an algorithm's trials, by the names of QUARTILES."""
    return [rounding.NONE if scores is None else rounding.number(scores[name]) for name in QUARTILES]


def study_table(compared: Summary) -> Section:
    """Return the table of the studies: how their trials scored, their winners and verdicts."""
    rows = [
        [
            study["study"],
            study["algorithm"],
            str(study["seed"]),
            f"{study['trials']:,}"
            if study["done"] == study["trials"]
            else f"{study['trials']:,} ({study['done']:,} done)",
            *(rounding.number(study["scores"][name]) for name in QUARTILES),
            words.score_of(study["winner"]),
            words.score_of(study["winner"]["verdict"]),
            study["verdict"] or rounding.NONE,
        ]
        for study in compared["studies"]
    ]
    heads = ["study", "algorithm", "seed", "trials", *QUARTILES, "winner's score", "on held-out items", "verdict"]
    return Section("Studies", heads, rows)


def _interval(result: Mapping[str, float | None]) -> str:
    low, high = result["low"], result["high"]
    if low is None or high is None:
        return rounding.NONE
    return f"{rounding.number(low)} … {rounding.number(high)}"


def significance(differences: Sequence[Summary], measure: str, title: str = "Significance") -> Section:
    """Return the table of the tests over repeats.

    Args:
        differences: The tested pairs.
        measure: What was tested, in words.
        title: The table's title.
    """
    rows = [
        [
            f"{difference['first']} – {difference['second']}",
            rounding.difference(difference["gain"], None),
            " and ".join(map(str, difference["repeats"])),
            difference["test"],
            f"{difference['p']:.2g}",
            f"{difference['corrected']:.2g}",
            _reading(difference),
        ]
        for difference in differences
    ]
    headers = ["pair", "gain", "repeats", "test", "p", "corrected", ""]
    if not rows:
        return Section(
            title,
            (),
            (),
            ["No significance test: at least two algorithms need repeats (the same study with another --seed)."],
        )
    notes = [
        f"Two-sided tests of the {measure} over repeats, corrected after Holm for "
        f"{words.several(len(rows), 'pair')}. They say nothing of other objectives or budgets, and what is not shown "
        "is not shown to be equal."
    ]
    if any(not difference["shows"] for difference in differences):
        least = min(difference["least"] for difference in differences if not difference["shows"])
        notes.append(
            f"This few repeats cannot show a difference, whatever the scores: the smallest p that they can have is "
            f"{least:.2g}, before the correction. It takes {fewest(len(rows))} repeats of each algorithm here."
        )
    return Section(title, headers, rows, notes)


def _reading(difference: Mapping[str, Any]) -> str:
    if difference["significant"]:
        return f"{difference['first'] if difference['gain'] > 0 else difference['second']} is better"
    return "not shown" if difference["shows"] else "too few repeats to tell"


def cost_table(compared: Summary) -> Section:
    """Return the table of the algorithms' time."""
    parts = list(dict.fromkeys(name for algorithm in compared["algorithms"] for name in algorithm["seconds"]))
    rows = [
        [
            algorithm["algorithm"],
            *(sentences.took(algorithm["seconds"].get(name, 0.0)) for name in parts),
            sentences.took(sum(algorithm["seconds"].values())),
            sentences.took(algorithm["seconds_a_trial"]),
        ]
        for algorithm in compared["algorithms"]
    ]
    note = "Seconds of a study's workers, in the mean over repeats."
    return Section("Time and cost", ["algorithm", *parts, "in all", "per trial"], rows, [note])


def markdown(compared: Summary, picture: str | None = None) -> str:
    """Return a comparison as Markdown.

    Args:
        compared: The comparison.
        picture: The path of its picture, which is shown below the first table.
    """
    lines = ["# Comparison", ""]
    for section in sections(compared):
        lines += marked(section)
        if section.title == "Algorithms" and picture is not None:
            lines += [f"![Best score so far, in the mean over repeats]({picture})", ""]
    return "\n".join(lines).rstrip() + "\n"


def show(compared: Summary, console: Console | None = None) -> None:
    """Print a comparison.

    Args:
        compared: The comparison.
        console: Where to print; standard output by default.
    """
    tell(sections(compared), console)
