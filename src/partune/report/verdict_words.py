"""Explain a verdict in words: which test gave it, over which runs, and what to do.

All functions use only the summary, so that terminal, page, Markdown, model card and export say the same.
"""

from __future__ import annotations

from partune.config import baseline
from partune.report.plain_data import Summary
from partune.report.words import listed, score_of, settings
from partune.runtime.rounding import number
from partune.trial import Status
from partune.trial.goals import Goal, goal_of


def defaults_called(summary: Summary) -> str:
    """Return the name of a study's defaults."""
    return "the field's defaults" if summary["defaults"] is None else str(summary["defaults"]["called"])


def baseline_notes(summary: Summary) -> list[str]:
    """Return descriptions of the baselines if they are not the usual defaults."""
    first = summary["defaults"]
    if first is None:
        return []
    if first["name"] is None:
        return [f"Here the defaults are {first['called']}."] if first["called"] != baseline({}) else []
    return [source_words(row) for row in (first, *summary["baselines"])]


def sources(summary: Summary) -> list[str]:
    """Return a sentence on the values and the source of each baseline with a source on record."""
    rows = [summary["defaults"], *summary["baselines"]]
    return [source_words(row) for row in rows if row is not None and row["source"] is not None]


def fixed_words(summary: Summary) -> str:
    """Return a sentence on usual hyperparameters that were not searched; empty if all were."""
    return f"Not searched: {settings(summary['fixed'])}." if summary["fixed"] else ""


def source_words(row: Summary) -> str:
    """Return a sentence on a baseline's values and their source.

    Args:
        row: The row of the baseline in the summary.
    """
    called = "The defaults" if row["name"] is None else f"The baseline {row['name']}"
    given = ", with the study's own values" if " as given" in row["called"] else ""
    return f"{called}: {settings(row['config'])} (from {row['source']}{given})."


def lost_words(summary: Summary) -> str:
    """Return a sentence to add to the verdict if the winner's adapter is known to be wrong, otherwise an empty text."""
    reloaded = summary["reloaded"]
    if reloaded is None or reloaded["same"]:
        return ""
    return f" But do not rely on the winner's adapter: {reloaded['words']}."


def better_defaults(summary: Summary) -> str:
    """Return what to do if the defaults are shown to be better than the winner and the base model."""
    called = defaults_called(summary)
    first = summary["defaults"]
    if first is not None and first["name"] is not None:
        return better_baseline(first["name"])
    return (
        f"{called[0].upper()}{called[1:]} are shown better than the winner and than the base: use them "
        "(`partune export --defaults`), or continue the search."
    )


def better_baseline(name: str) -> str:
    """Return what to do if a recipe that the user named is shown to be better than the winner and the base model."""
    return (
        f"The baseline {name} is shown better than the winner and than the base: use it "
        f"(`partune export --trial {name}`), or continue the search."
    )


def chance_words(summary: Summary) -> str:
    """Return a sentence on why a trial that scored above the winner did not win; empty if there is no such trial.

    The text is also empty if trials were confirmed, because then the confirmation runs chose the winner.
    """
    goal = goal_of(summary["loaded"])
    scored = [row for row in summary["trials"] if row["status"] == Status.DONE]
    first = max(scored, key=lambda row: row["score"], default=None)
    if first is None or first["score"] == summary["best"]["score"] or summary["confirmed"]:
        return ""
    return (
        f"Trial {first['id']} scored {score_of(first, goal)}, but the trials around it suggest that part of this "
        f"{goal.name} is due to chance."
    )


def curse_words(summary: Summary) -> str:
    """Return how much too good the first scores of the confirmed trials were; empty if no trial was confirmed.

    Only the first confirmation run of a trial counts, because a later run is made only if the first one is good.
    """
    lost = [
        row["score"] - row["again"][0] for row in summary["confirmed"] if row["again"] and row["again"][0] is not None
    ]
    if not lost:
        return ""
    mean = sum(lost) / len(lost)
    if mean <= 0:
        return "On average the first scores held when the trials ran again with fresh seeds."
    return f"The first scores were {number(mean, 2)} too good on average, by chance (the winner's curse)."


def small_print(summary: Summary) -> str:
    """Return which test gives the verdict, and what the test is about."""
    over = summary["verdict"]["over_base"]
    return f"{over['test']}, on {over['items']} held-out items, which no optimiser saw. The test {seed_words(summary)}"


def seed_words(summary: Summary) -> str:
    """Return the end of a sentence that begins with "The test": whether the test's error includes training seeds.

    The text also says which look at the study this is, because each look has its own level for p.
    """
    verdict = summary["verdict"]
    if verdict["seeds"]:
        defaults = verdict["over_defaults"]
        groups = [f"{verdict['seeds']} fresh runs of the winner"]
        groups += [] if defaults is None else [f"{defaults['runs'][1]} of {_short(summary)}"]
        groups += [f"{other['runs'][1]} of the baseline {other['name']}" for other in verdict["others"]]
        text = (
            f"is about the hyperparameters: its error includes {listed(groups)}, "
            "with other seeds of initialisation, dropout and data order."
        )
    elif verdict["failed"]:
        text = "is about single adapters, because all fresh runs of the winner failed."
    else:
        text = (
            "leaves out how much another training seed would change the winner: `partune resume --seeds 4` adds that "
            "to its error."
        )
    return (
        f"{text} This is look {verdict['look']} at the study. It needs p ≤ {number(verdict['level'], 3)}, so that all "
        'looks together say "better" by chance in at most one study of twenty.'
    )


def _short(summary: Summary) -> str:
    """Return the first baseline's name for use in sentences, without its settings."""
    first = summary["defaults"]
    return "the defaults" if first is None or first["name"] is None else str(first["called"])


def advice(summary: Summary) -> list[str]:
    """Return what follows from the verdict: the rank of the exported adapter among the fresh runs, and what to use."""
    lines = []
    if (fresh := summary["fresh"]) is not None and fresh["winner"]:
        lines.append(_fresh_words(summary))
    if "base" in summary["verdict"]["worse_than"]:
        lines.append(
            "Do not use the winner: the untouched base is better (`partune export` refuses it without `--anyway`)."
        )
    if summary["verdict"]["use_defaults"]:
        lines.append(better_defaults(summary))
    elif summary["verdict"]["use"] is not None:
        lines.append(better_baseline(summary["verdict"]["use"]))
    return lines


def _fresh_words(summary: Summary) -> str:
    """Return the scores of all fresh runs, and the rank of the exported adapter among them."""
    best, fresh, defaults = summary["best"], summary["fresh"], summary["defaults"]
    judged = None if best is None else best["verdict"]
    # The standard error is about the same for every run, because all runs are scored on the same items.
    stderr = None if judged is None else judged["stderr"]
    first = None if defaults is None or defaults["verdict"] is None else defaults["verdict"]["score"]
    goal = goal_of(summary["loaded"])
    groups = [f"winner {_listed(fresh['winner'], stderr, goal)}"]
    if fresh["defaults"]:
        name = "defaults" if defaults is None or defaults["name"] is None else defaults["name"]
        groups.append(f"{name} {_listed(fresh['defaults'], stderr, goal, first)}")
    for row in summary["baselines"]:
        if scores := fresh["baselines"].get(row["name"]):
            first = None if row["verdict"] is None else row["verdict"]["score"]
            groups.append(f"{row['name']} {_listed(scores, stderr, goal, first)}")
    listed = "; ".join(groups)
    text = f"Fresh runs on the held-out items: {listed}. The verdict compares the means; the tables show one adapter."
    if judged is None:
        return text
    shipped = judged["score"]
    runs = [value for value in fresh["winner"] if value is not None]
    if best["ships"] == "first":
        runs, which = [*runs, shipped], "from the winner's first run"
    else:
        chosen = f"{goal.name} of {score_of(best['shipped'], goal)}"
        which = f"from the fresh run of the winner chosen by its {chosen} on search items"
    rank = 1 + sum(value > shipped for value in runs)
    shipping = (
        f"The adapter that ships is {which}. It scores {goal.score(shipped, stderr)}, rank {rank} of {len(runs)} runs."
    )
    return f"{text} {shipping}"


def _listed(scores: list[float | None], stderr: float | None, goal: Goal, first: float | None = None) -> str:
    """Return the scores of runs, and their mean.

    Args:
        scores: The scores of the runs; None for a failed run.
        stderr: The standard error of a score, about the same for each.
        goal: What the scores measure.
        first: The score of a first run. It is not a fresh run, but it counts in the mean. None leaves it out.
    """
    score = goal.score
    listed = ", ".join("failed" if value is None else score(value, stderr) for value in scores)
    counted = [value for value in (first, *scores) if value is not None]
    if not counted:
        return listed
    mean = score(sum(counted) / len(counted), stderr)
    with_first = "" if first is None else f" with the first run's {score(first, stderr)}:"
    return f"{listed} (mean{with_first} {mean})"


def equal_words(summary: Summary) -> str:
    """Return a sentence that says that all scores are equal, and what that can mean."""
    done = [row for row in summary["trials"] if row["status"] == Status.DONE]
    base, goal = summary["base"], goal_of(summary["loaded"])
    same = " and the untouched base's" if base is not None and base["score"] == summary["equal"] else ""
    equal = goal.score(summary["equal"], done[0]["stderr"])
    return (
        f"{'Both' if len(done) == 2 else f'All {len(done)}'} scores{same} are equal to the last digit ({equal}): "
        "these items do not tell the trials apart, or training changes nothing (learning rates too low, too few steps)."
    )
