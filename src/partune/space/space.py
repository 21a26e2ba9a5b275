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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partune.errors import UserError, shown, suggestion
from partune.space.hyperparameters import (
    MOST_OPTIONS,
    Array,
    Float,
    Hyperparameter,
    Int,
    in_words,
    index_of,
    interior,
    listed,
    parse,
    plain,
    same,
)
from partune.trial import Config, Point, Value

# Cases that counting a conditional space looks at. A space with more of them has about as many configurations at least.
MOST_CASES = 10_000
# Of a name: what a database's column holds.
LONGEST = 500


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
                    raise UserError(f"{name} exists only when {in_words(self._conditions[name])}, got {dict(config)}")
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
                parent in left or (parent in values and any(same(values[parent], each) for each in allowed))
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
        low, high = interior(lower[axis], upper[axis])
        parameter = self.hyperparameters[name]
        return not same(parameter.decode(low), parameter.decode(high)) and self._active_in(name, lower, upper)

    def _active_in(self, name: str, lower: Sequence[float], upper: Sequence[float]) -> bool:
        """Whether a hyperparameter is active anywhere within a cell."""
        for parent, allowed in self._conditions[name].items():
            axis = self.names.index(parent)
            parameter = self.hyperparameters[parent]
            first, last = (parameter.decode(u) for u in interior(lower[axis], upper[axis]))
            values = parameter.values or ()
            inside = values[index_of(values, first) : index_of(values, last) + 1]
            if not any(same(a, b) for a in allowed for b in inside) or not self._active_in(parent, lower, upper):
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
        return cls({_checked_name(name): parse(name, spec) for name, spec in form.items()})

    def describe(self) -> dict[str, Any]:
        """The mapping that `parse` reads."""
        return {
            name: {**each.describe(), **({"when": plain(each.when)} if each.when else {})}
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
            allowed = listed(values)
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
            parent in config and any(same(config[parent], value) for value in allowed)
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
