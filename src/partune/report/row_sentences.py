"""Describe training data in sentences, for `partune data` and its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from partune import config
from partune.report.data_notes import (
    COMPARED,
    cut_notes,
    length_words,
    named_notes,
    row_notes,
    seen_notes,
    validation_notes,
)
from partune.report.words import several

if TYPE_CHECKING:
    from partune.finetune.contamination import Seen
    from partune.finetune.inspection import Inspection

LONGEST = 100  # the largest number of characters of a row that are shown in one line


def reading_notes(found: Inspection) -> list[str]:
    """Return how the rows were read, and what is empty or repeated."""
    return [_read_as(found), *row_notes(_without_cuts(found)), *_repetitions(found)]


def file_notes(found: Inspection, file: Inspection, path: str) -> list[str]:
    """Return the notes on the file with validation rows: how its rows were read, their lengths, and what is cut.

    Args:
        found: What is in the training data.
        file: What is in the file.
        path: The path of the file.
    """
    notes = [_read_as(file), *validation_notes(_without_cuts(file), found.summary["format"]), *_repetitions(file)]
    return named_notes(names_of(path), [*notes, *length_notes(file, "validation row", "score")])


def names_of(path: str) -> str:
    """Return the names, without folders, of the files or the data set that a path names."""
    return ", ".join(PurePath(name).name for name in config.Data(path=path).paths)


def _read_as(found: Inspection) -> str:
    fields = ", ".join(found.summary["fields"].values())
    return f"{several(found.rows, 'row')}, read as {found.summary['layout']} (columns: {fields})"


def _without_cuts(found: Inspection) -> dict[str, Any]:
    """Return the summary without what is cut, which is said with the lengths."""
    return {**found.summary, "empty": found.empty, "truncated": 0, "untrainable": 0, "answerless": 0}


def _repetitions(found: Inspection) -> list[str]:
    notes = []
    if found.same_rows:
        notes.append(f"{_repeating(found.same_rows)} an earlier row.")
    if found.same_prompts:
        notes.append(f"{_repeating(found.same_prompts)} the prompt of an earlier row, with another answer.")
    return notes


def length_notes(found: Inspection, item: str = "training example", use: str = "train on") -> list[str]:
    """Return how long the examples are and what is cut; nothing without a tokenizer.

    Args:
        found: What is in the rows.
        item: What is cut, in the singular.
        use: What the tokens of an answer are for, as a verb.
    """
    if not found.lengths:
        return []
    shortest, median, most, nearly, longest = found.lengths
    notes = [
        f"Tokens per example: {shortest} to {longest}, half have at most {median}, 90 % at most {most}, "
        f"99 % at most {nearly}.",
    ]
    if not found.cut and "cut_at" in found.summary:
        notes.append(f"No example is cut at {length_words(found.summary)}.")
    return notes + cut_notes(found.summary, item, use)


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
