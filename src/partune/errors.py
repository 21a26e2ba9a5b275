"""The error that its user can put right, and how messages show names, values and causes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 2000  # characters of a message
LONGEST = 1000  # characters of a reason, which is a part of a message


class UserError(ValueError):
    """Something that the user can put right; the command line prints the message and exits with 2.

    Args:
        message: What is wrong, and what to do. It becomes one line of limited length, whatever it quotes.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(filter(None, map(str.strip, message.splitlines())))
        if len(line) > MOST:  # the beginning says what is wrong, the end what to do
            line = f"{line[: MOST // 2]} [...] {line[-MOST // 4 :]}"
        # File names may hold halves of surrogate pairs, for bytes that are no UTF-8: no output can encode them.
        super().__init__(line.encode("utf-8", "backslashreplace").decode("utf-8"))


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, or the list of all if none is near.

    Args:
        name: The unknown name.
        known: The names that there are.
    """
    names = [str(candidate) for candidate in known]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known: {', '.join(names)}" if names else ""


def shown(value: object, most: int = 80) -> str:
    """Return a value as a message shows it, without line breaks.

    Args:
        value: Any value.
        most: How many characters are shown; the rest becomes an ellipsis.
    """
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= most else f"{text[:most]}..."


def reason(error: BaseException) -> str:
    """Return the class of an exception and its message, in one line of limited length."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # `__str__` is the exception's own code, and may fail itself
        message = "(it cannot be printed)"
    text = f"{type(error).__name__}: {message}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
