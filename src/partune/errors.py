"""The error for problems that the user can correct, and functions that format names, values and causes in messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MOST = 2000  # the largest number of characters in a message
LONGEST = 1000  # the largest number of characters in a reason, which is a part of a message


# How pandas calls a column without a name, by its position from 0, and the row numbers that it writes to Parquet.
UNNAMED = re.compile(r"Unnamed: (\d+)|__index_level_\d+__")


class UserError(ValueError):
    """A problem that the user can correct. The command line prints its message and exits with status 2.

    Args:
        message: What is wrong, and what to do about it. It is turned into one line of at most MOST characters.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(filter(None, map(str.strip, message.splitlines())))
        if len(line) > MOST:  # keep the beginning, which says what is wrong, and the end, which says what to do
            line = f"{line[: MOST // 2]} [...] {line[-MOST // 4 :]}"
        # Python represents bytes of file names that are not UTF-8 as lone surrogates, which no output can encode.
        super().__init__(line.encode("utf-8", "backslashreplace").decode("utf-8"))


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the most similar known name, or else all known names.

    Args:
        name: The unknown name.
        known: The known names.
    """
    names = [str(candidate) for candidate in known]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known: {', '.join(names)}" if names else ""


def column_words(name: str) -> str:
    """Return the name of a column for a message; words in its place if it has none."""
    if not name.strip():
        return "a column without a name"
    match = UNNAMED.fullmatch(name)
    if match is None:
        return name
    if match[1] is None:
        return "a column without a name (pandas' row numbers)"
    number = int(match[1]) + 1
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"a column without a name ({number}{ending})"


def shown(value: object, most: int = 80) -> str:
    """Return a value as text for a message, without line breaks.

    Args:
        value: Any value.
        most: The largest number of characters; the rest is replaced by an ellipsis.
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"{type(value).__name__} too long to show"
    except Exception:  # the value's `__repr__` may be anybody's code, and may fail
        return f"{type(value).__name__} that cannot be shown"
    return text if len(text) <= most else f"{text[:most]}..."


def reason(error: BaseException) -> str:
    """Return the class of an exception and its message, in one line of at most LONGEST characters."""
    try:
        message = " ".join(str(error).split())
        if isinstance(error, SystemExit):
            message = f"sys.exit({message}) was called, which ends the whole process; raise another exception instead"
    except Exception:  # the exception's `__str__` may be anybody's code, and may fail
        message = "(it cannot be printed)"
    text = f"{type(error).__name__}: {message}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
