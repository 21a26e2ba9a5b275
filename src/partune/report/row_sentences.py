"""Describe training data in sentences, for `partune data` and its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from partune.report.data_notes import COMPARED, cut_notes, length_words, row_notes, seen_notes
from partune.report.words import several

if TYPE_CHECKING:
    from partune.finetune.contamination import Seen
    from partune.finetune.inspection import Inspection

LONGEST = 100  # the largest number of characters of a row that are shown in one line


def reading_notes(found: Inspection) -> list[str]:
    """Return how the rows were read, and what is empty or repeated."""
    fields = ", ".join(found.summary["fields"].values())
    notes = [f"{several(found.rows, 'row')}, read as {found.summary['layout']} (columns: {fields})"]
    # The lengths come after this, with what is cut.
    notes += row_notes({**found.summary, "empty": found.empty, "truncated": 0, "untrainable": 0})
    if found.same_rows:
        notes.append(f"{_repeating(found.same_rows)} an earlier row.")
    if found.same_prompts:
        notes.append(f"{_repeating(found.same_prompts)} the prompt of an earlier row, with another answer.")
    return notes


def length_notes(found: Inspection) -> list[str]:
    """Return how long the examples are and what is cut; nothing without a tokenizer."""
    if not found.lengths:
        return []
    shortest, median, most, nearly, longest = found.lengths
    notes = [
        f"Tokens per example: {shortest} to {longest}, half have at most {median}, 90 % at most {most}, "
        f"99 % at most {nearly}.",
    ]
    if not found.cut:
        notes.append(f"No example is cut at {length_words(found.summary)}.")
    return notes + cut_notes(found.summary)


def scored_notes(seen: Sequence[Seen]) -> Iterator[tuple[str, Sequence[tuple[int, str]]]]:
    """Yield sentences on the validation rows and items of tasks that also occur among the rows.

    Args:
        seen: The findings, for the validation rows and each task.

    Yields:
        A sentence, and the rows that it is about: the number of each row, and the prompt of the item.
    """
    for entry in seen:
        *notes, last = seen_notes(entry.recorded)
        yield from ((note, ()) for note in notes)
        yield last, entry.rows
    if seen:
        yield COMPARED, ()


def shortened(text: str) -> str:
    """Return a text in one line, with its end cut off if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _repeating(count: int) -> str:
    return f"{several(count, 'row')} {'repeats' if count == 1 else 'repeat'}"
