"""Round numbers to their meaningful digits and return them as text. No other module decides on digits.

All numbers are rounded in the same way, half away from zero in decimal digits, so that 0.175 is 0.18 wherever it is
shown. Python's own formatting would round the binary number beneath, which may be a little smaller. A number that is
rounded to 0 has no sign.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal

NONE = "–"  # shown in place of a missing number
PLAIN = 6  # digits of the largest numbers that are written without an exponent: 12300, but 1.23e7
TRUE = 12  # significant digits of a computed number that are not errors of floating-point arithmetic
EXACT = 6  # significant digits of a score without an error: fewer would make unequal scores look equal


def number(value: float, digits: int = 4) -> str:
    """Return a number as text, for a number whose uncertainty is not known.

    Args:
        value: The number. A number that is not finite is shown as NONE.
        digits: The number of significant digits, at most 6.
    """
    if not math.isfinite(value):
        return NONE
    exact = Decimal(f"{value:.{TRUE}g}")
    rounded = _quantized(exact, digits - 1 - exact.adjusted()) if exact else Decimal(0)
    mantissa, power, exponent = f"{float(rounded):.{PLAIN}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if power else mantissa


def fixed(value: float, places: int, sign: str = "") -> str:
    """Return a number with a fixed number of decimals.

    Args:
        value: The number. A number that is not finite is shown as NONE.
        places: The number of decimals.
        sign: "+" to show the sign of a positive number too, or "" to leave it out.
    """
    if not math.isfinite(value):
        return NONE
    rounded = _quantized(Decimal(f"{value:.{TRUE}g}"), places)
    return f"{rounded:{sign}f}" if rounded else f"{abs(rounded):f}"


def interval(low: float | None, high: float | None, stderr: float | None, sign: str = "+") -> str:
    """Return the ends of an interval with as many decimals as the gain has; NONE if an end is missing.

    Args:
        low: The lower end.
        high: The upper end.
        stderr: The standard error of the gain, or None if it is not known.
        sign: "+" to show the sign of a positive end too, or "" to leave it out.
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return NONE
    places = decimals(stderr) if stderr is not None and uncertain(stderr) else 4
    return f"{fixed(low, places, sign)}\u00a0…\u00a0{fixed(high, places, sign)}"


def _quantized(exact: Decimal, places: int) -> Decimal:
    """Round a number to a number of decimals, which may be negative; half is rounded away from zero."""
    return exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, Context(prec=1000))


def score(value: float | None, stderr: float | None) -> str:
    """Return a score without its standard error, but with as many digits as that error allows.

    Args:
        value: The score. A score that is missing or not finite is shown as NONE.
        stderr: The standard error of the score, or None if it has none.
    """
    if value is None or not math.isfinite(value):
        return NONE
    if stderr is None or not uncertain(stderr):
        return number(value, EXACT)
    return fixed(value, _score_decimals(value, stderr))


def measured(value: float | None, stderr: float | None) -> str:
    """Return a score with its standard error.

    Args:
        value: The score. A score that is missing or not finite is shown as NONE.
        stderr: The standard error of the score, or None if it has none.
    """
    text = score(value, stderr)
    if value is None or stderr is None or text == NONE or not uncertain(stderr):
        return text
    return f"{text}\u00a0±\u00a0{fixed(stderr, _score_decimals(value, stderr))}"


def difference(value: float, stderr: float | None, sign: str = "+") -> str:
    """Return a difference of scores with its standard error, which is rounded to two digits.

    Args:
        value: The difference.
        stderr: The standard error of the difference, or None if it has none.
        sign: "+" to show the sign of a positive difference too, or "" to leave it out.
    """
    if not math.isfinite(value):
        return NONE
    if stderr is None or not uncertain(stderr):
        text = number(value)
        return f"+{text}" if sign and value > 0 else text
    places = decimals(stderr)
    return f"{fixed(value, places, sign)}\u00a0±\u00a0{fixed(stderr, places)}"


def chance(p: float) -> str:
    """Return a p-value as text. Values below 0.001 become "p < 0.001"."""
    return f"p = {number(p, 2)}" if p >= 0.001 else "p < 0.001"


def percent(share: float) -> str:
    """Return a share as a whole percentage, such as "12%"."""
    return f"{fixed(100 * share, 0)}%"


def decimals(stderr: float) -> int:
    """Return the number of decimals at which a standard error shows two digits."""
    return max(0, 1 - math.floor(math.log10(stderr)))


def uncertain(stderr: float | None) -> bool:
    """Return whether a standard error is known and is not 0."""
    return stderr is not None and math.isfinite(stderr) and stderr > 0


def _score_decimals(value: float, stderr: float) -> int:
    """Return the number of decimals that a score is shown with.

    They are as many as its standard error needs for two digits, and one more if unequal scores could look equal.

    A share p of right answers has a standard error of about sqrt(p (1 - p) / n). The number of items n follows from p
    and its error, and one answer changes the score by 1 / n. From about a thousand items on, that can be less than the
    last decimal of the error.
    """
    places = decimals(stderr)
    one_answer = stderr**2 / (value * (1 - value)) if 0 < value < 1 else math.inf
    return places + (one_answer < 10.0**-places)
