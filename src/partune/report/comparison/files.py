"""The files of a comparison: Markdown, its picture, and data."""

from __future__ import annotations

import os
from pathlib import Path

from partune.errors import UserError
from partune.report.comparison.curves import picture
from partune.report.comparison.tables import markdown
from partune.report.plain_data import Summary, as_json


def write(found: Summary, folder: Path) -> list[Path]:
    """compare.md, compare.svg and compare.json; raises UserError where they are there, or cannot be written."""
    files = {
        "compare.md": markdown(found, "compare.svg"),
        "compare.svg": picture(found),
        "compare.json": as_json(found) + "\n",
    }
    if there := [name for name in files if os.path.lexists(folder / name)]:
        raise UserError(f"{folder / there[0]} exists already and is never overwritten: choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    return [folder / name for name in files]
