"""The report as Markdown, for a pull request or an issue: what the page says, without its figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from partune.report import sentences, words
from partune.report.facts import Facts

FENCE = "```"
MARKS = re.compile(r"([\\`*\[\]|<>~#]|(?<!\w)_|_(?!\w))")


def markdown(facts: Facts) -> str:
    lines = [f"# Study {plain(facts.name)}", "", f"**{plain(sentences.headline(facts))}**", ""]
    lines += [f"{plain(text)}\n" for text in sentences.remarks(facts)]
    if facts.winner is not None:
        config = ((name, words.value(given)) for name, given in facts.winner.config.items())
        lines += [
            *table(["winner's hyperparameter", "value"], config),
            *(f"- {plain(hint)}" for hint in facts.hints),
            "",
        ]
    if facts.scored:
        lines += ["## Base, defaults, winner", "", *table(*sentences.standing(facts))]
    if rows := sentences.comparisons(facts):
        lines += table(sentences.COMPARED, rows)
    lines += ["## What matters", ""]
    if facts.importance is not None:
        shares = [(name, f"{100 * share:.0f} %") for name, share in facts.importance.shares.items()]
        lines += table(["hyperparameter", "share of the scores' variance"], shares)
    lines += [plain(" ".join(sentences.importance(facts))), ""]
    lines += ["## Validation against test", "", *(f"{plain(text)}\n" for text in sentences.overfitting(facts))]
    lines += ["## Time and cost", "", plain(sentences.cost(facts)), "", *table(*sentences.time_table(facts))]
    lines += ["## Failures", "", plain(sentences.failures(facts)), ""]
    lines += [f"- {len(each.trials)}: {plain(each.cause)}" for each in facts.failures]
    versions = words.listed([f"{name} {version}" for name, version in facts.summary["versions"].items()])
    lines += ["", "## Repeat it", "", plain(f"With {versions}."), "", *_code(sentences.settings(facts))]
    return "\n".join(lines).rstrip() + "\n"


def plain(text: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    return MARKS.sub(r"\\\1", " ".join(str(text).splitlines()))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table, and an empty one."""
    body = [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(map(plain, headers))} |", "|---" * len(headers) + "|", *body, ""]


def _code(text: str) -> list[str]:
    """A block of code, folded away, in a fence that is longer than any within."""
    fence = FENCE
    while fence in text:
        fence += "`"
    return ["<details><summary>The study</summary>", "", f"{fence}yaml", text.rstrip(), fence, "", "</details>"]
