"""Put counts, lists, settings and durations into words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from partune.report.plain_data import Summary
from partune.runtime import rounding
from partune.trial import Observation, Status
from partune.trial.goals import SCORE, Goal, goal_of, goal_on_test, perplexity


def several(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 trial" and "1,200 trials".

    Args:
        count: The count.
        noun: The noun in the singular. Its plural must end in s.
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def progress(statuses: Sequence[Status], budget: int | None) -> str:
    """Return how many trials of a search's budget have ended, and how many more have begun.

    Args:
        statuses: The status of each trial.
        budget: The number of trials that the study may start; None if it is not limited.
    """
    ended = sum(status.final for status in statuses)
    begun = len(statuses) - ended
    of_all = several(ended, "trial") if budget is None else f"{ended:,} of {several(budget, 'trial')}"
    text = f"{of_all} {'has' if ended == 1 else 'have'} ended"
    return f"{text}, {begun:,} more {'has' if begun == 1 else 'have'} begun" if begun else text


def listed(words: list[str]) -> str:
    """Return words as one phrase: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def value(setting: object) -> str:
    """Return a hyperparameter's value; a float has three significant digits."""
    return rounding.number(setting, 3) if isinstance(setting, float) else str(setting)


def settings(config: Mapping[str, object]) -> str:
    """Return a configuration in one line: names and values, separated by commas."""
    return ", ".join(f"{name} {value(setting)}" for name, setting in config.items())


def score_of(row: Summary | None, goal: Goal = SCORE) -> str:
    """Return the score of a summary's row with its standard error; a dash if there is no row.

    Args:
        row: The row, with its score and stderr.
        goal: What the score measures.
    """
    return rounding.NONE if row is None else goal.measured(row["score"], row["stderr"])


def baseline_rows(summary: Summary) -> dict[str, Summary | None]:
    """Return the rows of the untouched base and of the baselines, by the name that a table shows."""
    first = summary["defaults"]
    name = "defaults" if first is None or first["name"] is None else first["name"]
    return {"base": summary["base"], name: first, **{row["name"]: row for row in summary["baselines"]}}


def loss_words(summary: Summary) -> list[str]:
    """Return sentences on what losses and gains mean, with perplexities; none if no scores are losses."""
    goal = goal_of(summary["loaded"])
    named = {**baseline_rows(summary), "winner": summary["best"]}
    rows = {name: row for name, row in named.items() if row is not None and row["score"] is not None}
    sentences = []
    if goal.lower_is_better:
        known = _perplexities(goal, {name: row["score"] for name, row in rows.items()}, " on the search items")
        sentences.append(
            f"The loss is {goal.unit}: lower is better. A gain is the amount by which the loss is lower.{known}"
        )
    for task in tests_of(rows.values()):
        if (goal := goal_on_test(summary["loaded"], task)).lower_is_better:
            scores = {name: row["test"][task]["score"] for name, row in rows.items() if task in row["test"]}
            known = _perplexities(goal, scores, f" on {task}")
            sentences.append(f"On the test task {task}, the loss is {goal.unit}: lower is better.{known}")
    return sentences


def _perplexities(goal: Goal, scores: Mapping[str, float], where: str) -> str:
    """Return a sentence with the perplexities of losses, after a space; empty if the losses are not in nats."""
    known = ", ".join(f"{name} {perplexity_words(perplexity(score))}" for name, score in scores.items())
    return f" Perplexity{where}, exp(loss): {known}." if goal.in_nats and known else ""


def perplexity_words(value: float | None) -> str:
    """Return a perplexity with three digits; a dash if it is not finite."""
    return rounding.NONE if value is None else rounding.number(value, 3)


def tests_of(rows: Iterable[Summary | None]) -> list[str]:
    """Return the names of the test tasks on which some row has a score, in their order."""
    return list(dict.fromkeys(name for row in rows if row is not None for name in row["test"]))


def heading_of_test(summary: Summary, task: str, name: str | None = None) -> str:
    """Return the heading of a column with scores on a test task.

    Args:
        summary: The summary of the study.
        task: The name of the task in the summary.
        name: The name to show; by default that of the task.
    """
    goal = goal_on_test(summary["loaded"], task)
    return f"test: {task if name is None else name}" + (f", {goal.name}" if goal.lower_is_better else "")


def stopped_words(summary: Summary) -> str:
    """Return a sentence on why the study's last run stopped early; empty if it did not."""
    if summary["stopped"] is None:
        return ""
    return (
        f"The study stopped: {summary['stopped'].rstrip('.')}. Correct this and continue it with `partune resume`, or, "
        "if a function, a task or rows had to change, begin a new study."
    )


def reloaded_words(observation: Observation) -> str:
    """Return words on whether an adapter that PEFT loaded from disk gives the scores on record."""
    if observation.error is None:
        return f"PEFT loads it from disk, and {observation.scores['items']:g} items get the scores on record"
    return f"when PEFT loads it from disk, it does not get the scores on record ({observation.error})"


def remark(row: Summary) -> str:
    """Return the remark on a trial in the last column of a table; empty if the trial is done."""
    if row["status"] == Status.STOPPED:
        return f"stopped at {rounding.percent(row['fidelity'])}"
    return str(row["error"] or row["status"]) if row["status"] != Status.DONE else ""


def coverage_words(covered: Mapping[str, Any]) -> str:
    """Return which layers have adapters, and which layers have none and why."""
    where = f"adapters on {covered['layers']} layers in {covered['blocks']} of {covered['of']} blocks"
    without = [f"not on {', '.join(names)}, which {reason}" for reason, names in covered["left_out"].items()]
    return "; ".join([f"{where} ({', '.join(covered['names'])})", *without])


def span(seconds: float) -> str:
    """Return a duration, such as "3.1 s", "1 min 05 s" or "2 h 07 min"."""
    if seconds < 59.95:  # from here on, one decimal would round to 60.0 s
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def limits(trials: int | None, hours: float | None, device_hours: float | None) -> str:
    """Return the limits of a budget as words.

    Args:
        trials: The number of trials, if it is limited.
        hours: The hours of the clock, if they are limited.
        device_hours: The hours of all workers, if they are limited.
    """
    words = [
        None if trials is None else several(trials, "trial"),
        None if hours is None else span(3600 * hours),
        None if device_hours is None else f"{span(3600 * device_hours)} of all workers",
    ]
    return " or ".join(limit for limit in words if limit is not None)


def out_of_time_words(summary: Summary) -> str:
    """Return the sentence that says that hours ended the search; empty if they did not."""
    limited = summary["time_limits"]
    if not limited.get("over"):
        return ""
    limit = limits(None, limited.get("hours"), limited.get("device_hours"))
    return f"The limit of {limit} ended the search after {several(len(summary['trials']), 'trial')}."
