"""Our docstrings explain a name in a line that begins with it (`seed: ...`); rendered, such lines become a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXPLAINED = re.compile(r"^(\w+(?:, \w+)*): (?=\S)")


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(map(_listed, obj.docstring.value.split("\n\n")))


def _listed(paragraph: str) -> str:
    """A paragraph of explained names as a list; any other as it is."""
    lines = paragraph.split("\n")
    if not EXPLAINED.match(lines[0]):
        return paragraph
    items = [EXPLAINED.sub(lambda match: f"- `{match[1]}`: ", line) for line in lines]
    return "\n".join(item if item.startswith("- ") else f"  {item.strip()}" for item in items)
