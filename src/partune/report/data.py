"""What a script reads of a report: JSON in one form."""

from __future__ import annotations

import json
from typing import Any


def as_json(data: Any) -> str:
    """Plain data as indented text; a number that JSON does not know (nan, inf) is a ValueError: make it None first."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
