"""A hyperparameter's axis in a figure: the unit cube, with real values at its ticks.

Every figure has its hyperparameters in the unit cube, so that log scales, integers and choices are drawn alike, and as
the optimiser sees them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from partune.report import words
from partune.space import Choice, Float, Hyperparameter, Int
from partune.trial import Value

MOST = 6  # ticks
LONG = 14  # characters of an option's name


class Tick(NamedTuple):
    """A value at its place in [0, 1]."""

    u: float
    text: str


def ticks(parameter: Hyperparameter, most: int = MOST) -> list[Tick]:
    """Return round values within the bounds, and the bounds themselves, where they are not crowded; in order.

    Args:
        parameter: The hyperparameter of the axis.
        most: About how many ticks there may be.
    """
    if isinstance(parameter, Choice):
        return [Tick(parameter.encode(option), short(option)) for option in parameter.options]
    assert isinstance(parameter, (Float, Int))
    values = _between(parameter, most)
    if isinstance(parameter, Int):
        values = sorted({round(value) for value in values})
    places = [Tick(parameter.encode(value), words.value(value)) for value in values]
    ends = [Tick(parameter.encode(value), words.value(value)) for value in (parameter.low, parameter.high)]
    room = 0.6 / most
    inner = [tick for tick in places if all(abs(tick.u - end.u) >= room for end in ends)]
    return sorted([*ends, *inner])


def short(name: Value, most: int = LONG) -> str:
    """Return a name, or an option's, cut to a number of characters.

    Args:
        name: The name or option.
        most: The characters that it may have.
    """
    text = str(name)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _between(parameter: Float | Int, most: int) -> Sequence[float]:
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        base = 2.0 if isinstance(parameter, Int) or high / low < 100 else 10.0
        first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
        stride = max(1, math.ceil((last - first + 1) / most))
        return [base**k for k in range(first, last + 1, stride)]
    rough = (high - low) / (most - 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(step for m in (1, 2, 5, 10) if (step := m * magnitude) >= rough)
    if isinstance(parameter, Int):
        step = max(1.0, step)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
