"""What a report says of its verdict, wherever it is read: which test, over which runs, and what to do."""

from __future__ import annotations

from partune.report.data import Summary
from partune.trial import Status


def defaults_called(summary: Summary) -> str:
    """Return what a study's defaults are called."""
    return "the field's defaults" if summary["defaults"] is None else str(summary["defaults"]["called"])


def lost_words(summary: Summary) -> str:
    """Return what is wrong with the winner's adapter, to follow the verdict; nothing where nothing is known to be."""
    again = summary["reloaded"]
    return "" if again is None or again["same"] else f" But do not rely on the winner's adapter: {again['words']}."


def better_defaults(summary: Summary) -> str:
    """Return what to do where the defaults are shown better than the winner and than the base."""
    called = defaults_called(summary)
    return (
        f"{called[0].upper()}{called[1:]} are shown better than the winner and than the base: use them "
        "(partune export --defaults), or search on."
    )


def luckiest(summary: Summary) -> Summary | None:
    """The row of the best score, where that is not the winner and nothing was confirmed."""
    scored = [row for row in summary["trials"] if row["status"] == Status.DONE]
    first = max(scored, key=lambda row: row["score"], default=None)
    return None if first is None or first["score"] == summary["best"]["score"] or summary["confirmed"] else first


def small_print(summary: Summary) -> str:
    """Say which test the verdict is by, and what it is about."""
    over = summary["verdict"]["over_base"]
    return f"{over['test']}, on {over['items']} items that no optimiser saw; it {seed_words(summary)}"


def seed_words(summary: Summary) -> str:
    """Say what the verdict's test is about: seeds are in its error, or how to have them there; and which look it is."""
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
    """Return what follows from the verdict: the adapter that ships among its sisters, and when to take the defaults."""
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
    best, fresh, defaults = summary["best"], summary["fresh"], summary["defaults"]
    first = None if defaults is None or defaults["verdict"] is None else defaults["verdict"]["score"]
    told = [f"winner {_listed(fresh['winner'])}"]
    if fresh["defaults"]:
        told.append(f"defaults {_listed(fresh['defaults'], first)}")
    text = f"Fresh runs on the verdict items: {'; '.join(told)}. The verdict compares means, tables have one adapter."
    if best is None or best["verdict"] is None:
        return text
    own = best["verdict"]["score"]
    sisters = [score for score in fresh["winner"] if score is not None]
    if best["ships"] == "first":
        runs, which = [*sisters, own], "of the winner's first run"
    else:
        which = f"of a fresh run of the winner that was chosen by its {best['shipped']['score']:.4f} on search items"
        runs = sisters
    rank = 1 + sum(score > own for score in runs)
    return f"{text} The adapter that ships, {which}, has {own:.4f}: number {rank} of {len(runs)} runs."


def _listed(scores: list[float | None], first: float | None = None) -> str:
    """List scores of runs and their mean. first: of a run that counts as well, and was not a fresh one."""
    listed = ", ".join("failed" if score is None else f"{score:.4f}" for score in scores)
    counted = [score for score in (first, *scores) if score is not None]
    if not counted:
        return listed
    counts = "mean" if first is None else f"mean with the first run's {first:.4f}:"
    return f"{listed} ({counts} {sum(counted) / len(counted):.4f})"


def equal_words(summary: Summary) -> str:
    """Say that all scores are the same, and what that can mean."""
    count = sum(row["status"] == Status.DONE for row in summary["trials"])
    base = summary["base"]
    same = " and the untouched base's" if base is not None and base["score"] == summary["equal"] else ""
    return (
        f"All {count} scores{same} are equal to the last digit ({summary['equal']:.4f}): these items do not tell the "
        "trials apart, or training changes nothing (learning rates too low, too few steps)."
    )
