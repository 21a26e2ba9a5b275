"""Write a study's report as Markdown, for a pull request or an issue.

This is the HTML page without its figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from partune.report import sentences, words
from partune.report.answers import CAPTION, answer_table
from partune.report.data_notes import loaded_notes
from partune.report.facts import Facts
from partune.report.labels import confusions
from partune.report.verdict_words import fixed_words, sources
from partune.runtime import rounding
from partune.runtime.markdown import fenced, plain, table


def markdown(facts: Facts) -> str:
    """Return the report of a study as Markdown."""
    lines = [f"# Study {plain(facts.name)}", "", f"**{plain(sentences.headline(facts))}**", ""]
    lines += [f"{plain(text)}\n" for text in sentences.remarks(facts)]
    if facts.winner is not None:
        config = ((name, words.value(given)) for name, given in facts.winner.config.items())
        lines += [
            escaped(["winner's hyperparameter", "value"], config),
            *(f"- {plain(hint)}" for hint in facts.hints),
            *([plain(fixed)] if (fixed := fixed_words(facts.summary)) else []),
            "",
        ]
    if facts.scored:
        lines += [f"## {sentences.compared(facts)}", "", escaped(*sentences.standing(facts))]
        lines += [f"{plain(note)}\n" for note in sources(facts.summary)]
    if rows := sentences.comparisons(facts):
        lines.append(escaped(sentences.COMPARED, rows))
    if (table_of_labels := confusions(facts.summary["labels"])) is not None:
        lines += ["## Labels", "", escaped(*table_of_labels)]
    if (table_of_answers := answer_table(facts.summary["answers"])) is not None:
        lines += ["## Answers", "", f"{CAPTION}\n", escaped(*table_of_answers)]
    lines += ["## What matters", ""]
    if facts.importance is not None:
        shares = [(name, rounding.percent(share)) for name, share in facts.importance.shares.items()]
        lines.append(escaped(["hyperparameter", "share of the scores' variance"], shares))
    lines += [plain(" ".join(sentences.importance(facts))), ""]
    lines += ["## Validation against test", "", *(f"{plain(text)}\n" for text in sentences.overfitting(facts))]
    lines += ["## Time and cost", "", plain(sentences.cost(facts)), "", escaped(*sentences.time_table(facts))]
    lines += ["## Failures", "", plain(sentences.failures(facts)), ""]
    lines += [f"- {len(failure.trials)}: {plain(failure.cause)}" for failure in facts.failures]
    versions = words.listed([f"{name} {version}" for name, version in facts.summary["versions"].items()])
    if notes := loaded_notes(facts.summary["loaded"]):
        lines += ["", "## The data", "", plain(" ".join(notes))]
    lines += ["", "## Repeat it", "", plain(f"With {versions}."), ""]
    lines += ["<details><summary>The study</summary>", "", fenced(sentences.settings(facts), "yaml"), "", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def escaped(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of plain texts in Markdown, followed by an empty line.

    Args:
        headers: The headings of the columns.
        rows: The cells of each row. They are escaped here.
    """
    return table([plain(cell) for cell in row] for row in (headers, *rows)) + "\n"
