"""Paths as users write them: with ~ for a home, and refused in one line where no file can have that name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from partune.errors import UserError, shown, suggestion

NAME_MAX, PATH_MAX = 255, 4095  # bytes: of a name, and of all of a path


def as_path(given: str | Path) -> Path:
    """Return the path that a text means, with `~` expanded.

    Raises:
        UserError: No file can have that name: it is too long, has a zero byte, or begins with the home of nobody.
    """
    try:
        path = Path(given).expanduser()
    except RuntimeError:
        user = str(given).partition("/")[0]
        raise UserError(f"{user} is the home of a user that is not there: {shown(str(given))}") from None
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise UserError(f"{shown(str(given))} is no name that a file can have here") from None
    if b"\0" in encoded:
        raise UserError(f"a path has no zero byte, got {shown(str(given))}")
    longest = max(map(len, encoded.split(b"/")))
    if longest > NAME_MAX:
        raise UserError(f"a name in a path has {NAME_MAX} bytes at most, got {longest}: {shown(str(given))}")
    if len(encoded) > PATH_MAX:
        raise UserError(f"a path has {PATH_MAX} bytes at most, got {len(encoded)}: {shown(str(given))}")
    return path


def make_folder(path: Path, new: bool = False) -> Path:
    """Make a folder, with those above it, and return it.

    Args:
        path: Where.
        new: Whether nothing may be there yet.

    Raises:
        UserError: It cannot be made.
    """
    if new and os.path.lexists(path):
        raise UserError(f"{path} exists already and is never overwritten: choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def suggestion_beside(path: Path) -> str:
    """Return '; did you mean "x"?' where something of a similar name lies beside a path that does not exist."""
    parent = path.parent
    beside = os.listdir(parent) if parent.is_dir() else []
    return suggestion(path.name, difflib.get_close_matches(path.name, beside))
