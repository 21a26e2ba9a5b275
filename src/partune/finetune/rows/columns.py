"""Infer the format of rows from the names of their columns, and which column holds which field.

A column may have a field's name, another usual name (Dolly's `response` for `output`), one of these in other case, or a
name that the user gives with `--columns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from partune import config
from partune.errors import UserError, suggestion
from partune.finetune.rows.jsons import list_within
from partune.finetune.rows.messages import parse_json
from partune.finetune.rows.proposals import propose
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
MOST_WORDS = 2  # names of more words look like texts: perhaps a table has no line with names
TOGETHER = "together"  # the end of the reason that no format has all fields that the user gives
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
        raise UserError(_refusal(data, rows, columns, why=_unfitting(asked, known) if asked else ""))
    names = {}
    for field, candidates in FIELDS[layouts[0]].items():
        present = [name for name in candidates if name in known]
        if data.format == "qa" and len([name for name in present if name in usable]) > 1 and not asked:
            raise UserError(_refusal(data, rows, columns))
        if present:  # columns with values have priority
            names[field] = known[next((name for name in present if name in usable), present[0])]
    missing = [FIELDS[layouts[0]][field][0] for field in REQUIRED[layouts[0]] if field not in names]
    if missing:
        raise UserError(_refusal(data, rows, columns, f" and no {missing[0]}"))
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


def _unfitting(asked: Mapping[str, str], known: Mapping[str, str]) -> str:
    """Return why no format has the fields for which the user gives columns."""
    fields = {layout: {name for names in FIELDS[layout].values() for name in names} for layout in FIELDS}
    fitting = [layout for layout in FIELDS if set(asked) <= fields[layout]]
    given = ",".join(f"{field}={column}" for field, column in asked.items())
    if not fitting:
        return f"--columns {given}: no format has the fields {' and '.join(asked)} {TOGETHER}"
    missing = {
        layout: [names[0] for field in REQUIRED[layout] if not set(names := FIELDS[layout][field]) & set(known)]
        for layout in fitting
    }
    nearest = min(fitting, key=lambda layout: (layout != "alpaca", len(missing[layout])))
    return f"--columns {given} is not enough: the format {nearest} also needs {' and '.join(missing[nearest])}"


def _refusal(data: config.Data, rows: Sequence[Row], columns: Sequence[Any], lacking: str = "", why: str = "") -> str:
    """Return the message on columns that do not tell the format, with the flag to type.

    Args:
        data: Section `data` of a study.
        rows: The rows.
        columns: The names of the columns.
        lacking: What a format lacks, to follow the names.
        why: Why the columns that the user gives are refused; empty if none are given.
    """
    if not columns:
        return f"{data.path}: the rows have no columns"
    if within := list_within(rows[0]):
        return f"{data.path} has the columns {keys(columns)}{within}: write one row per line, or a list of rows"
    fields = None if data.format == "auto" else [FIELDS[data.format][name][0] for name in REQUIRED[data.format]]
    begin = f"{why}; " if why else ""
    fitting = None if why.endswith(TOGETHER) else data.columns
    proposal = propose(rows, columns, fields, fitting)
    if any(len(str(column).split()) > MOST_WORDS for column in columns):
        proposal += "; if the first line is a row, write a line with names above it"
    return f"{begin}{data.path} has the columns {keys(columns)}{lacking}: {proposal}"
