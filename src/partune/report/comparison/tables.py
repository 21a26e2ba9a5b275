"""Write the tables of a comparison, as Markdown or to a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from partune.report import sentences, words
from partune.report.comparison import bounds
from partune.report.comparison.data import MEASURES, QUARTILES
from partune.report.plain_data import Summary
from partune.report.tables import Section, marked, tell
from partune.runtime import rounding
from partune.trial.goals import GOALS, Goal
from partune.verdict.repeats import fewest

if TYPE_CHECKING:
    from rich.console import Console


TRIALS = [f"trials: {name}" for name in QUARTILES]  # headings of the columns of trial scores


def sections(compared: Summary) -> list[Section]:
    """Return all tables of a comparison, in their order."""
    goals = bounds.goals(compared, compared["tests"])
    return [
        algorithm_table(compared),
        significance(compared["differences"], MEASURES[compared["measure"]]),
        *([bounds.table(compared["bounds"], goals)] if compared["bounds"] else []),
        *test_tables(compared["tests"]),
        study_table(compared),
        cost_table(compared),
    ]


def algorithm_table(compared: Summary) -> Section:
    """Return the table of the algorithms: their results, and statistics of their trials' scores."""
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
        "Means over repeats, with Student's t interval. The last five columns are about the scores of all trials that "
        "are done (on search items, if the objective has items). They say where an algorithm spends its trials, not "
        "how good its winner is."
    )
    heads = ["algorithm", "repeats", MEASURES[compared["measure"]], "95 % interval", *TRIALS]
    return Section("Algorithms", heads, rows, [note, *_sign(_goal(compared)), *compared["notes"]])


def _goal(compared: Summary) -> Goal:
    """Return what the scores of the compared studies measure."""
    return GOALS[compared["studies"][0]["goal"]]


def _sign(goal: Goal) -> list[str]:
    """Return a note if scores are minus a loss."""
    return [f"Scores are {goal.axis}: higher is better."] if goal.lower_is_better else []


def test_tables(tests: Mapping[str, Summary]) -> list[Section]:
    """Return two tables for each test task: the scores, and the significance of their differences."""
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
    notes = ["Means over repeats. No optimiser saw this task, so it chose no winner.", *_sign(GOALS[compared["goal"]])]
    tested = significance(compared["differences"], f"winners' scores on {task}", f"Significance on {task}")
    return [Section(f"Test task {task}", heads, rows, notes), tested]


def _spread(scores: Mapping[str, float] | None) -> list[str]:
    """Return the cells for the statistics of an algorithm's trials, in the order of QUARTILES."""
    return [rounding.NONE if scores is None else rounding.number(scores[name]) for name in QUARTILES]


def study_table(compared: Summary) -> Section:
    """Return the table of the studies: statistics of their trials' scores, winners and verdicts."""
    rows = [
        [
            study["study"],
            study["algorithm"],
            str(study["seed"]),
            f"{study['trials']:,}"
            if study["done"] == study["trials"]
            else f"{study['trials']:,} ({study['done']:,} done)",
            *(rounding.number(study["scores"][name]) for name in QUARTILES),
            words.score_of(study["winner"], GOALS[study["goal"]]),
            words.score_of(study["winner"]["verdict"], GOALS[study["goal"]]),
            study["verdict"] or rounding.NONE,
        ]
        for study in compared["studies"]
    ]
    goal = _goal(compared)
    heads = [
        "study",
        "algorithm",
        "seed",
        "trials",
        *QUARTILES,
        f"winner's {goal.name}",
        "on held-out items",
        "verdict",
    ]
    note = f"Mean, quartiles and maximum refer to {goal.axis}. A winner's {goal.name} is lower if it is better."
    return Section("Studies", heads, rows, [note] if goal.lower_is_better else [])


def _interval(result: Mapping[str, float | None]) -> str:
    low, high = result["low"], result["high"]
    if low is None or high is None:
        return rounding.NONE
    return f"{rounding.number(low)} … {rounding.number(high)}"


def significance(differences: Sequence[Summary], measure: str, title: str = "Significance") -> Section:
    """Return the table of the tests over repeats.

    Args:
        differences: The pairs of algorithms that were tested.
        measure: The name of the tested score.
        title: The title of the table.
    """
    rows = [
        [
            f"{difference['first']} – {difference['second']}",
            rounding.difference(difference["gain"], None),
            " and ".join(map(str, difference["repeats"])),
            difference["test"],
            rounding.number(difference["p"], 2),
            rounding.number(difference["corrected"], 2),
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
            ["No significance test: at least two algorithms need repeats (the same study with another `--seed`)."],
        )
    notes = [
        f"Two-sided tests of the {measure} over repeats, corrected after Holm for "
        f"{words.several(len(rows), 'pair')}. They say nothing about other objectives or budgets, and a difference "
        "that is not shown may still exist."
    ]
    if any(not difference["shows"] for difference in differences):
        least = min(difference["least"] for difference in differences if not difference["shows"])
        notes.append(
            f"So few repeats cannot show a difference, whatever the scores: the smallest p that they can have is "
            f"{rounding.number(least, 2)}, before the correction. It takes {fewest(len(rows))} repeats of each "
            "algorithm."
        )
    return Section(title, headers, rows, notes)


def _reading(difference: Mapping[str, Any]) -> str:
    if difference["significant"]:
        return f"{difference['first'] if difference['gain'] > 0 else difference['second']} is better"
    return "not shown" if difference["shows"] else "too few repeats to tell"


def cost_table(compared: Summary) -> Section:
    """Return the table of the time that each algorithm took."""
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
    note = "Seconds of all workers of a study, as means over repeats."
    return Section("Time and cost", ["algorithm", *parts, "in all", "per trial"], rows, [note])


def markdown(compared: Summary, picture: str | None = None) -> str:
    """Return a comparison as Markdown.

    Args:
        compared: The comparison.
        picture: The path of the picture to show below the first table; None for no picture.
    """
    lines = ["# Comparison", ""]
    for section in sections(compared):
        lines += marked(section)
        if section.title == "Algorithms" and picture is not None:
            lines += [f"![Best score so far, mean over repeats]({picture})", ""]
    return "\n".join(lines).rstrip() + "\n"


def show(compared: Summary, console: Console | None = None) -> None:
    """Print a comparison to a console.

    Args:
        compared: The comparison.
        console: The console to print to; standard output by default.
    """
    tell(sections(compared), console)
