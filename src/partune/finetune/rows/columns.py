"""Infer the format of rows from the names of their columns, and which column holds which field.

A column may have a field's name, another usual name (Dolly's `response` for `output`), one of these in other case, or a
name that the user gives with `--columns`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from partune import config
from partune.errors import UserError, suggestion
from partune.finetune.rows.jsons import list_within
from partune.finetune.rows.messages import parse_json
from partune.finetune.rows.values import Row, has_value, keys

# How rows are written: the formats of the setting `data.format`, without "auto".
Layout = Literal["alpaca", "qa", "label", "chat", "sharegpt", "completion", "preference", "text"]

QUESTIONS, ANSWERS = ("question", "query", "prompt", "input"), ("answer", "response", "output")
# Columns beside `text` that may be answers to it. With one of them, `text` alone does not show what to train on.
RIVALS = {*ANSWERS, "completion", "summary", "target", "labels", "category", "class", "intent", "sentiment"}
CHOICES = {"choices", "options", "chosen"}  # with one of these, a question and an answer are not the whole row
# For each format, the names of each field in the order of preference. The first is the name that messages use.
FIELDS: dict[Layout, dict[str, tuple[str, ...]]] = {
    "alpaca": {
        "instruction": ("instruction",),
        "input": ("input", "context"),  # Dolly's names for Alpaca's fields
        "output": ("output", "response"),
        "system": ("system",),
        "history": ("history",),
    },
    "qa": {"instruction": QUESTIONS, "input": ("context",), "output": ANSWERS, "system": ("system",)},
    "label": {"instruction": ("text",), "output": ("label",)},
    "chat": {name: (name,) for name in ("messages", "tools", "functions", "system", "chat_template_kwargs")},
    "sharegpt": {
        "messages": ("conversations", "conversation", "messages"),
        "tools": ("tools",),
        "functions": ("functions",),
        "system": ("system",),
    },
    "completion": {"prompt": ("prompt",), "completion": ("completion",), "tools": ("tools",)},
    "preference": {"prompt": ("prompt",), "chosen": ("chosen",), "rejected": ("rejected",), "tools": ("tools",)},
    "text": {"text": ("text",)},
}
REQUIRED: dict[Layout, tuple[str, ...]] = {
    "alpaca": ("instruction", "output"),
    "qa": ("instruction", "output"),
    "label": ("instruction", "output"),
    "chat": ("messages",),
    "sharegpt": ("messages",),
    "completion": ("prompt", "completion"),
    "preference": ("chosen",),
    "text": ("text",),
}
KNOWN = tuple(dict.fromkeys(name for fields in FIELDS.values() for names in fields.values() for name in names))


@dataclass(frozen=True)
class Columns:
    """What the columns of the data are.

    Attributes:
        layout: The format of the rows.
        names: Maps the format's name of a field to the name of its column, for the fields that the data have.
    """

    layout: Layout
    names: Mapping[str, str]


def find_columns(data: config.Data, rows: Sequence[Row]) -> Columns:
    """Return the format of the rows and the column of each field.

    Args:
        data: Section `data` of a study.
        rows: The rows as they were read, which are mappings.

    Raises:
        UserError: The columns do not tell the format, or the user named a column that no row has.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    filled = {name for row in rows for name, value in row.items() if has_value(value)}
    asked = _asked(data, columns)
    known = _known(columns, asked)
    # Use columns without values only if the others do not show the format.
    for usable in ({name for name, column in known.items() if column in filled}, set(known)):
        layouts = [data.format] if data.format != "auto" else _fitting(usable, set(asked), rows, known)
        if layouts:
            break
    else:
        raise UserError(_proposal(data, rows, columns))
    names = {}
    for field, candidates in FIELDS[layouts[0]].items():
        present = [name for name in candidates if name in known]
        if data.format == "qa" and len([name for name in present if name in usable]) > 1 and not asked:
            raise UserError(_proposal(data, rows, columns))
        if present:  # columns with values have priority
            names[field] = known[next((name for name in present if name in usable), present[0])]
    missing = [FIELDS[layouts[0]][field][0] for field in REQUIRED[layouts[0]] if field not in names]
    # Alpaca's and OpenAI's rows are recognised by their first field; a row that lacks a required one is named later.
    if missing and not (layouts[0] in ("alpaca", "chat") and not asked):
        raise UserError(_proposal(data, rows, columns, f" and no {missing[0]}"))
    return Columns(layouts[0], names)


def _asked(data: config.Data, columns: Sequence[str]) -> dict[str, str]:
    """Return the columns that the user names, by field."""
    asked = data.columns or {}
    for field, column in asked.items():
        if field not in KNOWN:
            raise UserError(f'--columns: no format has a field "{field}"{suggestion(field, KNOWN)}')
        if column not in columns:
            hint = suggestion(column, [*map(str, columns)])
            raise UserError(f'{data.path} has no column "{column}"{hint}; it has {keys(columns)}')
    if len(set(asked.values())) < len(asked):
        raise UserError(f"--columns names one column twice: {', '.join(f'{a}={b}' for a, b in asked.items())}")
    return asked


def _known(columns: Sequence[Any], asked: Mapping[str, str]) -> dict[str, str]:
    """Map each known name to the column that has it."""
    free = [column for column in columns if column not in asked.values()]
    # An exact name has priority over one in other case.
    spelled = {str(column).strip().lower(): column for column in reversed(free)} | {column: column for column in free}
    return {name: column for name, column in (spelled | dict(asked)).items() if name in KNOWN}


def _fitting(usable: set[str], asked: set[str], rows: Sequence[Row], known: Mapping[str, str]) -> list[Layout]:
    """Return the formats that fit the columns, best first.

    Args:
        usable: The known names that are present.
        asked: The names of the fields for which the user gives a column; a format must have all of them.
        rows: The rows.
        known: Maps each known name to the name of its column.
    """
    questions, answers = usable & set(QUESTIONS), usable & set(ANSWERS)
    present = {str(column).strip().lower() for row in rows for column in row}
    fitting: dict[Layout, bool] = {
        "chat": "messages" in usable and not _is_sharegpt(rows, known["messages"]),
        "sharegpt": bool(usable & {"messages", "conversations", "conversation"}),
        "preference": "chosen" in usable and ("prompt" in usable or not usable & {*QUESTIONS, "instruction"}),
        "alpaca": "instruction" in usable,
        # TRL's unpaired preferences have labels that say which completions are bad.
        "completion": {"prompt", "completion"} <= usable and "label" not in usable,
        "label": {"text", "label"} <= usable,
        "qa": len(questions) == 1 and len(answers) == 1 and not present & CHOICES,
        "text": "text" in usable and not present & RIVALS,
    }
    names = {layout: {name for field in FIELDS[layout].values() for name in field} for layout in fitting}
    found = [layout for layout, fits in fitting.items() if fits and asked <= names[layout]]
    if "text" in asked and not found:  # the user says that the text is what to train on
        return ["text"]
    return found


def _is_sharegpt(rows: Sequence[Row], column: str) -> bool:
    """Return whether the first message has ShareGPT's names."""
    messages = parse_json(next((row[column] for row in rows if row.get(column)), None))
    first = messages[0] if isinstance(messages, (list, tuple)) and messages else None
    return isinstance(first, dict) and "role" not in first and "from" in first


def _proposal(data: config.Data, rows: Sequence[Row], columns: Sequence[Any], lacking: str = "") -> str:
    """Return the message that proposes the flag to type."""
    if not columns:
        return f"{data.path}: the rows have no columns"
    if within := list_within(rows[0]):
        return f"{data.path} has the columns {keys(columns)}{within}: write one row per line, or a list of rows"
    texts = [column for column in columns if _holds_text(rows, column)] or list(columns)
    if data.format != "auto":
        fields = [FIELDS[data.format][field][0] for field in REQUIRED[data.format]]
    else:
        fields = ["text"] if len(texts) == 1 else ["instruction", "output"]
    likely = ["question", "answer"] if {"question", "answer"} <= {*texts} else [texts[0], texts[-1]]
    pairs = dict(zip(fields, likely, strict=False))
    question = next((name for name in ("instruction", *QUESTIONS) if name in columns), None)
    if data.format == "auto" and "chosen" in columns and question is not None:
        pairs = {"prompt": question}
    flag = f"--columns {shlex.quote(','.join(f'{field}={column}' for field, column in pairs.items()))}"
    if data.format == "auto" and {"prompt", "completion"} <= {*columns}:
        flag = "--format completion"
    return f"{data.path} has the columns {keys(columns)}{lacking}: say which is which, for example {flag}"


def _holds_text(rows: Sequence[Row], column: Any) -> bool:
    """Return whether a column has texts that are not all numbers, as those of an identifier are."""
    values = [row[column] for row in rows if has_value(row.get(column))]
    return bool(values) and all(isinstance(value, str) for value in values) and not all(map(_is_number, values))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
