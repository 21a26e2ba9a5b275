"""The one error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 2000  # characters of a message

LONGEST = 1000  # characters of a reason


class UserError(ValueError):
    """Bad input: one line that says what is wrong and what to do; the command line prints it and exits with 2.

    What the message quotes may have line breaks, which become spaces, and halves of surrogate pairs (in names of files
    or fields), which no output can encode and which are written as escapes.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(filter(None, map(str.strip, message.splitlines())))
        if len(line) > MOST:
            line = f"{line[: MOST // 2]} [...] {line[-MOST // 4 :]}"
        super().__init__(line.encode("utf-8", "backslashreplace").decode("utf-8"))


def suggestion(name: str, known: Iterable[str]) -> str:
    """'; did you mean "x"?' for the nearest known name, or the list of known names where none is near."""
    names = [str(each) for each in known]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known: {', '.join(names)}" if names else ""


def shown(value: object, most: int = 80) -> str:
    """Return what a message shows of a value: its beginning where the whole is long, and never a line break."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= most else f"{text[:most]}..."


def reason(error: BaseException) -> str:
    """Return the class of an exception and what it says, in one line."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # an exception's own code
        said = "(it cannot be printed)"
    text = f"{type(error).__name__}: {said}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
