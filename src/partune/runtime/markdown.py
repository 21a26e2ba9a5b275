"""Text that Markdown shows as it is, whatever is in it: a line, code, a block, a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from partune.runtime.terminal import visible

MARKS = re.compile(r"([\\`*\[\]|<>~#&$]|(?<!\w)_|_(?!\w))")


def plain(text: object) -> str:
    """One line of text in which Markdown finds nothing to do."""
    return MARKS.sub(r"\\\1", visible(" ".join(str(text).splitlines())))


def code(text: str) -> str:
    """Text as code, in a line or a table's cell."""
    line = visible(" ".join(text.split())).replace("|", "\\|")
    marks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    room = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{marks}{room}{line}{room}{marks}"


def fenced(text: str, language: str = "") -> str:
    """Return a block of code, fenced with more backquotes than it holds in a row."""
    text = visible(text)
    marks = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def table(cells: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; the first row is the head."""
    head, *rows = cells
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
