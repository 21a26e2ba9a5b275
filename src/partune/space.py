"""The search space: named hyperparameters, and the one bridge between the unit cube and configurations.

A point u in [0, 1]^d decodes to a configuration (a plain dict of the active hyperparameters); a configuration encodes
to its canonical point. `decode(encode(c)) == c` holds exactly for every configuration that decodes from a point:

- floats decode to 12 significant digits: of the value on a log scale, of the larger bound on a linear one;
- n linear integers or choices own equal shares 1/n of [0, 1]; a log-scaled integer k owns a share proportional to
  log((k + 1/2) / (k - 1/2)); each encodes to the middle of its share (nothing is truncated, both ends are reachable);
- the coordinate of an inactive hyperparameter encodes as 1/2.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from partune.errors import UserError, shown, suggestion
from partune.trial import Config, Point, Value

Array = NDArray[np.float64]
Condition = Mapping[str, Value | Sequence[Value]]

DIGITS = 12
# Values of an integer: as many as a range's length can count. On a log scale neighbours further up have the same
# logarithm in double precision, so that they could not be told apart.
MOST_VALUES, MOST_LOG = 2**63 - 1, 2**46
# An integer of more values than that is placed on the axis in exact arithmetic.
EXACT = 2**51
# Options of a choice: each trial's record names them all.
MOST_OPTIONS = 10_000
# Cases that counting a conditional space looks at. A space with more of them has about as many configurations at least.
MOST_CASES = 10_000
# Of a name: what a database's column holds.
LONGEST = 500
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
        measure, extent = ("high / low", operator.truediv) if self.log else ("high - low", operator.sub)
        if not math.isfinite(extent(float(self.high), float(self.low))):
            raise UserError(f"{measure} must be a finite number, got low={self.low}, high={self.high}")
        if self.decode(1 / 3) == self.decode(2 / 3):
            raise UserError(f"low and high must differ in {DIGITS} digits, got low={self.low}, high={self.high}")

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
            raise UserError(f"a log scale of integers needs low >= 1, got low={shown(self.low)}")
        if self.log and self.high > MOST_LOG:
            raise UserError(f"a log scale of integers needs high <= 2^46, got high={shown(self.high)}: take a float")
        if max(-self.low, self.high, self._count) > MOST_VALUES:
            rule = "an integer has fewer than 2^63 values, all below 2^63 in size"
            raise UserError(f"{rule}, got low={shown(self.low)}, high={shown(self.high)}: take a float")

    def decode(self, u: float) -> int:
        if self.log:
            bottom, top = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = math.floor(math.exp(bottom + u * (top - bottom)) + 0.5)
        elif self._count > EXACT:
            part, whole = float(u).as_integer_ratio()
            value = self.low + part * self._count // whole
        else:
            value = self.low + math.floor(u * self._count)
        return min(max(value, self.low), self.high)

    def encode(self, value: Value) -> float:
        k = int(value)
        if self.log:
            bottom, top = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return (0.5 * (math.log(k - 0.5) + math.log(k + 0.5)) - bottom) / (top - bottom)
        return (2 * (k - self.low) + 1) / (2 * self._count)

    def snap(self, u: Array) -> Array:
        if not self.log:
            return _middles(u, self._count)
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

    @property
    def _count(self) -> int:
        return self.high - self.low + 1


@dataclass(frozen=True)
class Choice(Hyperparameter):
    """One of the given options, without an order that means anything."""

    options: Sequence[Value]

    def __post_init__(self) -> None:
        if isinstance(self.options, (str, bytes)) or not isinstance(self.options, Sequence) or not self.options:
            raise UserError(f"a choice needs a list of options, got {self.options!r}")
        object.__setattr__(self, "options", tuple(map(_python, itertools.islice(self.options, MOST_OPTIONS + 1))))
        if len(self.options) > MOST_OPTIONS:
            raise UserError(f"a choice has at most {MOST_OPTIONS} options: take an integer for more")
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
        self.hyperparameters: Mapping[str, Hyperparameter] = _named(
            {} if hyperparameters is None else hyperparameters, named
        )
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

    def fixing(self, values: Mapping[str, Value]) -> Space:
        """Return the space of what remains to be searched where some hyperparameters have fixed values.

        What exists only under other values of theirs is gone too; a value may lie outside its hyperparameter's range.
        Raises UserError where nothing remains.
        """
        left: dict[str, Hyperparameter] = {}
        for name in self._order:
            conditions = self._conditions[name]
            met = all(
                parent in left or (parent in values and any(_same(values[parent], each) for each in allowed))
                for parent, allowed in conditions.items()
            )
            if name not in values and met:
                when = {parent: allowed for parent, allowed in conditions.items() if parent in left}
                left[name] = dataclasses.replace(self.hyperparameters[name], when=when or None)
        if not left:
            given = ", ".join(name for name in self.names if name in values)
            raise UserError(f"nothing is left to search: {given} are given; leave out what is to be searched")
        return Space({name: left[name] for name in self.names if name in left})

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
        """Return how many configurations there are.

        None where a real hyperparameter, or conditions that tie very many others together, leave them uncounted.
        """
        if any(each.values is None for each in self.hyperparameters.values()):
            return None
        try:
            return self._count(self._order, {}, itertools.count(1))
        except (_UncountedError, RecursionError):
            return None

    def _count(self, names: Iterable[str], known: Mapping[str, Value | None], cases: Iterator[int]) -> int:
        """Return the number of configurations of some hyperparameters, given those that they depend on.

        Args:
            names: The hyperparameters to count, parents first.
            known: The values of the others; None for one that does not exist, or whose value no condition names.
            cases: Counts the cases of all calls together.

        Raises:
            _UncountedError: There are too many cases.
        """
        if next(cases) > MOST_CASES:
            raise _UncountedError
        decided, left = dict(known), list[str]()
        for name in names:
            if all(decided[each] in values for each, values in self._conditions[name].items() if each in decided):
                left.append(name)
            else:
                decided[name] = None
        return math.prod(self._count_tied(group, decided, cases) for group in self._tied(left))

    def _count_tied(self, names: Sequence[str], known: Mapping[str, Value | None], cases: Iterator[int]) -> int:
        """Return the number of configurations of a tied group: the values of its first that meet the same conditions
        make one case.
        """
        first, *others = names
        allowed = [set(self._conditions[name][first]) for name in others if first in self._conditions[name]]
        alike: dict[tuple[bool, ...], list[Value]] = {}
        for value in set().union(*allowed):
            alike.setdefault(tuple(value in each for each in allowed), []).append(value)
        named = sum(map(len, alike.values()))
        rest: tuple[int, Value | None] = (len(self.hyperparameters[first].values or ()) - named, None)
        ways = [rest, *((len(values), values[0]) for values in alike.values())]
        return sum(n * self._count(others, {**known, first: value}, cases) for n, value in ways if n)

    def _tied(self, names: Sequence[str]) -> list[list[str]]:
        """Return the names in groups that no condition connects with each other; the order is kept within each."""
        leader = {name: name for name in names}

        def lead(name: str) -> str:
            while leader[name] != name:
                leader[name] = name = leader[leader[name]]
            return name

        for name in names:
            for parent in leader.keys() & self._conditions[name].keys():
                leader[lead(parent)] = lead(name)
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(lead(name), []).append(name)
        return list(groups.values())

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
        return cls({_checked_name(name): _parse(name, spec) for name, spec in form.items()})

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
        when = self.hyperparameters[name].when or {}
        if not isinstance(when, Mapping):
            raise UserError(f"{name}: when is a mapping of names to values, got {when!r}")
        for parent, values in when.items():
            if parent not in self.hyperparameters:
                raise UserError(f'{name} depends on "{parent}", which is not there{suggestion(parent, self.names)}')
            if self.hyperparameters[parent].values is None:
                raise UserError(f"{name} depends on {parent}: conditions are on choices or integers, not on reals")
            allowed = _listed(values)
            if not 1 <= len(allowed) <= MOST_OPTIONS:
                rule = f"a value, or a list of 1 to {MOST_OPTIONS}"
                raise UserError(f"{name} depends on {parent}: when takes {rule}, got {shown(values)}")
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


class _UncountedError(Exception):
    """A space has more cases than are counted."""


def _named(given: Mapping[str, Hyperparameter], named: Mapping[str, Hyperparameter]) -> dict[str, Hyperparameter]:
    """Return a space's hyperparameters; raises UserError where they cannot make one."""
    if not isinstance(given, Mapping):
        raise UserError(f"a space is a mapping of names to Float, Int or Choice, got {given!r}")
    for name in named:
        if name in given:
            raise UserError(f'the hyperparameter "{name}" is given twice')
    found = {**given, **named}
    if not found:
        raise UserError("a space needs at least one hyperparameter")
    for name, parameter in found.items():
        _checked_name(name)
        if not isinstance(parameter, Hyperparameter):
            raise UserError(f"{name} must be a Float, an Int or a Choice, got {parameter!r}")
    return found


def _checked_name(name: object) -> str:
    """Return a hyperparameter's name; raises UserError where it cannot be one."""
    if not isinstance(name, str):
        raise UserError(f"a hyperparameter's name is a text, got {name!r}")
    if not name or name != name.strip() or not name.isprintable() or len(name) > LONGEST:
        rule = f"1 to {LONGEST} printable characters, without space around them"
        raise UserError(f"a hyperparameter's name has {rule}, got {shown(name)}")
    return name


def _check_text(what: str, text: str) -> None:
    """Raises UserError for a text that no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} must be valid Unicode, got {text!r}") from None


def _check_bounds(parameter: Float | Int, numbers: tuple[type, ...]) -> None:
    whole = float not in numbers
    for name in ("low", "high"):
        bound = _python(getattr(parameter, name))
        if isinstance(bound, bool) or not isinstance(bound, numbers) or not (whole or _is_finite(bound)):
            raise UserError(f"a bound must be {'an integer' if whole else 'a finite number'}, got {shown(bound)}")
        object.__setattr__(parameter, name, bound)
    if not parameter.low < parameter.high:
        raise UserError(f"low < high must hold, got low={shown(parameter.low)}, high={shown(parameter.high)}")
    if not isinstance(parameter.log, bool):
        raise UserError(f"log is true or false, got {parameter.log!r}")


def _python(value: Any) -> Any:
    """Return Python's own number or text for a scalar of NumPy's, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _is_finite(number: Any) -> bool:
    """Return whether a number is finite in double precision."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


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
    """Return the values of a condition, and one more than there can be where they are too many; none for no list."""
    if isinstance(values, (bool, int, float, str)):
        return (values,)
    return tuple(itertools.islice(values, MOST_OPTIONS + 1)) if isinstance(values, Sequence) else ()


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
