"""The one error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one line that says what is wrong and what to do; the command line prints it and exits with 2."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """'; did you mean "x"?' for the nearest known name, or the list of known names where none is near."""
    names = [str(each) for each in known]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known: {', '.join(names)}" if names else ""
