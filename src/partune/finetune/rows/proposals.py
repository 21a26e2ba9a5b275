"""Propose the flag to type for columns that do not tell the format, from their names and their texts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from partune.finetune.rows.values import Row, has_value, is_unnamed

# Names of columns that identify a row, in lower case: alone, or at the end of a longer name (user_id, ticket-nr).
IDENTIFIERS = re.compile(r"(^|.*[^a-z])(id|ids|idx|index|uuid|guid|key|nr|no|num|number|row|hash|url)$|^#$")
QUESTIONS = ("instruction", "question", "query", "prompt", "input")


def propose(
    rows: Sequence[Row], columns: Sequence[Any], fields: Sequence[str] | None, asked: Mapping[str, str] | None
) -> str:
    """Return what to type to say which column is which field.

    Columns that identify rows are never proposed. Of more columns with texts than there are fields, those with the
    longest and most different texts are proposed, and the message says that this is a guess.

    Args:
        rows: The rows.
        columns: The names of the columns.
        fields: The fields that the format requires; None if the format is not known.
        asked: The columns that the user gives, by field; None if there are none.
    """
    asked = {field: column for field, column in (asked or {}).items() if fields is None or field in fields}
    if fields is None and not asked and {"prompt", "completion"} <= {*columns}:
        return "say which is which, for example --format completion"
    question = next((name for name in QUESTIONS if name in columns), None)
    if fields is None and not asked and "chosen" in columns and question is not None:
        return _example({"prompt": question})
    free = [column for column in columns if column not in asked.values()]
    texts = [column for column in free if holds_texts(rows, column)]
    if fields is None and not asked:
        labels = [column for column in free if column not in texts and _holds_labels(rows, column)]
        if len(texts) == 1 and len(labels) == 1:
            return _example({"text": texts[0], "label": labels[0]})
        fields = ["text"] if len(texts) == 1 else ["instruction", "output"]
    wanted = [field for field in fields or ("instruction", "output") if field not in asked]
    lists = [column for column in free if _holds_lists(rows, column)]
    holds_chats = bool({"messages", "conversations"} & {*wanted})
    texts = lists if holds_chats else texts or lists
    if len(texts) < len(wanted):
        given = ",".join(f"{field}=COLUMN" for field in fields or ("instruction", "output"))
        few = "no column has" if not texts else f"only {texts[0]} has"
        what = "lists of messages" if holds_chats else "texts to read or to answer with"
        return f"{few} {what}; say which is which with --columns {given}"
    likely = [name for name in ("question", "answer") if name in texts]
    if len(likely) < len(wanted):
        ends = [*texts[:1], *texts[:0:-1]]  # of columns with texts alike, the first and the last
        longest = sorted(ends, key=lambda column: -_information(rows, column))[: len(wanted)]
        likely = sorted(longest, key=texts.index)
    guess = "which columns are meant cannot be told; " if len(texts) > len(wanted) else ""
    return guess + _example({**asked, **dict(zip(wanted, likely, strict=False))})


def _example(pairs: Mapping[str, Any]) -> str:
    flag = shlex.quote(",".join(f"{field}={column}" for field, column in pairs.items()))
    return f"say which is which, for example --columns {flag}"


def holds_texts(rows: Sequence[Row], column: Any) -> bool:
    """Return whether a column has texts that a model could read or write, not identifiers, numbers or dates.

    Args:
        rows: The rows.
        column: The name of the column.
    """
    values = _values(rows, column)
    if not values or _identifies(column) or not all(isinstance(value, str) for value in values):
        return False
    if not any(letter.isalpha() for value in values for letter in value):
        return False
    # Identifiers such as K-017 or those of a UUID: each once, each one word with a digit.
    single = all(len(value.split()) == 1 and re.search(r"\d", value) for value in values)
    return not (len(values) > 1 and single and len(set(values)) == len(values))


def _holds_lists(rows: Sequence[Row], column: Any) -> bool:
    """Return whether a column has lists of mappings, as messages are, or the same as JSON."""
    values = _values(rows, column)
    return bool(values) and all(
        value.lstrip().startswith("[{")
        if isinstance(value, str)
        else isinstance(value, (list, tuple)) and all(isinstance(item, dict) for item in value)
        for value in values
    )


def _holds_labels(rows: Sequence[Row], column: Any) -> bool:
    """Return whether a column has whole numbers that occur several times, as those of classes do."""
    values = [str(value) for value in _values(rows, column) if not isinstance(value, (list, tuple, dict, float))]
    counted = len(values) > 2 and all(re.fullmatch(r"\d{1,3}", value) for value in values)
    return counted and not _identifies(column) and 2 <= len(set(values)) <= len(values) / 2


def _identifies(column: Any) -> bool:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(column)).strip().lower()
    return is_unnamed(column) or bool(IDENTIFIERS.match(name))


def _values(rows: Sequence[Row], column: Any) -> list[Any]:
    return [row[column] for row in rows if has_value(row.get(column))]


def _information(rows: Sequence[Row], column: Any) -> float:
    """Return the mean length of a column's texts, times the share of texts that differ."""
    texts = [str(value) for value in _values(rows, column)]
    return sum(map(len, texts)) / len(texts) * len(set(texts)) / len(texts)
