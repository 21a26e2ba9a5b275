"""The search space: named hyperparameters, and the one bridge between the unit cube and configurations.

A point u in [0, 1]^d decodes to a configuration (a plain dict of the active hyperparameters); a configuration encodes
to its canonical point. `decode(encode(c)) == c` holds exactly for every configuration that decodes from a point:

- floats decode to 12 significant digits: of the value on a log scale, of the larger bound on a linear one;
- n linear integers or choices own equal shares 1/n of [0, 1]; a log-scaled integer k owns a share proportional to
  log((k + 1/2) / (k - 1/2)); each encodes to the middle of its share (nothing is truncated, both ends are reachable);
- the coordinate of an inactive hyperparameter encodes as 1/2.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from partune.errors import UserError, suggestion
from partune.trial import Config, Point, Value

Array = NDArray[np.float64]
Condition = Mapping[str, Value | Sequence[Value]]

DIGITS = 12
# A cell's interior, as a share of its width: a value that only touches the cell's edge is not in it.
_EDGE = 1e-9


@dataclass(frozen=True)
class Hyperparameter(ABC):
    """One axis of the unit cube. `when` names the discrete hyperparameters, and their values, under which it exists."""

    when: Condition | None = field(default=None, kw_only=True)

    @abstractmethod
    def decode(self, u: float) -> Value:
        """The value at a coordinate in [0, 1]."""

    @abstractmethod
    def encode(self, value: Value) -> float:
        """The coordinate of a value that `contains` admits."""

    @abstractmethod
    def snap(self, u: Array) -> Array:
        """`encode(decode(u))` for many coordinates at once, up to rounding errors; any shape."""

    @abstractmethod
    def contains(self, value: object) -> bool: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The form in a study's file, without `when`."""

    @property
    def values(self) -> Sequence[Value] | None:
        """All values in the order of the axis; None for a real one."""
        return None


@dataclass(frozen=True)
class Float(Hyperparameter):
    """A real number in [low, high]."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self, numbers=(int, float))
        if self.log and self.low <= 0:
            raise UserError(f"a log scale needs low > 0, got low={self.low}")

    def decode(self, u: float) -> float:
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
        x = float(value)
        if self.log:
            u = math.log(x / self.low) / math.log(self.high / self.low)
        else:
            u = (x - self.low) / (self.high - self.low)
        return min(max(u, 0.0), 1.0)

    def snap(self, u: Array) -> Array:
        return u

    def contains(self, value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def describe(self) -> dict[str, Any]:
        return {"float": [self.low, self.high], **({"log": True} if self.log else {})}


@dataclass(frozen=True)
class Int(Hyperparameter):
    """An integer in {low, ..., high}."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self, numbers=(int,))
        if self.log and self.low < 1:
            raise UserError(f"a log scale of integers needs low >= 1, got low={self.low}")

    def decode(self, u: float) -> int:
        if self.log:
            bottom, top = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = math.floor(math.exp(bottom + u * (top - bottom)) + 0.5)
        else:
            value = self.low + math.floor(u * (self.high - self.low + 1))
        return min(max(value, self.low), self.high)

    def encode(self, value: Value) -> float:
        k = int(value)
        if self.log:
            bottom, top = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return (0.5 * (math.log(k - 0.5) + math.log(k + 0.5)) - bottom) / (top - bottom)
        return (k - self.low + 0.5) / (self.high - self.low + 1)

    def snap(self, u: Array) -> Array:
        if not self.log:
            return _middles(u, self.high - self.low + 1)
        bottom, top = math.log(self.low - 0.5), math.log(self.high + 0.5)
        k = np.clip(np.floor(np.exp(bottom + u * (top - bottom)) + 0.5), self.low, self.high)
        return (0.5 * (np.log(k - 0.5) + np.log(k + 0.5)) - bottom) / (top - bottom)

    def contains(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def describe(self) -> dict[str, Any]:
        return {"int": [self.low, self.high], **({"log": True} if self.log else {})}

    @property
    def values(self) -> range:
        return range(self.low, self.high + 1)


@dataclass(frozen=True)
class Choice(Hyperparameter):
    """One of the given options, without an order that means anything."""

    options: Sequence[Value]

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not isinstance(self.options, Sequence) or not self.options:
            raise UserError(f"a choice needs a list of options, got {self.options!r}")
        object.__setattr__(self, "options", tuple(self.options))
        for option in self.options:
            if not isinstance(option, (bool, int, float, str)):
                raise UserError(f"options are numbers, texts or booleans, got {option!r}")
        if any(a == b for a, b in itertools.combinations(self.options, 2)):  # a record cannot tell True from 1
            raise UserError(f"options must differ, got {list(self.options)}")

    def decode(self, u: float) -> Value:
        return self.options[min(math.floor(u * len(self.options)), len(self.options) - 1)]

    def encode(self, value: Value) -> float:
        return (_index(self.options, value) + 0.5) / len(self.options)

    def snap(self, u: Array) -> Array:
        return _middles(u, len(self.options))

    def contains(self, value: object) -> bool:
        return any(_same(option, value) for option in self.options)

    def describe(self) -> dict[str, Any]:
        return {"choice": list(self.options)}

    @property
    def values(self) -> Sequence[Value]:
        return self.options


class Space:
    """Hyperparameters by name, in the order of the axes of the unit cube.

    >>> space = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))
    >>> space.decode((0.5, 0.0))
    {'learning_rate': 0.0001, 'lora_r': 2}
    """

    def __init__(self, hyperparameters: Mapping[str, Hyperparameter] | None = None, /, **named: Hyperparameter) -> None:
        self.hyperparameters: Mapping[str, Hyperparameter] = {**(hyperparameters or {}), **named}
        if not self.hyperparameters:
            raise UserError("a space needs at least one hyperparameter")
        self.names = tuple(self.hyperparameters)
        self._conditions = {name: self._allowed(name) for name in self.names}
        self._order = tuple(self._parents_first())

    @property
    def dimension(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{name}={each!r}' for name, each in self.hyperparameters.items())})"

    # ----- the bridge

    def decode(self, point: Sequence[float]) -> dict[str, Value]:
        """The configuration at a point; point: (d,) in [0, 1]; only active hyperparameters appear."""
        if len(point) != self.dimension or not all(0 <= u <= 1 for u in point):
            raise ValueError(f"a point has {self.dimension} coordinates in [0, 1], got {tuple(point)}")
        coordinate = dict(zip(self.names, point, strict=True))
        return self.configure(lambda name, parameter: parameter.decode(float(coordinate[name])))

    def configure(self, choose: Callable[[str, Hyperparameter], Value]) -> dict[str, Value]:
        """The configuration of the values that `choose` gives to the active hyperparameters, parents first."""
        config: dict[str, Value] = {}
        for name in self._order:
            if self._active(name, config):
                config[name] = choose(name, self.hyperparameters[name])
        return {name: config[name] for name in self.names if name in config}

    def encode(self, config: Config) -> Point:
        """The canonical point of a configuration, (d,); raises UserError where it is not of this space."""
        self.check(config)
        return tuple(self.hyperparameters[name].encode(config[name]) if name in config else 0.5 for name in self.names)

    def snap(self, points: Array) -> Array:
        """`encode(decode(u))` for many points at once, up to rounding errors; (m, d) to (m, d)."""
        snapped = np.full_like(points, 0.5)
        active: dict[str, NDArray[np.bool_]] = {}
        for name in self._order:
            axis, parameter = self.names.index(name), self.hyperparameters[name]
            active[name] = np.ones(len(points), dtype=bool)
            for parent, allowed in self._conditions[name].items():
                middles = [self.hyperparameters[parent].encode(value) for value in allowed]
                close = np.isclose(snapped[:, [self.names.index(parent)]], middles, rtol=0, atol=1e-9)  # (m, allowed)
                active[name] &= active[parent] & close.any(axis=1)
            snapped[active[name], axis] = parameter.snap(points[active[name], axis])
        return snapped

    def check(self, config: Config) -> None:
        """Raises UserError unless the configuration has exactly the active hyperparameters, each within its bounds."""
        for name in config:
            if name not in self.hyperparameters:
                raise UserError(f'the space has no hyperparameter "{name}"{suggestion(name, self.names)}')
        for name in self._order:
            if not self._active(name, config):
                if name in config:
                    raise UserError(f"{name} exists only when {_words(self._conditions[name])}, got {dict(config)}")
            elif name not in config:
                raise UserError(f"{name} is missing in {dict(config)}")
            elif not self.hyperparameters[name].contains(config[name]):
                raise UserError(f"{name}={config[name]!r} is not in {self.hyperparameters[name].describe()}")

    # ----- cells of the cube

    def splittable(self, lower: Sequence[float], upper: Sequence[float], axis: int) -> bool:
        """Whether more than one value decodes along `axis` within the cell [lower, upper]; each (d,).

        False too where the axis is inactive throughout the cell.
        """
        name = self.names[axis]
        low, high = _interior(lower[axis], upper[axis])
        parameter = self.hyperparameters[name]
        return not _same(parameter.decode(low), parameter.decode(high)) and self._active_in(name, lower, upper)

    def _active_in(self, name: str, lower: Sequence[float], upper: Sequence[float]) -> bool:
        """Whether a hyperparameter is active anywhere within a cell."""
        for parent, allowed in self._conditions[name].items():
            axis = self.names.index(parent)
            parameter = self.hyperparameters[parent]
            first, last = (parameter.decode(u) for u in _interior(lower[axis], upper[axis]))
            values = parameter.values or ()
            inside = values[_index(values, first) : _index(values, last) + 1]
            if not any(_same(a, b) for a in allowed for b in inside) or not self._active_in(parent, lower, upper):
                return False
        return True

    # ----- counting

    @property
    def size(self) -> int | None:
        """How many configurations there are; None where a real hyperparameter leaves them uncounted."""
        if any(each.values is None for each in self.hyperparameters.values()):
            return None
        parents = {parent for conditions in self._conditions.values() for parent in conditions}

        def count(names: tuple[str, ...], config: dict[str, Value]) -> int:
            if not names:
                return 1
            name, *rest = names
            if not self._active(name, config):
                return count(tuple(rest), config)
            values = self.hyperparameters[name].values or ()
            if name in parents:
                return sum(count(tuple(rest), {**config, name: value}) for value in values)
            return len(values) * count(tuple(rest), config)

        return count(self._order, {})

    def configurations(self, values: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
        """Every configuration made of the given values of each hyperparameter, once; the last name varies fastest."""

        def extended(names: tuple[str, ...], config: dict[str, Value]) -> Iterator[dict[str, Value]]:
            if not names:
                yield config
                return
            name, *rest = names
            for chosen in [{name: value} for value in values[name]] if self._active(name, config) else [{}]:
                yield from extended(tuple(rest), {**config, **chosen})

        return extended(self._order, {})

    # ----- the form in a study's file

    @classmethod
    def parse(cls, form: str | Mapping[str, Any]) -> Space:
        """A ready-made space by name, or {name: {float: [low, high], log: true, when: {...}}}; raises UserError."""
        if isinstance(form, str):
            if form not in SPACES:
                raise UserError(f'no ready-made space "{form}"{suggestion(form, SPACES)}')
            return SPACES[form]
        if not isinstance(form, Mapping):
            raise UserError(f"a space is a name or a mapping of hyperparameters, got {form!r}")
        return cls({str(name): _parse(str(name), spec) for name, spec in form.items()})

    def describe(self) -> dict[str, Any]:
        """The mapping that `parse` reads."""
        return {
            name: {**each.describe(), **({"when": _plain(each.when)} if each.when else {})}
            for name, each in self.hyperparameters.items()
        }

    # ----- conditions

    def _allowed(self, name: str) -> dict[str, tuple[Value, ...]]:
        """The conditions of a hyperparameter, each checked: parent -> the values under which it exists."""
        conditions: dict[str, tuple[Value, ...]] = {}
        for parent, values in (self.hyperparameters[name].when or {}).items():
            if parent not in self.hyperparameters:
                raise UserError(f'{name} depends on "{parent}", which is not there{suggestion(parent, self.names)}')
            if self.hyperparameters[parent].values is None:
                raise UserError(f"{name} depends on {parent}: conditions are on choices or integers, not on reals")
            allowed = _listed(values)
            for value in allowed:
                if not self.hyperparameters[parent].contains(value):
                    raise UserError(f"{name} exists when {parent} is {value!r}, but {parent} never is")
            conditions[parent] = allowed
        return conditions

    def _parents_first(self) -> Iterator[str]:
        done: set[str] = set()
        while len(done) < len(self.names):
            ready = [name for name in self.names if name not in done and done.issuperset(self._conditions[name])]
            if not ready:
                raise UserError(f"conditions go in a circle: {', '.join(n for n in self.names if n not in done)}")
            done.update(ready)
            yield from ready

    def _active(self, name: str, config: Config) -> bool:
        """Whether a hyperparameter exists in a configuration that already holds its parents."""
        return all(
            parent in config and any(_same(config[parent], value) for value in allowed)
            for parent, allowed in self._conditions[name].items()
        )


def _check_bounds(parameter: Float | Int, numbers: tuple[type, ...]) -> None:
    low, high = parameter.low, parameter.high
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, numbers) or not math.isfinite(bound):
            kind = "an integer" if numbers == (int,) else "a finite number"
            raise UserError(f"a bound must be {kind}, got {bound!r}")
    if not low < high:
        raise UserError(f"low < high must hold, got low={low}, high={high}")
    if not isinstance(parameter.log, bool):
        raise UserError(f"log is true or false, got {parameter.log!r}")


def _middles(u: Array, n: int) -> Array:
    """The middle of the share, of n equal ones of [0, 1], in which each coordinate lies."""
    return (np.minimum(np.floor(u * n), n - 1) + 0.5) / n


def _interior(lower: float, upper: float) -> tuple[float, float]:
    margin = _EDGE * (upper - lower)
    return lower + margin, upper - margin


def _same(a: object, b: object) -> bool:
    """Equality that tells True from 1: values are compared with their kind (booleans, numbers, texts)."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _index(values: Sequence[Value], value: Value) -> int:
    if isinstance(values, range):
        return values.index(int(value))
    return next(i for i, each in enumerate(values) if _same(each, value))


def _listed(values: Value | Sequence[Value]) -> tuple[Value, ...]:
    return (values,) if isinstance(values, (bool, int, float, str)) else tuple(values)


def _plain(when: Condition) -> dict[str, Any]:
    return {name: value if isinstance(value, (bool, int, float, str)) else list(value) for name, value in when.items()}


def _words(conditions: Mapping[str, tuple[Value, ...]]) -> str:
    return " and ".join(f"{parent} is {' or '.join(map(str, values))}" for parent, values in conditions.items())


def _parse(name: str, spec: Any) -> Hyperparameter:
    """One hyperparameter from its form in the file; every error begins with its name."""
    kinds: tuple[Literal["float", "int", "choice"], ...] = ("float", "int", "choice")
    given = [kind for kind in kinds if isinstance(spec, Mapping) and kind in spec]
    if len(given) != 1:
        raise UserError(f"{name}: give one of float: [low, high], int: [low, high] or choice: [...], got {spec!r}")
    (kind,) = given
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


SPACES: dict[str, Space] = {
    "lora": Space(
        lora_r=Int(2, 64, log=True),
        lora_alpha=Int(1, 64, log=True),
        lora_dropout=Float(0.0, 0.5),
        learning_rate=Float(1e-6, 1e-2, log=True),
        weight_decay=Float(1e-5, 1e-1, log=True),
    ),
    # Table 3.1 of the original study's report. Rounding there gave the end values of an integer half a share.
    "lora-report": Space(
        lora_r=Int(2, 32),
        lora_alpha=Int(16, 64),
        lora_dropout=Float(0.0, 0.5),
        learning_rate=Float(1e-10, 1e-1, log=True),
        weight_decay=Float(1e-3, 1e-1, log=True),
    ),
    # The space of that study's published runs.
    "lora-article": Space(
        lora_r=Int(2, 64),
        lora_alpha=Int(1, 64),
        lora_dropout=Float(0.0, 0.5),
        learning_rate=Float(1e-10, 1e-1, log=True),
        weight_decay=Float(1e-5, 1e-1, log=True),
    ),
}
