"""Check rows and bring them to one of four forms: instructions, chats, prompts with completions, and texts.

No field with a value is dropped silently. The field is used, or counted as unused, or a UserError names its row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any, Literal

from partune import config
from partune.errors import UserError
from partune.finetune.rows.columns import Columns, find_columns
from partune.finetune.rows.differences import difference
from partune.finetune.rows.messages import check_roles, parse_json, plain_chat, plain_sharegpt, prompted_chat
from partune.finetune.rows.values import (
    NULL_ADVICE,
    BadRowError,
    MissingFieldError,
    Places,
    Row,
    has_value,
    require,
    shown,
    text_of,
    unbroken,
    value_of,
)

Format = Literal["alpaca", "chat", "completion", "text"]  # the forms in which rows are trained on


@dataclass(frozen=True)
class Rows:
    """Rows of one form.

    Attributes:
        form: The form: rows with Alpaca's names, chats, prompts with completions, or texts.
        rows: The number of each row (from 1) and its fields. An Alpaca row has Alpaca's names. A chat has its messages,
            the template's other arguments, and the indices of messages that are not trained on (`untrained`).
        names: Maps the form's name of a field to the name that this field has in the data.
        unused: Maps the number of a row to the names of its fields that have a value and are not used.
        layout: The format in which the rows are written.
        rejected: The number of rejected answers, which are not used.
        same_as_rejected: The number of rows whose chosen answer is the rejected one.
    """

    form: Format
    rows: list[tuple[int, Row]]
    names: Mapping[str, str]
    unused: Mapping[int, list[str]]
    layout: str = "alpaca"
    rejected: int = 0
    same_as_rejected: int = 0


def normalise(data: config.Data, rows: Sequence[Row], places: Places | None = None) -> Rows:
    """Check rows and bring them to the form of their format.

    Args:
        data: Section `data` of a study.
        rows: The rows as they were read.
        places: Where the rows come from; by default, from one file.

    Raises:
        UserError: A row is wrong, or the columns do not tell the format. The message names the first such row and the
            fault.
    """
    places = places or Places(data.path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{places.of(number)}: a row is a mapping, got {type(row).__name__}")
    columns = find_columns(data, rows)
    form, names = _form(columns, rows), columns.names
    plain: list[tuple[int, Row]] = []
    unused: dict[int, list[str]] = {}
    for number, row in enumerate(rows, 1):
        try:
            fields = _plain(row, names, columns.layout, form)
        except MissingFieldError as problem:
            raise UserError(difference(data, rows, number, problem, places)) from None
        except BadRowError as problem:
            raise UserError(f"{places.of(number)}: {problem}") from None
        if left := [str(name) for name in row if name not in names.values() and has_value(row[name])]:
            unused[number] = left
        plain.append((number, fields))
    if form == "chat":
        check_roles(data, plain, places)
    rejected = sum(has_value(value_of(row, names, "rejected")) for row in rows)
    if columns.layout == "preference" and form == "completion":
        names = {"completion" if name == "chosen" else name: column for name, column in names.items()}
    same = sum(
        has_value(answer := value_of(row, columns.names, "rejected"))
        and parse_json(answer) == parse_json(value_of(row, columns.names, "chosen"))
        for row in rows
    )
    return Rows(form, plain, names, unused, columns.layout, rejected, same)


def _form(columns: Columns, rows: Sequence[Row]) -> Format:
    """Return the form that rows of a format are brought to. For prompts with answers, it depends on the values."""
    if columns.layout in ("chat", "sharegpt"):
        return "chat"
    if columns.layout in ("completion", "preference"):
        answer = columns.names["completion" if columns.layout == "completion" else "chosen"]
        first = next((row[answer] for row in rows if has_value(row.get(answer))), "")
        return "chat" if isinstance(first, (list, tuple)) or _is_listed(first) else "completion"
    return "text" if columns.layout == "text" else "alpaca"


def _is_listed(value: Any) -> bool:
    """Return whether a text is messages in JSON, as tables hold them."""
    return isinstance(value, str) and value.lstrip()[:1] == "[" and '"role"' in value


def _plain(row: Row, names: Mapping[str, str], layout: str, form: Format) -> Row:
    match layout:
        case "alpaca" | "qa":
            return _alpaca(row, names)
        case "label":
            return _labelled(row, names)
        case "chat":
            return plain_chat(row, names)
        case "sharegpt":
            return plain_sharegpt(row, names)
        case "text":
            return {"text": text_of(row, names, "text")}
    answer = "completion" if layout == "completion" else "chosen"
    return prompted_chat(row, names, answer) if form == "chat" else _completion(row, names, answer)


def _alpaca(row: Row, names: Mapping[str, str]) -> Row:
    require(row, names, "instruction", "output")
    plain: Row = {}
    for field in ("instruction", "input", "output", "system"):
        # An empty answer is deliberate; a null may be a lost answer.
        if field == "output" and value_of(row, names, field) is None and _has_any(row, names):
            raise BadRowError(f'"{names.get(field, field)}" is null: {NULL_ADVICE}')
        plain[field] = text_of(row, names, field)
    history = _history(value_of(row, names, "history"))
    plain["history"] = [tuple(unbroken(text, "history") for text in pair) for pair in history]
    return plain


def _has_any(row: Row, names: Mapping[str, str]) -> bool:
    return any(has_value(row.get(name)) for name in names.values())


def _history(value: Any) -> list[Any]:
    """Return the earlier turns of a row, as pairs of the user's and the assistant's text (LLaMA-Factory's form)."""
    if not has_value(value):
        return []
    are_pairs = isinstance(value, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in value
    )
    if not are_pairs:
        raise BadRowError(f'"history" must be a list of pairs of texts, [user, assistant], got {shown(value)}')
    return list(value)


def _labelled(row: Row, names: Mapping[str, str]) -> Row:
    """Return a row with a label as an Alpaca row; a label that is a whole number becomes its digits."""
    require(row, names, "instruction", "output")
    label = row[names["output"]]
    return _alpaca({**row, names["output"]: str(label) if isinstance(label, int) else label}, names)


def _completion(row: Row, names: Mapping[str, str], answer: str) -> Row:
    """Return a prompt and the text that continues it.

    Without a prompt column, the prompt is the common beginning of both answers.
    """
    require(row, names, answer)
    if value_of(row, names, answer) is None and _has_any(row, names):
        raise BadRowError(f'"{names[answer]}" is null: {NULL_ADVICE}')
    prompt, text = text_of(row, names, "prompt"), text_of(row, names, answer)
    if "prompt" not in names and "rejected" in names:
        rejected = text_of(row, names, "rejected")
        if text and text == rejected:
            raise BadRowError(
                f'"{names[answer]}" and "{names["rejected"]}" are the same text, so nothing shows where the answer '
                "begins: leave the row out"
            )
        prompt = _common_beginning(text, rejected)
        text = text.removeprefix(prompt)
    return {"prompt": prompt, "completion": text}


def _common_beginning(chosen: str, rejected: str) -> str:
    """Return how both texts begin, up to the first word that differs and without the space before it.

    TRL's `extract_prompt` ends the prompt within a word if the words that differ begin alike: with "Rust" and "Ruby",
    it ends with "Ru", and the answer that is trained on begins with "st".
    """
    common = commonprefix([chosen, rejected])  # noqa: RUF071 (these are no paths)
    follows = chosen[len(common) : len(common) + 1] + rejected[len(common) : len(common) + 1]
    if re.search(r"\w", follows):
        common = re.sub(r"\w+$", "", common)
    return common.removesuffix(" ")
