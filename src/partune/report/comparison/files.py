"""Write the files of a comparison: Markdown with a picture, and data."""

from __future__ import annotations

import os
from pathlib import Path

from partune.errors import UserError
from partune.report.comparison.curves import picture
from partune.report.comparison.tables import markdown
from partune.report.plain_data import Summary, as_json
from partune.runtime.disk import write_whole


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
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)
            written.append(folder / name)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    except UserError:
        for path in written:  # all files or none, so that the same command can be repeated
            path.unlink(missing_ok=True)
        raise
    return written
