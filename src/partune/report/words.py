"""Numbers as a reader wants them: rounded to their uncertainty, and no digit more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partune.trial import Status

NONE = "–"  # where there is no number


def decimals(stderr: float) -> int:
    """So many that two digits of a standard error show."""
    return max(0, 1 - math.floor(math.log10(stderr)))


def number(value: float, digits: int = 4) -> str:
    """So many significant digits; powers of ten as people write them."""
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}"


def measured(value: float | None, stderr: float | None, sign: str = "") -> str:
    """A score with its standard error; sign: "+" shows that of a positive one too."""
    if value is None or not math.isfinite(value):
        return NONE
    if not uncertain(stderr):
        text = number(value)
        return f"+{text}" if sign and value > 0 else text
    assert stderr is not None
    places = decimals(stderr)
    return f"{value:{sign}.{places}f}\u00a0±\u00a0{stderr:.{places}f}"


def uncertain(stderr: float | None) -> bool:
    """Whether a standard error is known, and not 0."""
    return stderr is not None and math.isfinite(stderr) and stderr > 0


def chance(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def progress(stands: Sequence[Status], budget: int) -> str:
    """Return how far a search is: how many trials of its budget have ended, and how many more have begun.

    stands: where each of its trials stands.
    """
    ended = sum(each.final for each in stands)
    begun = len(stands) - ended
    text = f"{ended:,} of {several(budget, 'trial')} {'has' if ended == 1 else 'have'} ended"
    return f"{text}, {begun:,} more {'has' if begun == 1 else 'have'} begun" if begun else text


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def value(given: object) -> str:
    """A hyperparameter's value."""
    return number(given, 3) if isinstance(given, float) else str(given)


def settings(config: Mapping[str, object]) -> str:
    """A configuration in a line."""
    return ", ".join(f"{name} {value(given)}" for name, given in config.items())
