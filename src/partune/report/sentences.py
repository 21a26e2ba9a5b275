"""Write the sentences and tables of a study's report as plain text, for the page, Markdown and the dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partune.report import words
from partune.report.facts import Facts
from partune.report.labels import label_notes
from partune.report.plain_data import Summary
from partune.report.verdict_words import advice, chance_words, defaults_called, equal_words, lost_words, seed_words
from partune.report.words import span
from partune.runtime import rounding, strict_yaml
from partune.trial import Status

COMPARED = ("winner over", "gain", "95 % interval, two-sided", "p, one-sided", "test")


def compared(facts: Facts) -> str:
    """Return the heading of the comparison of base, baselines and winner."""
    middle = "defaults" if first_name(facts.summary) == "defaults" else "baselines"
    return f"Base, {middle}, winner"


def label(facts: Facts, name: str) -> str:
    """Return a row's name in tables and figures.

    Args:
        facts: The facts of the study.
        name: The name of the row in `Facts.scored`.
    """
    return first_name(facts.summary) if name == "defaults" else {"best": "winner"}.get(name, name)


def called(facts: Facts, name: str) -> str:
    """Return a row's name for use in sentences: "the winner", "the defaults" or "the baseline NAME".

    Args:
        facts: The facts of the study.
        name: The name of the row in `Facts.scored`.
    """
    shown = label(facts, name)
    return f"the {shown}" if shown in ("winner", "defaults", "base") else f"the baseline {shown}"


def badge(facts: Facts) -> tuple[str, str]:
    """Return the verdict in a few words, and the kind of its badge: good, open or bad."""
    verdict = facts.summary["verdict"]
    if facts.winner is None and facts.summary["stopped"] is not None:
        return "stopped", "bad"
    if facts.winner is None:
        return ("no result", "bad") if facts.trials and facts.over else ("no result yet", "open")
    if facts.summary["base"] is None:
        return ("finished" if facts.over else "running or stopped"), "open"
    if verdict is None:
        return "no verdict yet", "open"
    if "base" in verdict["worse_than"]:
        return "shown worse than base", "bad"
    if not verdict["better_than"]:
        return "not shown better", "bad"
    names = {"defaults": first_name(facts.summary)}
    if worse := [names.get(name, name) for name in verdict["worse_than"]]:
        return f"better than base, shown worse than {words.listed(worse)}", "open"
    return f"better than {words.listed([names.get(name, name) for name in verdict['better_than']])}", "good"


def first_name(summary: Summary) -> str:
    """Return the short name of the first baseline: "defaults", or the name that the user gave."""
    first = summary["defaults"]
    return "defaults" if first is None or first["name"] is None else str(first["name"])


def headline(facts: Facts) -> str:
    """Return the verdict in a sentence, with the gain and its p-value."""
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
    score = words.score_of(best, facts.goal)
    if base is None:
        return (
            f"The best {facts.goal.name} is {score}, of trial {winner.number}; there is no base model to compare it "
            "with."
        )
    if verdict is None:
        named = f"{facts.goal.label} {score}".lstrip()
        return (
            f"No verdict yet: trial {winner.number} leads with {named} on the search items (untouched base "
            f"{words.score_of(base, facts.goal)})."
        )
    equal = f"{equal_words(summary)} " if summary["equal"] is not None else ""
    return f"{equal}{_judged(winner.number, verdict, defaults_called(summary))}, on {_items(verdict)}."


def _judged(number: int, verdict: Summary, defaults: str) -> str:
    """Return what the tests of a verdict show about the winner.

    Args:
        number: The winner's number.
        verdict: The verdict in the summary.
        defaults: The name of the defaults.
    """
    over_base, over_defaults = verdict["over_base"], verdict["over_defaults"]
    what = "the winner" if verdict["seeds"] else "the winner (judged by the one adapter that the search trained)"
    text = f"Trial {number}, {what}, is"
    if verdict["failed"] and "base" not in verdict["worse_than"]:
        runs = verdict["failed"] + verdict["seeds"]
        compared = "in the runs that did not fail" if verdict["seeds"] else "with the first run's adapter"
        text += (
            f" not shown to be better than the untouched base model, because {verdict['failed']} of its {runs} fresh "
            f"runs failed: {_gain(over_base)} {compared}"
        )
    elif "base" in verdict["worse_than"]:
        text += f" shown to be worse than the untouched base model: {_gain(over_base)}"
    elif not verdict["better_than"]:
        text += f" not shown to be better than the untouched base model: {_gain(over_base)}"
    else:
        text += f" better than the untouched base model by {_by(over_base)}"
    if over_defaults is None:
        return text
    if "defaults" in verdict["worse_than"]:
        text += f", and shown to be worse than {defaults}: {_gain(over_defaults)}"
    elif _beats_all(verdict):
        text += f" and than {defaults} by {_by(over_defaults)}"
    elif verdict["better_than"]:
        text += f", but not shown to be better than {defaults}: {_gain(over_defaults)}"
    return text + "".join(_against(other, verdict) for other in verdict["others"])


def _against(other: Summary, verdict: Summary) -> str:
    """Return what the tests of a verdict show about the winner and a further baseline.

    Args:
        other: The comparison with the baseline.
        verdict: The verdict in the summary.
    """
    name = other["name"]
    if not other["tested"]:
        return f"; it was not tested against the baseline {name}"
    if name in verdict["worse_than"]:
        return f"; it is shown to be worse than the baseline {name}: {_gain(other)}"
    if name in verdict["better_than"]:
        return f"; it is better than the baseline {name} by {_by(other)}"
    return f"; it is not shown to be better than the baseline {name}: {_gain(other)}"


def remarks(facts: Facts) -> list[str]:
    """Return what else a reader should know about the verdict, one sentence each."""
    summary = facts.summary
    lines = [stopped] if (stopped := words.stopped_words(summary)) else []
    if not facts.over:
        lines.append(
            f"{words.progress([trial.status for trial in facts.trials], facts.summary['budget'])}: all results are "
            "preliminary."
        )
    if ended := words.out_of_time_words(summary):
        lines.append(ended)
    if facts.winner is not None and (chance := chance_words(summary)):
        lines.append(chance)
    lines += words.loss_words(summary)
    lines += label_notes(summary["labels"])
    if lost := lost_words(summary):
        lines.append(lost.strip())
    if summary["verdict"] is not None:
        lines += advice(summary)
        lines.append(f"The test {seed_words(summary)}")
    elif facts.searched and summary["no_verdict"] is not None:
        lines.append(summary["no_verdict"])
    return lines


def standing(facts: Facts) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table with the scores of base, defaults and winner on each kind of items."""
    judged = any(row["verdict"] is not None for row in facts.scored.values())
    rows = []
    for name, row in facts.scored.items():
        ours = [row, *([row["verdict"]] if judged else [])]
        tested = [words.score_of(row["test"].get(task), facts.goal_on(task)) for task in facts.tests]
        rows.append([label(facts, name), *(words.score_of(part, facts.goal) for part in ours), *tested])
    return [
        facts.goal.label,
        "search items",
        *(["held-out items"] if judged else []),
        *(words.heading_of_test(facts.summary, task) for task in facts.tests),
    ], rows


def comparisons(facts: Facts) -> list[tuple[str, str, str, str, str]]:
    """Return the paired tests on the held-out items, as rows of a table whose headings are COMPARED."""
    verdict = facts.summary["verdict"]
    if verdict is None:
        return []
    rows = [("untouched base", verdict["over_base"]), (first_name(facts.summary), verdict["over_defaults"])]
    rows += [(other["name"], other) for other in verdict["others"]]
    return [
        (
            name,
            rounding.difference(comparison["gain"], comparison["stderr"]),
            _interval(comparison),
            "not tested"
            if not comparison.get("tested", True)
            else f"{rounding.chance(_chance(comparison))}{' of a loss' if comparison['relation'] == 'worse' else ''}",
            f"{comparison['test']}; {comparison['items']:,} items",
        )
        for name, comparison in rows
        if comparison is not None
    ]


def cost(facts: Facts) -> str:
    """Return a sentence on the study's time: in total, per trial, and the workers' utilisation."""
    total = sum(part.seconds for part in facts.parts)
    where = f" on {facts.device}" if facts.device else ""
    rate = [row["seconds"] for row in facts.summary["trials"] if row["seconds"] is not None]
    text = f"{took(total)} of worker time in total{where}"
    if facts.device:
        text += f": {rounding.number(total / 3600, 2)} {facts.unit}"
    if rate:
        mean = sum(rate) / len(rate)
        text += f"; a trial took {took(mean)} on average"
    if (busy := facts.summary["utilisation"]) is not None:
        text += f"; workers were busy for {rounding.percent(busy)} of the search"
    return f"{text}."


def time_table(facts: Facts) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return headings and rows of the table of the study's time by what it was used for."""
    total = sum(part.seconds for part in facts.parts)
    rows = [(part.name, took(part.seconds), rounding.percent(part.seconds / total)) for part in facts.parts]
    return ["", "time", "share"], rows


def settings(facts: Facts) -> str:
    """Return the study's settings file; if the study was started from Python, return its settings as YAML."""
    if facts.config is not None:
        return facts.config
    header = {name: facts.header[name] for name in ("algorithm", "options", "seed", "objective", "space")}
    return yaml_text({**header, "budget": facts.budget})


def yaml_text(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML."""
    return strict_yaml.dump(dict(data))


def took(seconds: float) -> str:
    """Return a duration in words; a duration below 0.1 s is in milliseconds."""
    return span(seconds) if seconds >= 0.1 else f"{rounding.number(1000 * seconds, 2)} ms"


def importance(facts: Facts) -> list[str]:
    """Return sentences on how the importances were computed, and which hyperparameters they leave out."""
    computed = facts.importance
    if computed is None:
        return ["Importances need two different scores, and two hyperparameters that vary."]
    many = f"{computed.trials:,} of " if computed.trials < computed.done else ""
    lines = [f"Functional ANOVA of Optuna's random forest, fitted to {many}{words.several(computed.done, 'score')}."]
    if computed.rough:
        lines.append("So few scores give only a rough guess.")
    if computed.left_out:
        lines.append(
            "Left out, because they do not vary or do not exist in all trials: "
            f"{words.listed(list(computed.left_out))}."
        )
    return lines


def overfitting(facts: Facts) -> list[str]:
    """Return the sentences that flag overfitting, or one that says why there is no flag."""
    if facts.summary["base"] is None:
        return ["There is nothing to compare: this objective has no base model, held-out items or test tasks."]
    if facts.overfitting:
        return facts.overfitting
    if facts.summary["verdict"] is None and not facts.tests:
        return ["Overfitting can only be seen once the winner is scored on the held-out items."]
    checked = [*(["the held-out items"] if facts.summary["verdict"] is not None else []), *facts.tests]
    return [f"No sign of overfitting on {words.listed(checked)}."]


def agreement(facts: Facts, task: str) -> str:
    """Return a sentence on how the trials' scores on the search items correlate with those on a test task.

    Args:
        facts: The facts of the study.
        task: The test task's name.
    """
    agreement = facts.agreement(task)
    if agreement is None:
        return "Too few trials have a score on this task for a correlation."
    correlation, n = agreement
    text = f"Rank correlation (Spearman) of both scores over {n:,} trials: {rounding.fixed(correlation, 2)}."
    return text if correlation > 0 else f"{text} Trials that are good on the validation task are not good on {task}."


def failures(facts: Facts) -> str:
    """Return sentences on how many trials failed, stopped early or started more than once."""
    number = sum(len(failure.trials) for failure in facts.failures)
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


def _chance(comparison: Summary) -> float:
    """Return the p-value of a loss if one is shown, otherwise that of a gain."""
    return float(comparison["p_worse"] if comparison["relation"] == "worse" else comparison["p"])


def _by(comparison: Summary) -> str:
    return (
        f"{rounding.difference(comparison['gain'], comparison['stderr'], sign='')} ({rounding.chance(comparison['p'])})"
    )


def _gain(comparison: Summary) -> str:
    if comparison["equal"]:
        return "no held-out item differs, so nothing can be shown"
    return (
        f"gain {rounding.difference(comparison['gain'], comparison['stderr'])} ({rounding.chance(_chance(comparison))})"
    )


def _interval(comparison: Summary) -> str:
    low, high = comparison["interval"]
    return rounding.interval(low, high, comparison["stderr"])


def _items(verdict: Summary) -> str:
    return f"{verdict['over_base']['items']:,} held-out items, which no optimiser saw"
