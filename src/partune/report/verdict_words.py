"""What a report says of its verdict, wherever it is read: which test, over which runs, and what to do.

Everything here takes the summary alone, so that terminal, page, Markdown, model card and export say the same.
"""

from __future__ import annotations

from partune.report.plain_data import Summary
from partune.report.words import score_of
from partune.runtime.rounding import number, score
from partune.trial import Status


def defaults_called(summary: Summary) -> str:
    """Return what a study's defaults are called."""
    return "the field's defaults" if summary["defaults"] is None else str(summary["defaults"]["called"])


def lost_words(summary: Summary) -> str:
    """Return what is wrong with the winner's adapter, to follow the verdict; nothing where nothing is known to be."""
    reloaded = summary["reloaded"]
    if reloaded is None or reloaded["same"]:
        return ""
    return f" But do not rely on the winner's adapter: {reloaded['words']}."


def better_defaults(summary: Summary) -> str:
    """Return what to do where the defaults are shown better than the winner and than the base."""
    called = defaults_called(summary)
    return (
        f"{called[0].upper()}{called[1:]} are shown better than the winner and than the base: use them "
        "(partune export --defaults), or search on."
    )


def luck(summary: Summary) -> str:
    """Return that a score above the winner's was luck; nothing where none is above it, or where any was confirmed."""
    scored = [row for row in summary["trials"] if row["status"] == Status.DONE]
    first = max(scored, key=lambda row: row["score"], default=None)
    if first is None or first["score"] == summary["best"]["score"] or summary["confirmed"]:
        return ""
    return f"Trial {first['id']} scored {score_of(first)}, but the trials around it suggest that part of that is luck."


def curse(summary: Summary) -> str:
    """Return by how much the first scores of the trials that ran again were too good; nothing where none ran again.

    Only the first further run counts: it chose no trial before it ran, while later ones run for those that it left.
    """
    lost = [
        row["score"] - row["again"][0] for row in summary["confirmed"] if row["again"] and row["again"][0] is not None
    ]
    if not lost:
        return ""
    mean = sum(lost) / len(lost)
    if mean <= 0:
        return "On average the first scores held when the trials ran again with fresh seeds."
    return f"The first scores were {number(mean, 2)} too good on average: the luck of a seed (the winner's curse)."


def small_print(summary: Summary) -> str:
    """Return which test the verdict is by, and what it is about."""
    over = summary["verdict"]["over_base"]
    return f"{over['test']}, on {over['items']} held-out items, which no optimiser saw; it {seed_words(summary)}"


def seed_words(summary: Summary) -> str:
    """Return what the verdict's test is about: whether seeds are in its error, or how to have them there.

    It also says which look at the study this was, as each look is held against a level of its own.
    """
    verdict = summary["verdict"]
    if verdict["seeds"]:
        defaults = verdict["over_defaults"]
        against = "" if defaults is None else f" and {defaults['runs'][1]} of the defaults"
        text = (
            f"is about the hyperparameters: {verdict['seeds']} fresh runs of the winner{against}, with other seeds of "
            "initialisation, dropout and data order, are in its error."
        )
    elif verdict["failed"]:
        text = "is about one adapter of each, as all fresh runs of the winner failed."
    else:
        text = (
            "leaves out how much another training seed would change the winner: partune resume --seeds 4 puts that "
            "into its error."
        )
    return (
        f"{text} This is look {verdict['look']} at the study, held against p = {verdict['level']:.3g}, so that all "
        'looks together say "better" by chance in one study of twenty at most.'
    )


def advice(summary: Summary) -> list[str]:
    """Return what follows from the verdict: how the adapter that ships compares with its sisters, what to use."""
    lines = []
    if (fresh := summary["fresh"]) is not None and fresh["winner"]:
        lines.append(_fresh_words(summary))
    if "base" in summary["verdict"]["worse_than"]:
        lines.append(
            "Do not use the winner: the untouched base is better (partune export refuses it without --anyway)."
        )
    if summary["verdict"]["use_defaults"]:
        lines.append(better_defaults(summary))
    return lines


def _fresh_words(summary: Summary) -> str:
    """Return the scores of all fresh runs, and where the adapter that ships stands among them."""
    best, fresh, defaults = summary["best"], summary["fresh"], summary["defaults"]
    judged = None if best is None else best["verdict"]
    stderr = None if judged is None else judged["stderr"]  # about that of every run, as all have the same items
    first = None if defaults is None or defaults["verdict"] is None else defaults["verdict"]["score"]
    groups = [f"winner {_listed(fresh['winner'], stderr)}"]
    if fresh["defaults"]:
        groups.append(f"defaults {_listed(fresh['defaults'], stderr, first)}")
    listed = "; ".join(groups)
    text = f"Fresh runs on the held-out items: {listed}. The verdict compares means, tables have one adapter."
    if judged is None:
        return text
    shipped = judged["score"]
    runs = [value for value in fresh["winner"] if value is not None]
    if best["ships"] == "first":
        runs, which = [*runs, shipped], "of the winner's first run"
    else:
        which = f"of a fresh run of the winner that was chosen by its {score_of(best['shipped'])} on search items"
    rank = 1 + sum(value > shipped for value in runs)
    return f"{text} The adapter that ships, {which}, has {score(shipped, stderr)}: number {rank} of {len(runs)} runs."


def _listed(scores: list[float | None], stderr: float | None, first: float | None = None) -> str:
    """Return scores of runs and their mean.

    Args:
        scores: The runs' scores, None for one that failed.
        stderr: The standard error of about each.
        first: The score of a run that counts in the mean too, though it was not a fresh one.
    """
    listed = ", ".join("failed" if value is None else score(value, stderr) for value in scores)
    counted = [value for value in (first, *scores) if value is not None]
    if not counted:
        return listed
    mean = score(sum(counted) / len(counted), stderr)
    with_first = "" if first is None else f" with the first run's {score(first, stderr)}:"
    return f"{listed} (mean{with_first} {mean})"


def equal_words(summary: Summary) -> str:
    """Return that all scores are the same, and what that can mean."""
    done = [row for row in summary["trials"] if row["status"] == Status.DONE]
    base = summary["base"]
    same = " and the untouched base's" if base is not None and base["score"] == summary["equal"] else ""
    return (
        f"All {len(done)} scores{same} are equal to the last digit ({score(summary['equal'], done[0]['stderr'])}): "
        "these items do not tell the trials apart, or training changes nothing (learning rates too low, too few steps)."
    )
