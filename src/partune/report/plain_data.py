"""Plain data of a report, as scripts read them: the type, and JSON in one form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from partune.runtime.terminal import output_can_show

Summary = dict[str, Any]


def as_json(data: Any, ascii_only: bool = False) -> str:
    """Return plain data as indented JSON; a number that JSON does not know (nan, inf) is null.

    Args:
        data: Mappings, lists, texts, numbers, booleans and None.
        ascii_only: Write other characters as escapes.
    """
    return json.dumps(finite(data), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def print_json(data: Any) -> None:
    """Print plain data as JSON, with escapes where standard output cannot write a character itself."""
    text = as_json(data)
    print(text if output_can_show(text) else as_json(data, ascii_only=True))


def finite(data: Any) -> Any:
    """Return plain data with None for every number that JSON does not know."""
    if isinstance(data, Mapping):
        return {name: finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
