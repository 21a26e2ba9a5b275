"""Read paths as users write them, with ~ for a home directory, and refuse impossible ones in one line."""

from __future__ import annotations

import difflib
import os
import shlex
from pathlib import Path

from partune.errors import UserError, shown, suggestion

NAME_MAX, PATH_MAX = 255, 4095  # bytes of a name in a path, and of a whole path


def as_path(text: str | Path) -> Path:
    """Return the path that a text means, with `~` expanded.

    Args:
        text: The path as the user wrote it.

    Raises:
        UserError: No file can have the path: it is too long, has a zero byte, or names the home of an unknown user.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        user = str(text).partition("/")[0]
        raise UserError(f"{user} is the home of a user who does not exist: {shown(str(text))}") from None
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise UserError(f"{shown(str(text))} is not a possible file name on this machine") from None
    if b"\0" in encoded:
        raise UserError(f"a path cannot have a zero byte, got {shown(str(text))}")
    longest = max(map(len, encoded.split(b"/")))
    if longest > NAME_MAX:
        raise UserError(f"a name in a path can have at most {NAME_MAX} bytes, got {longest}: {shown(str(text))}")
    if len(encoded) > PATH_MAX:
        raise UserError(f"a path can have at most {PATH_MAX} bytes, got {len(encoded)}: {shown(str(text))}")
    return path


def make_folder(path: Path, new: bool = False) -> Path:
    """Make a folder and its parents, and return its path.

    Args:
        path: The path of the folder.
        new: Whether to refuse a path that exists already.

    Raises:
        UserError: The folder cannot be made.
    """
    if new and os.path.lexists(path):
        raise UserError(f"{path} exists already and is never overwritten: choose another folder with `--out`")
    try:
        path.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def command_on(verb: str, study: str | Path) -> str:
    """Return the command that does something with a study's directory, ready to paste into a shell.

    Args:
        verb: The command, such as "resume".
        study: The directory.
    """
    return f"partune {verb} {shlex.quote(str(study))}"


def suggestion_beside(path: Path) -> str:
    """Return '; did you mean "x"?' if a missing path's folder has an entry with a similar name."""
    parent = path.parent
    # A link to a missing file and what is not a file have the path's own name.
    entries = [entry for entry in os.listdir(parent) if entry != path.name] if parent.is_dir() else []
    return suggestion(path.name, difflib.get_close_matches(path.name, entries))
