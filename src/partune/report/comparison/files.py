"""Write the files of a comparison: Markdown with a picture, and data."""

from __future__ import annotations

import os
from pathlib import Path

from partune.errors import UserError
from partune.report.comparison.curves import picture
from partune.report.comparison.tables import markdown
from partune.report.plain_data import Summary, as_json


def write(compared: Summary, folder: Path) -> list[Path]:
    """Write compare.md, compare.svg and compare.json.

    Args:
        compared: The comparison.
        folder: The folder to write to; it is created if it is missing.

    Returns:
        The paths of the files.

    Raises:
        UserError: One of the files exists already, or cannot be written.
    """
    files = {
        "compare.md": markdown(compared, "compare.svg"),
        "compare.svg": picture(compared),
        "compare.json": as_json(compared) + "\n",
    }
    if existing := [name for name in files if os.path.lexists(folder / name)]:
        raise UserError(f"{folder / existing[0]} exists already and is never overwritten: choose another `--out`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    return [folder / name for name in files]
