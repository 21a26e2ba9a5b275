"""What became of the data's rows, in sentences: nothing is dropped or cut in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partune.report import words


def row_notes(data: Mapping[str, Any]) -> list[str]:
    """Return what a user should know of how rows were read, a sentence each.

    Args:
        data: What the record says of the data that was loaded.
    """
    notes = []
    if count := data.get("rows_with_unused"):
        fields = ", ".join(data["unused"])
        notes.append(
            f"{words.several(count, 'row')} {'has' if count == 1 else 'have'} fields that are not used: {fields}."
        )
    if count := data.get("empty_answers"):
        notes.append(f"{words.several(count, 'answer')} {'is' if count == 1 else 'are'} empty.")
    if count := data.get("cut_by_template"):
        notes.append(f"Of {words.several(count, 'chat')} the chat template leaves out or changes a part of a message.")
    if count := data.get("endless_answers"):
        notes.append(
            f"In {words.several(count, 'chat')} nothing behind the last answer is trained on: where answers "
            "end is not learned."
        )
    if count := data.get("answers_apart"):
        notes.append(
            f"{words.several(count, 'answer')} that the chat template writes otherwise once a chat goes on: trained as "
            "the end of the chat so far, in examples of their own."
        )
    if count := data.get("unknown_tokens"):
        notes.append(
            f"{words.several(count, 'token')} stand{'s' if count == 1 else ''} for what the tokenizer does not know."
        )
    return notes
