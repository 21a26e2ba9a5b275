"""Hyperparameters: their values, scales and conditions, and each value's share of the unit interval."""

from __future__ import annotations

import itertools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from partune.errors import UserError, shown, suggestion
from partune.trial import Value

Array = NDArray[np.float64]
Condition = Mapping[str, Value | Sequence[Value]]

# The number of significant digits of a real value. It is small enough for `decode(encode(value))` to be exact.
DIGITS = 12
# The largest number of values of an integer, which is the largest length of a range.
MOST_VALUES = 2**63 - 1
# The highest bound of an integer on a log scale. Above it, neighbours have the same logarithm in double precision.
MOST_LOG = 2**46
# An integer with more values than this is decoded in exact arithmetic, because a product of doubles would miss values.
EXACT = 2**51
# The largest number of options of a choice, because the record of each trial lists them all.
MOST_OPTIONS = 10_000
# The width of a cell's edge, as a share of its side. A value whose share of the axis ends within the edge is outside.
_EDGE = 1e-9


@dataclass(frozen=True)
class Hyperparameter(ABC):
    """One axis of the unit cube.

    Attributes:
        when: The condition under which the hyperparameter exists; None if it always exists. A key is the name of a
            discrete hyperparameter (the parent). The value is the value that the parent must have, or a list of the
            values that it may have.
    """

    when: Condition | None = field(default=None, kw_only=True)

    @abstractmethod
    def decode(self, u: float) -> Value:
        """Return the value at a coordinate in [0, 1]."""

    @abstractmethod
    def encode(self, value: Value) -> float:
        """Return the coordinate of a value that `contains` accepts."""

    @abstractmethod
    def snap(self, u: Array) -> Array:
        """Return `encode(decode(u))` for an array of coordinates of any shape, up to rounding errors."""

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Return whether an object is a value of this hyperparameter."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the hyperparameter as it is written in a study's file, without `when`."""

    @property
    def values(self) -> Sequence[Value] | None:
        """All values in the order of the axis; None for a real hyperparameter."""
        return None


@dataclass(frozen=True)
class Float(Hyperparameter):
    """A real number in [low, high].

    Attributes:
        low: The least value.
        high: The greatest value.
        log: Whether the axis is logarithmic.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self, numbers=(int, float))
        if self.log and self.low <= 0:
            raise UserError(f"a log scale needs low > 0, got low={self.low}")
        measure, extent = ("high / low", operator.truediv) if self.log else ("high - low", operator.sub)
        if not math.isfinite(extent(float(self.high), float(self.low))):
            raise UserError(f"{measure} must be a finite number, got low={self.low}, high={self.high}")
        if self.decode(1 / 3) == self.decode(2 / 3):
            raise UserError(f"low and high must differ in {DIGITS} digits, got low={self.low}, high={self.high}")

    def decode(self, u: float) -> float:
        """Return the value at a coordinate in [0, 1], rounded to DIGITS significant digits."""
        # The ends are returned as they were given. They may have more than DIGITS digits.
        if u <= 0:
            return float(self.low)
        if u >= 1:
            return float(self.high)
        if self.log:
            bottom, top = math.log(self.low), math.log(self.high)
            value = float(f"{math.exp(bottom + u * (top - bottom)):.{DIGITS - 1}e}")
        else:
            magnitude = math.floor(math.log10(max(abs(self.low), abs(self.high))))
            value = round(self.low + u * (self.high - self.low), DIGITS - 1 - magnitude)
        return min(max(value, float(self.low)), float(self.high))

    def encode(self, value: Value) -> float:
        """Return the coordinate of a value that `contains` accepts."""
        x = float(value)
        if self.log:
            u = math.log(x / self.low) / math.log(self.high / self.low)
        else:
            u = (x - self.low) / (self.high - self.low)
        return min(max(u, 0.0), 1.0)

    def snap(self, u: Array) -> Array:
        """Return the coordinates as they are, because decoding and encoding change them only by rounding errors."""
        return u

    def contains(self, value: object) -> bool:
        """Return whether something is a value of this hyperparameter."""
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def describe(self) -> dict[str, Any]:
        """Return the form in a study's file, without `when`."""
        return {"float": [self.low, self.high], **({"log": True} if self.log else {})}


@dataclass(frozen=True)
class Int(Hyperparameter):
    """An integer in {low, ..., high}.

    Attributes:
        low: The least value.
        high: The greatest value.
        log: Whether the axis is logarithmic.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self, numbers=(int,))
        if self.log and self.low < 1:
            raise UserError(f"a log scale of integers needs low >= 1, got low={shown(self.low)}")
        if self.log and self.high > MOST_LOG:
            raise UserError(f"a log scale of integers needs high <= 2^46, got high={shown(self.high)}: use a float")
        if max(-self.low, self.high, self._count) > MOST_VALUES:
            rule = "an integer has fewer than 2^63 values, all below 2^63 in size"
            raise UserError(f"{rule}, got low={shown(self.low)}, high={shown(self.high)}: use a float")

    def decode(self, u: float) -> int:
        """Return the value at a coordinate in [0, 1]."""
        if self.log:
            bottom, top = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = math.floor(math.exp(bottom + u * (top - bottom)) + 0.5)
        elif self._count > EXACT:
            numerator, denominator = float(u).as_integer_ratio()
            value = self.low + numerator * self._count // denominator
        else:
            value = self.low + math.floor(u * self._count)
        return min(max(value, self.low), self.high)  # because a share beyond the last would begin at u = 1

    def encode(self, value: Value) -> float:
        """Return the coordinate at the middle of a value's share of the axis."""
        k = int(value)
        if self.log:
            bottom, top = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return (0.5 * (math.log(k - 0.5) + math.log(k + 0.5)) - bottom) / (top - bottom)
        return (2 * (k - self.low) + 1) / (2 * self._count)

    def snap(self, u: Array) -> Array:
        """Return `encode(decode(u))` for many coordinates at once, up to rounding errors; any shape."""
        if not self.log:
            return _middles(u, self._count)
        bottom, top = math.log(self.low - 0.5), math.log(self.high + 0.5)
        k = np.clip(np.floor(np.exp(bottom + u * (top - bottom)) + 0.5), self.low, self.high)
        return (0.5 * (np.log(k - 0.5) + np.log(k + 0.5)) - bottom) / (top - bottom)

    def contains(self, value: object) -> bool:
        """Return whether something is a value of this hyperparameter."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def describe(self) -> dict[str, Any]:
        """Return the form in a study's file, without `when`."""
        return {"int": [self.low, self.high], **({"log": True} if self.log else {})}

    @property
    def values(self) -> range:
        """All values in the order of the axis."""
        return range(self.low, self.high + 1)

    @property
    def _count(self) -> int:
        return self.high - self.low + 1


@dataclass(frozen=True)
class Choice(Hyperparameter):
    """One of several options, whose order has no meaning.

    Attributes:
        options: The options: numbers, texts or booleans.
    """

    options: Sequence[Value]

    def __post_init__(self) -> None:
        if isinstance(self.options, (str, bytes)) or not isinstance(self.options, Sequence) or not self.options:
            raise UserError(f"a choice needs a list of options, got {self.options!r}")
        object.__setattr__(self, "options", tuple(map(_python, itertools.islice(self.options, MOST_OPTIONS + 1))))
        if len(self.options) > MOST_OPTIONS:
            raise UserError(f"a choice has at most {MOST_OPTIONS} options: use an integer for more")
        for option in self.options:
            if not isinstance(option, (bool, int, float, str)):
                raise UserError(f"options are numbers, texts or booleans, got {option!r}")
            if isinstance(option, str):
                _check_text("an option", option)
            elif not _is_finite(option):
                raise UserError(f"an option must be a finite number, got {shown(option)}")
        if len(set(self.options)) < len(self.options):  # a record cannot tell True from 1, nor 1 from 1.0
            raise UserError(f"options must differ, got {list(self.options)}")

    def decode(self, u: float) -> Value:
        """Return the value at a coordinate in [0, 1]."""
        return self.options[min(math.floor(u * len(self.options)), len(self.options) - 1)]

    def encode(self, value: Value) -> float:
        """Return the coordinate at the middle of an option's share of the axis."""
        return (value_index(self.options, value) + 0.5) / len(self.options)

    def snap(self, u: Array) -> Array:
        """Return `encode(decode(u))` for many coordinates at once, up to rounding errors; any shape."""
        return _middles(u, len(self.options))

    def contains(self, value: object) -> bool:
        """Return whether something is a value of this hyperparameter."""
        return any(same_value(option, value) for option in self.options)

    def describe(self) -> dict[str, Any]:
        """Return the form in a study's file, without `when`."""
        return {"choice": list(self.options)}

    @property
    def values(self) -> Sequence[Value]:
        """All values in the order of the axis."""
        return self.options


def _check_text(what: str, text: str) -> None:
    """Raise UserError for a text that no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} must be valid Unicode, got {text!r}") from None


def _check_bounds(parameter: Float | Int, numbers: tuple[type, ...]) -> None:
    """Check a hyperparameter's bounds and scale, and convert the bounds to plain Python numbers.

    parameter: The hyperparameter, whose bounds are replaced.
    numbers: The types that a bound may have.
    """
    integral = float not in numbers
    for name in ("low", "high"):
        bound = _python(getattr(parameter, name))
        if isinstance(bound, bool) or not isinstance(bound, numbers) or not (integral or _is_finite(bound)):
            raise UserError(f"a bound must be {'an integer' if integral else 'a finite number'}, got {shown(bound)}")
        object.__setattr__(parameter, name, bound)
    if not parameter.low < parameter.high:
        raise UserError(f"low < high must hold, got low={shown(parameter.low)}, high={shown(parameter.high)}")
    if not isinstance(parameter.log, bool):
        raise UserError(f"log is true or false, got {parameter.log!r}")


def _python(value: Any) -> Any:
    """Return a NumPy scalar as a plain Python value, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _is_finite(number: Any) -> bool:
    """Return whether a number is finite in double precision."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _middles(u: Array, n: int) -> Array:
    """Return, for each coordinate, the middle of its share if [0, 1] is divided into n equal shares."""
    return (np.minimum(np.floor(u * n), n - 1) + 0.5) / n


def inner_interval(lower: float, upper: float) -> tuple[float, float]:
    """Return an interval without its edges, so that it contains no value that only touches an end.

    Args:
        lower: The lower end of the interval.
        upper: The upper end of the interval.
    """
    margin = _EDGE * (upper - lower)
    return lower + margin, upper - margin


def same_value(a: object, b: object) -> bool:
    """Return whether two values are equal and of one kind (boolean, number, text).

    Args:
        a: One value.
        b: The other value.
    """
    # In Python, True == 1.
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def value_index(values: Sequence[Value], value: Value) -> int:
    """Return the index of a value in a sequence that contains it.

    Args:
        values: The sequence.
        value: The value.
    """
    if isinstance(values, range):
        return values.index(int(value))  # computed without a loop, because a range can have 2^63 values
    return next(i for i, other in enumerate(values) if same_value(other, value))


def condition_values(values: Value | Sequence[Value]) -> tuple[Value, ...]:
    """Return the values that a condition names as a single value or as a list; () if it is neither.

    A list is cut after MOST_OPTIONS + 1 values, so that a longer one can be refused without being read to its end.
    """
    if isinstance(values, (bool, int, float, str)):
        return (values,)
    return tuple(itertools.islice(values, MOST_OPTIONS + 1)) if isinstance(values, Sequence) else ()


def described_condition(when: Condition) -> dict[str, Any]:
    """Return a condition as it is written in a study's file."""
    return {name: value if isinstance(value, (bool, int, float, str)) else list(value) for name, value in when.items()}


def condition_text(conditions: Mapping[str, tuple[Value, ...]]) -> str:
    """Return conditions as text for messages, such as "x is 1 or 2 and y is a"."""
    return " and ".join(f"{parent} is {' or '.join(map(str, values))}" for parent, values in conditions.items())


def parse_hyperparameter(name: str, spec: Any) -> Hyperparameter:
    """Return a hyperparameter from its definition in a study's file.

    Args:
        name: The hyperparameter's name, with which every error begins.
        spec: The definition: {float: [low, high], log: true, when: {...}}, {int: ...} or {choice: [...]}.

    Raises:
        UserError: The definition is not valid.
    """
    kinds: tuple[Literal["float", "int", "choice"], ...] = ("float", "int", "choice")
    present = [kind for kind in kinds if isinstance(spec, Mapping) and kind in spec]
    if len(present) != 1:
        raise UserError(f"{name}: use one of float: [low, high], int: [low, high] or choice: [...], got {spec!r}")
    (kind,) = present
    known = {kind, "when"} | ({"log"} if kind != "choice" else set())
    for key in spec:
        if key not in known:
            raise UserError(f'{name}: unknown key "{key}"{suggestion(str(key), sorted(known))}')
    when = spec.get("when")
    if when is not None and not isinstance(when, Mapping):
        raise UserError(f"{name}: when is a mapping of names to values, got {when!r}")
    try:
        if kind == "choice":
            return Choice(spec["choice"], when=when)
        bounds = spec[kind]
        if isinstance(bounds, str) or not isinstance(bounds, Sequence) or len(bounds) != 2:
            raise UserError(f"{kind} takes [low, high], got {bounds!r}")
        low, high = bounds
        return (Float if kind == "float" else Int)(low, high, spec.get("log", False), when=when)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
