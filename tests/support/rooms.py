"""The table of rooms in CONTRIBUTING.md, from the first line of each room's docstring.

`python -m tests.support.rooms` writes it; a test compares.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support import ROOT

SOURCES = ROOT / "src" / "partune"
PAGE = ROOT / "CONTRIBUTING.md"
HEAD, END = "| room | what is in it |\n|---|---|\n", "\n\n"


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def table() -> str:
    """Return the table, rooms in alphabetical order, and within fine-tuning and the report their own rooms too."""
    rows = [("errors", first_line(SOURCES / "errors.py"))]
    for package in sorted(SOURCES.rglob("__init__.py")):
        if package.parent != SOURCES:
            rows.append((f"{package.parent.relative_to(SOURCES).as_posix()}/", first_line(package)))
    return HEAD + "\n".join(f"| `{name}` | {line} |" for name, line in rows)


def split(page: str) -> tuple[str, str, str]:
    """Return what stands before the table, the table, and what follows it."""
    before, _, rest = page.partition(HEAD)
    rows, _, after = rest.partition(END)
    return before, HEAD + rows, END + after


if __name__ == "__main__":
    before, _, after = split(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(before + table() + after, encoding="utf-8")
