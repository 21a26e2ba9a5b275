"""What a report says in words, as plain text: page and Markdown set it each in their own way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partune import strict_yaml
from partune.report import words
from partune.report.facts import Facts
from partune.report.summary import (
    Summary,
    better_defaults,
    defaults_called,
    defaults_won,
    lost_words,
    luckiest,
    seed_words,
    span,
)
from partune.trial import Status

NAMES = {"base": "base", "defaults": "defaults", "best": "winner"}
COMPARED = ("winner over", "gain", "95 % interval", "p", "test")


def badge(facts: Facts) -> tuple[str, str]:
    """The verdict in two or three words, and its kind: good, open or bad."""
    verdict = facts.summary["verdict"]
    if facts.winner is None:
        return ("no result", "bad") if facts.trials and facts.over else ("no result yet", "open")
    if facts.summary["base"] is None:
        return ("finished" if facts.over else "running or stopped"), "open"
    if verdict is None:
        return "no verdict yet", "open"
    if not verdict["better_than"]:
        return "not shown better", "bad"
    return ("better than base and defaults", "good") if _beats_all(verdict) else ("better than base", "good")


def headline(facts: Facts) -> str:
    """The verdict in a sentence: better or not, by how much, how sure."""
    summary, winner = facts.summary, facts.winner
    if winner is None:
        ended = [trial for trial in facts.trials if trial.status.final]
        failed = all(trial.status is Status.FAILED for trial in ended)
        return (
            f"No result: all {words.several(len(ended), 'trial')} failed."
            if ended and failed
            else "No trial has ended yet."
        )
    best, base, verdict = summary["best"], summary["base"], summary["verdict"]
    score = words.measured(best["score"], best["stderr"])
    if base is None:
        return f"The best score is {score}, of trial {winner.number}; there is no base model to compare it with."
    if verdict is None:
        return (
            f"No verdict yet: trial {winner.number} leads with {score} on the search items "
            f"(untouched base {words.measured(base['score'], base['stderr'])})."
        )
    over_base, over_defaults = verdict["over_base"], verdict["over_defaults"]
    if not verdict["better_than"]:
        return (
            f"Trial {winner.number}, the winner, is not shown to be better than the untouched base model: "
            f"{_gain(over_base)} on {_items(verdict)}."
        )
    text = f"Trial {winner.number}, the winner, is better than the untouched base model by {_by(over_base)}"
    if over_defaults is not None and _beats_all(verdict):
        text += f" and than {defaults_called(summary)} by {_by(over_defaults)}"
    elif over_defaults is not None:
        text += f", but not shown to be better than {defaults_called(summary)}: {_gain(over_defaults)}"
    return f"{text}, on {_items(verdict)}."


def remarks(facts: Facts) -> list[str]:
    """What else a reader has to know of the verdict."""
    summary = facts.summary
    found = []
    if not facts.over:
        found.append(
            f"{words.progress([trial.status for trial in facts.trials], facts.budget)}: what follows is how it stands."
        )
    if facts.winner is not None and (first := luckiest(summary)) is not None:
        score = words.measured(first["score"], first["stderr"])
        found.append(f"Trial {first['id']} scored {score}, more of it by luck, judging by the trials around both.")
    if lost := lost_words(summary):
        found.append(lost.strip())
    if summary["verdict"] is not None:
        if defaults_won(summary["verdict"]):
            found.append(better_defaults(summary))
        found.append(f"The test {seed_words(summary)}")
    return found


def standing(facts: Facts) -> tuple[list[str], list[list[str]]]:
    """Base, defaults and winner on search items, verdict items and test tasks: the table's head, and its rows."""
    judged = any(row["verdict"] is not None for row in facts.scored.values())
    rows = []
    for name, row in facts.scored.items():
        given = [row, *([row["verdict"]] if judged else []), *(row["test"].get(task) for task in facts.tests)]
        rows.append([NAMES[name], *(words.NONE if each is None else _measured(each) for each in given)])
    return [
        "",
        "search items",
        *(["verdict items"] if judged else []),
        *(f"test: {name}" for name in facts.tests),
    ], rows


def comparisons(facts: Facts) -> list[tuple[str, str, str, str, str]]:
    """The paired tests on the verdict items: rows under COMPARED."""
    verdict = facts.summary["verdict"]
    if verdict is None:
        return []
    rows = [("untouched base", verdict["over_base"]), ("defaults", verdict["over_defaults"])]
    return [
        (
            name,
            words.measured(found["gain"], found["stderr"], "+"),
            _interval(found),
            words.chance(found["p"]),
            f"{found['test']}, {found['items']:,} items",
        )
        for name, found in rows
        if found is not None
    ]


def curse(facts: Facts) -> str:
    """By how much the first scores of those that ran again were too good."""
    confirmed = facts.summary["confirmed"]
    lost = [row["score"] - row["again"][0] for row in confirmed if row["again"] and row["again"][0] is not None]
    if not lost:
        return ""
    mean = sum(lost) / len(lost)
    if mean <= 0:
        return "On average the first scores held when the trials ran again with fresh seeds."
    return (
        f"The first scores were {words.number(mean, 2)} too good on average: the luck of a seed (the winner's curse)."
    )


def cost(facts: Facts) -> str:
    """The study's time, as an invoice would say it."""
    total = sum(part.seconds for part in facts.parts)
    where = f" on {facts.device}" if facts.device else ""
    rate = [row["seconds"] for row in facts.summary["trials"] if row["seconds"] is not None]
    text = f"{took(total)} of a worker's time in all{where}"
    if facts.device:
        text += f": {words.number(total / 3600, 2)} {facts.unit}"
    if rate:
        mean = sum(rate) / len(rate)
        text += f"; a trial took {took(mean)} on average"
    if (busy := facts.summary["utilisation"]) is not None:
        text += f"; workers were busy for {busy:.0%} of the search"
    return f"{text}."


def time_table(facts: Facts) -> tuple[list[str], list[tuple[str, str, str]]]:
    total = sum(part.seconds for part in facts.parts)
    rows = [(part.name, took(part.seconds), f"{100 * part.seconds / total:.0f} %") for part in facts.parts]
    return ["", "time", "share"], rows


def settings(facts: Facts) -> str:
    """What the study is, as YAML: its file; without one, what it was given in Python."""
    if facts.config is not None:
        return facts.config
    header = {name: facts.header[name] for name in ("algorithm", "options", "seed", "objective", "space")}
    return yaml_text({**header, "budget": facts.budget})


def yaml_text(data: Mapping[str, Any]) -> str:
    return strict_yaml.dump(dict(data))


def took(seconds: float) -> str:
    return span(seconds) if seconds >= 0.1 else f"{words.number(1000 * seconds, 2)} ms"


def importance(facts: Facts) -> list[str]:
    """Of what the importances were computed, and what they leave out."""
    found = facts.importance
    if found is None:
        return ["There is nothing to tell: it takes two scores that differ, and two hyperparameters that do."]
    many = f"{found.trials:,} of " if found.trials < found.done else ""
    lines = [f"Functional ANOVA of a random forest through {many}{words.several(found.done, 'score')} (Optuna's)."]
    if found.rough:
        lines.append("So few scores give a rough guess.")
    if found.left_out:
        lines.append(
            f"Left out, as they do not vary or exist in some trials only: {words.listed(list(found.left_out))}."
        )
    return lines


def overfitting(facts: Facts) -> list[str]:
    """The flags of overfitting; else that there are none."""
    if facts.summary["base"] is None:
        return ["There is nothing to compare: this objective has no base model, verdict items or test tasks."]
    if facts.overfitting:
        return facts.overfitting
    if facts.summary["verdict"] is None and not facts.tests:
        return ["It shows when the winner is scored on the verdict items."]
    checked = [*(["the verdict items"] if facts.summary["verdict"] is not None else []), *facts.tests]
    return [f"No sign of overfitting on {words.listed(checked)}."]


def agreement(facts: Facts, task: str) -> str:
    found = facts.agreement(task)
    if found is None:
        return "Too few trials were tested for a correlation."
    correlation, n = found
    text = f"Rank correlation (Spearman) of both scores over {n:,} trials: {correlation:.2f}."
    return text if correlation > 0 else f"{text} What is good on the validation task is not good on {task}."


def failures(facts: Facts) -> str:
    number = sum(len(each.trials) for each in facts.failures)
    stopped = sum(trial.status is Status.STOPPED for trial in facts.trials)
    restarted = [trial for trial in facts.trials if trial.attempts > 1]
    lines = [f"{number:,} of {words.several(len(facts.trials), 'trial')} failed." if number else "No trial failed."]
    if stopped:
        lines.append(f"{words.several(stopped, 'trial')} stopped early, as planned (rungs).")
    if restarted:
        lines.append(f"{words.several(len(restarted), 'trial')} started more than once, after an interruption.")
    return " ".join(lines)


def _beats_all(verdict: Summary) -> bool:
    return "defaults" in verdict["better_than"]


def _by(found: Summary) -> str:
    return f"{words.measured(found['gain'], found['stderr'])} ({words.chance(found['p'])})"


def _measured(row: Summary) -> str:
    return words.measured(row["score"], row["stderr"])


def _gain(found: Summary) -> str:
    return f"gain {words.measured(found['gain'], found['stderr'], '+')} ({words.chance(found['p'])})"


def _interval(found: Summary) -> str:
    places = words.decimals(found["stderr"]) if words.uncertain(found["stderr"]) else 4
    low, high = found["interval"]
    return f"{low:+.{places}f} … {high:+.{places}f}"


def _items(verdict: Summary) -> str:
    return f"{verdict['over_base']['items']:,} items that no optimiser saw"
