"""Read rows from JSON text: one row per line, or one list of rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partune.errors import UserError
from partune.finetune.rows.values import Row
from partune.runtime.failures import one_line


def read_json(text: str, path: Path) -> list[Row]:
    """Return the rows in the text of a file.

    Args:
        text: The text.
        path: The path of the file, for messages.

    Raises:
        UserError: The text is not valid. The message has the number of the line.
    """
    if text.lstrip().startswith("["):
        rows: list[Row] = list(_parse(text, str(path)))
        return rows
    # Only "\n" ends a line in this format. str.splitlines would also split at characters that JSON allows in a text.
    lines = ((number, line.strip("\ufeff")) for number, line in enumerate(text.split("\n"), 1))
    try:
        return [_parse(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    except UserError:
        if (mapping := _one_mapping(text)) is not None:
            raise UserError(
                f"{path} is one mapping, not rows{list_within(mapping)}: write one row per line, or a list of rows"
            ) from None
        raise


def list_within(mapping: Mapping[str, Any]) -> str:
    """Return a hint at a list of rows within a mapping, or an empty text if there is no such list."""
    for name, value in mapping.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return f' (its "{name}" is a list of {len(value)})'
    return ""


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise UserError(f"{source} is not valid JSON: {error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise UserError(f"{source} nests too deeply to be read") from None
    except ValueError as error:  # a duplicate key, or an integer of thousands of digits
        raise UserError(f"{source} is not valid JSON: {one_line(error)}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object as a mapping; raise ValueError for a duplicate key, because json would keep its last value."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f'the key "{twice}" is given twice')
    return mapping


def _one_mapping(text: str) -> dict[str, Any] | None:
    """Return the mapping that a text of several lines consists of, or None if the text is anything else."""
    if "\n" not in text.strip():
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
