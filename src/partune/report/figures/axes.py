"""Label a hyperparameter's axis in a figure: it spans [0, 1], with real values at its ticks.

All figures draw hyperparameters in the unit cube, so log scales, integers and choices look as they do to the optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from partune.report import words
from partune.space import Choice, Float, Hyperparameter, Int
from partune.trial import Value

MOST = 6  # the largest number of ticks
LONG = 14  # the largest number of characters of an option's name


class Tick(NamedTuple):
    """A tick of an axis: its position in [0, 1] and its label."""

    u: float
    text: str


def ticks(parameter: Hyperparameter, most: int = MOST) -> list[Tick]:
    """Return the ticks of an axis in order: the bounds, and between them round numbers that are not too close to them.

    Args:
        parameter: The hyperparameter of the axis.
        most: The largest number of ticks, approximately.
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
    """Return the name of a hyperparameter or an option, cut to a number of characters.

    Args:
        name: The name or option.
        most: The largest number of characters.
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
