"""Numbers as text, rounded to what they mean: the one place that decides how many digits a reader sees."""

from __future__ import annotations

import math

NONE = "–"  # where there is no number
PLAIN = 6  # digits up to which a large number is written out: 12300, but 1.23e7
EXACT = 6  # significant digits of a score without an error: fewer would make unequal scores look equal


def number(value: float, digits: int = 4) -> str:
    """Return a number whose uncertainty is not known.

    Args:
        value: The number; NONE stands for one that is not finite.
        digits: Significant digits, 6 at most.
    """
    if not math.isfinite(value):
        return NONE
    mantissa, power, exponent = f"{float(f'{value:.{digits}g}'):.{PLAIN}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if power else mantissa


def score(value: float | None, stderr: float | None) -> str:
    """Return a score without its standard error, to the digits that it has beside it.

    Args:
        value: The score; NONE stands for a missing one and for one that is not finite.
        stderr: Its standard error, None where it has none.
    """
    if value is None or not math.isfinite(value):
        return NONE
    if stderr is None or not uncertain(stderr):
        return number(value, EXACT)
    return f"{value:.{_score_decimals(value, stderr)}f}"


def measured(value: float | None, stderr: float | None) -> str:
    """Return a score with its standard error.

    Args:
        value: The score; NONE stands for a missing one and for one that is not finite.
        stderr: Its standard error, None where it has none.
    """
    text = score(value, stderr)
    if value is None or stderr is None or text == NONE or not uncertain(stderr):
        return text
    return f"{text}\u00a0±\u00a0{stderr:.{_score_decimals(value, stderr)}f}"


def difference(value: float, stderr: float | None, sign: str = "+") -> str:
    """Return a difference of scores with its standard error, which shows with two digits.

    Args:
        value: The difference.
        stderr: Its standard error, None where it has none.
        sign: "+" shows the sign of a positive difference too, "" does not.
    """
    if not math.isfinite(value):
        return NONE
    if stderr is None or not uncertain(stderr):
        text = number(value)
        return f"+{text}" if sign and value > 0 else text
    places = decimals(stderr)
    return f"{value:{sign}.{places}f}\u00a0±\u00a0{stderr:.{places}f}"


def chance(p: float) -> str:
    """Return a p-value, which says nothing more below one in a thousand."""
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def decimals(stderr: float) -> int:
    """Return the number of decimals at which a standard error shows two digits."""
    return max(0, 1 - math.floor(math.log10(stderr)))


def uncertain(stderr: float | None) -> bool:
    """Return whether a standard error is known and is not 0."""
    return stderr is not None and math.isfinite(stderr) and stderr > 0


def _score_decimals(value: float, stderr: float) -> int:
    """Return the decimals of a score: two digits of its error, and one more where two unequal scores would read alike.

    A share p of right answers has a standard error of about sqrt(p (1 - p) / n), so that both give n, and one answer
    moves the score by 1 / n. From a thousand items on that can be less than what two digits of the error show.
    """
    places = decimals(stderr)
    one_answer = stderr**2 / (value * (1 - value)) if 0 < value < 1 else math.inf
    return places + (one_answer < 10.0**-places)
