"""Define the type of a report's plain data, and write such data as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from partune.runtime.terminal import data_stream, output_can_show

Summary = dict[str, Any]


def as_json(data: Any, ascii_only: bool = False) -> str:
    """Return plain data as indented JSON. Numbers that JSON does not have (nan, inf) become null.

    Args:
        data: Mappings, lists, texts, numbers, booleans and None.
        ascii_only: Whether to write characters that are not ASCII as escapes.
    """
    return json.dumps(finite(data), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def print_json(data: Any) -> None:
    """Print plain data as JSON. Characters are written as ASCII escapes if standard output cannot show all of them."""
    text = as_json(data)
    print(text if output_can_show(text) else as_json(data, ascii_only=True), file=data_stream())


def finite(data: Any) -> Any:
    """Return plain data with None for every number that JSON does not have (nan, inf)."""
    if isinstance(data, Mapping):
        return {name: finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
