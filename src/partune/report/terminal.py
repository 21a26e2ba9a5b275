"""Print a study's report to a terminal, or sum it up in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partune.report.data_notes import loaded_notes
from partune.report.labels import label_notes
from partune.report.plain_data import Summary
from partune.report.verdict_words import (
    advice,
    baseline_notes,
    chance_words,
    curse_words,
    equal_words,
    fixed_words,
    lost_words,
    small_print,
)
from partune.report.words import (
    baseline_rows,
    coverage_words,
    heading_of_test,
    loss_words,
    out_of_time_words,
    progress,
    remark,
    score_of,
    settings,
    span,
    stopped_words,
    tests_of,
    value,
)
from partune.runtime import rounding
from partune.trial import Status
from partune.trial.goals import Goal, goal_of, goal_on_test

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


WIDTH = 140  # columns of an output that is not a terminal


def show(summary: Summary, console: Console | None = None) -> None:
    """Print the summary: first the trials, then the table of base, defaults and winner, and last the verdict.

    Args:
        summary: The study's summary.
        console: The console to print to; standard output by default.
    """
    from partune.runtime.console import Console, text

    console = console or Console()
    if not console.is_terminal:  # a file or a pipe has no width, and the default of 80 columns would break the tables
        console.width = max(console.width, WIDTH)
        console.soft_wrap = True
    for part in _page(summary):
        console.print(text(part) if isinstance(part, str) else part)


def brief(summary: Summary) -> str:
    """Return the most important line: the verdict, otherwise the winner, otherwise that no trial has a score."""
    if summary["verdict"] is not None:
        equal = f"{equal_words(summary)} " if summary["equal"] is not None else ""
        return f"{equal}Verdict: {summary['verdict']['sentence']}{lost_words(summary)}"
    if (best := summary["best"]) is not None:
        unjudged = "" if summary["no_verdict"] is None else f". {summary['no_verdict']}"
        return f"Winner: trial {best['trial']}, {_shown(best, goal_of(summary['loaded']))}{unjudged}"
    return f"No trial has a score. {stopped_words(summary)}".rstrip()


def _page(summary: Summary) -> list[RenderableType]:
    from partune.runtime.console import text

    page: list[RenderableType] = []
    if summary["equal"] is not None:
        page.append(text(equal_words(summary), "bold"))
    goal = goal_of(summary["loaded"])
    page.append(_trials_table(summary["trials"], summary["best"], goal))
    if summary["base"] is not None:
        page.append(_baselines_table(summary))
        page += [text(line) for line in baseline_notes(summary)]
    page += [text(sentence) for sentence in loss_words(summary)]
    page += [text(note) for note in label_notes(summary["labels"])]
    if (winner := summary["best"]) is not None:
        shown = "" if summary["base"] is not None else f", {_shown(winner, goal)}"
        by_chance = f". {chance}" if (chance := chance_words(summary)) else ""
        page.append(f"Winner: trial {winner['trial']}{shown}: {settings(winner['config'])}{by_chance}")
    if fixed := fixed_words(summary):
        page.append(text(fixed))
    if summary["confirmed"]:
        page.append(_confirmed_words(summary))
    page += [text(note) for note in loaded_notes(summary["loaded"])]
    page.append(_spent(summary))
    for targets, covered in summary["loaded"].get("adapted", {}).items():
        page.append(text(f"Targets {targets}: {coverage_words(covered)}."))
    if summary["verdict"] is not None:
        page += [text("Verdict: " + summary["verdict"]["sentence"], "bold"), text("  " + small_print(summary))]
        if lost := lost_words(summary):
            page.append(text(lost.strip(), "bold red"))
        page += [text(line) for line in advice(summary)]
    elif summary["no_verdict"] is not None:
        page.append(summary["no_verdict"])
    if stopped := stopped_words(summary):
        page.append(text(stopped, "bold red"))
    if summary["best"] is not None and summary["best"].get("adapter"):
        page.append(f"Winner's adapter: {summary['best']['adapter']}")
        if summary["reloaded"] is not None and summary["reloaded"]["same"]:
            page.append(f"  {summary['reloaded']['words']}")
    return page


def _shown(row: Summary, goal: Goal) -> str:
    """Return a row's score. If reports show it under another name, such as loss, this name comes first."""
    return f"{goal.label} {score_of(row, goal)}".lstrip()


def _trials_table(rows: list[Summary], winner: Summary | None, goal: Goal) -> RenderableType:
    from partune.runtime.console import table, text

    if not rows:
        return "No trials yet."
    names = list(dict.fromkeys(name for row in rows for name in row["config"]))
    headers = [name.replace("_", " ") for name in names]  # so that a heading can be broken into lines
    shown = table(["trial", goal.name, *headers, "seconds", ""], box=None)
    for column in shown.columns[:-1]:
        column.justify = "right"
    for column in (shown.columns[1], shown.columns[-2]):
        column.no_wrap = True  # do not break a score from its error, nor the word "seconds"
    shown.padding = (0, 1, 0, 0)  # little padding, so that five hyperparameters fit into 80 columns
    for row in rows:
        mark = "winner" if winner is not None and row["id"] == winner["trial"] else ""
        shown.add_row(
            str(row["id"]),
            "" if row["score"] is None else score_of(row, goal),
            *(text(value(row["config"].get(name, ""))) for name in names),
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
            text(mark or remark(row)),
            style="bold green" if mark else ("red" if row["status"] == Status.FAILED else None),
        )
    return shown


def _baselines_table(summary: Summary) -> RenderableType:
    from rich.box import SIMPLE_HEAD

    from partune.runtime.console import table, text

    goal = goal_of(summary["loaded"])
    rows = {**baseline_rows(summary), "winner": summary["best"]}
    tests = tests_of(rows.values())
    headers = (goal.label, "search items", "held-out items", *(heading_of_test(summary, test) for test in tests))
    shown = table(headers, box=SIMPLE_HEAD)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        if row is None:
            continue
        shown.add_row(
            name,
            text(row["error"]) if row["score"] is None else score_of(row, goal),
            score_of(row["verdict"], goal),
            *(score_of(row["test"].get(test), goal_on_test(summary["loaded"], test)) for test in tests),
        )
    return shown


def _confirmed_words(summary: Summary) -> str:
    """Return the first and further scores of the confirmed trials, and how much too good the first scores were."""
    runs, score = [], goal_of(summary["loaded"]).score
    for row in summary["confirmed"]:
        stderr = summary["trials"][row["trial"]]["stderr"]
        again = ["failed" if value is None else score(value, stderr) for value in row["again"]]
        runs.append(f"trial {row['trial']} {score(row['score'], stderr)}, then {', '.join(again)}")
    return f"Again with fresh seeds: {'; '.join(runs)}. {curse_words(summary)}".rstrip()


def _spent(summary: Summary) -> str:
    seconds, rows = summary["seconds"], summary["trials"]
    counts = {status: sum(row["status"] == status for row in rows) for status in Status}
    ended = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "none"
    open_trials = [row for row in rows if not Status(row["status"]).final]
    short = summary["budget"] is not None and (open_trials or len(rows) < summary["budget"])
    extent = progress([Status(row["status"]) for row in rows], summary["budget"]) if short else f"{len(rows)} trials"
    text = f"{extent} ({ended}) by {summary['algorithm']}: {span(seconds['trials'])}"
    if seconds["training"]:
        text += f" (training {span(seconds['training'])}, scoring {span(seconds['scoring'])})"
    if summary["utilisation"] is not None:
        text += f"; workers busy for {rounding.percent(summary['utilisation'])} of the search"
    if seconds["anchors"]:
        text += f"; baselines and verdict: {span(seconds['anchors'])}"
    return f"{text}. {out_of_time_words(summary)}".rstrip()
