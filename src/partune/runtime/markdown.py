"""Text that Markdown shows as it is, whatever is in it: a line, code, a block, a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from partune.runtime.terminal import visible

MARKS = re.compile(r"([\\`*\[\]|<>~#&$]|(?<!\w)_|_(?!\w))")


def plain(text: object) -> str:
    """Return a text as one line that Markdown shows as it is."""
    return MARKS.sub(r"\\\1", visible(" ".join(str(text).splitlines())))


def code(text: str) -> str:
    """Return a text as code, for a line or a table's cell."""
    line = visible(" ".join(text.split())).replace("|", "\\|")
    marks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    # Markdown takes one blank off each side: it keeps the text's own backquotes apart from the marks.
    room = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{marks}{room}{line}{room}{marks}"


def fenced(text: str, language: str = "") -> str:
    """Return a block of code, fenced with more backquotes than it holds in a row.

    Args:
        text: The code.
        language: What it is written in, for its colours.
    """
    text = visible(text)
    marks = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def table(cells: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already; the first row is the head."""
    head, *rows = cells
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
