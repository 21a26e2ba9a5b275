"""Write Markdown in which any text appears unchanged: in a line, as code, in a block, in a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from partune.runtime.terminal import visible

MARKS = re.compile(r"([\\`*\[\]|<>~#&$]|(?<!\w)_|_(?!\w))")


def plain(text: object) -> str:
    """Return a text as one line that Markdown shows unchanged."""
    return MARKS.sub(r"\\\1", visible(" ".join(str(text).splitlines())))


def code(text: str) -> str:
    """Return a text as code for a line or for the cell of a table."""
    line = visible(" ".join(text.split())).replace("|", "\\|")
    marks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    # A space separates the text's own backquotes from the marks. Markdown removes one space from each side.
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{marks}{space}{line}{space}{marks}"


def fenced(text: str, language: str = "") -> str:
    """Return a block of code, with a fence longer than any run of backquotes in the code.

    Args:
        text: The code.
        language: The language of the code, for syntax highlighting.
    """
    text = visible(text)
    marks = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def table(cells: Iterable[Sequence[str]]) -> str:
    """Return a table. Its cells are already Markdown, and the first row is the header."""
    head, *rows = cells
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
