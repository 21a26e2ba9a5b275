"""The search space: named hyperparameters, and the conversion between the unit cube and configurations.

A point u in [0, 1]^d decodes to a configuration, which is a plain dict of the active hyperparameters. A configuration
encodes to its canonical point. `decode(encode(c)) == c` holds exactly for every configuration decoded from a point:

- A decoded float is rounded. On a log scale it has 12 significant digits. On a linear scale it is rounded to the place
  of the 12th digit of the bound that is larger in size.
- The n values of a linear integer or a choice have equal shares 1/n of [0, 1]. A log-scaled integer k has a share
  proportional to log((k + 1/2) / (k - 1/2)). Each value encodes to the middle of its share, so both ends are reachable.
- The coordinate of an inactive hyperparameter encodes as 1/2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partune.errors import UserError, shown, suggestion
from partune.space.counting import count_configurations
from partune.space.hyperparameters import (
    MOST_OPTIONS,
    Array,
    Float,
    Hyperparameter,
    Int,
    condition_text,
    condition_values,
    described_condition,
    inner_interval,
    parse_hyperparameter,
    same_value,
    value_index,
)
from partune.trial import Config, Point, Value

# The largest number of characters of a name, because a column of the record's database takes no more.
LONGEST = 500


class Space:
    """Hyperparameters by name, in the order of the axes of the unit cube.

    Args:
        hyperparameters: Hyperparameters by name, in a mapping whose keys may be any text.
        named: Further hyperparameters, as keyword arguments.

    Attributes:
        hyperparameters: All hyperparameters by name.
        names: The names of the hyperparameters, (d,).

    >>> space = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))
    >>> space.decode((0.5, 0.0))
    {'learning_rate': 0.0001, 'lora_r': 2}
    """

    def __init__(self, hyperparameters: Mapping[str, Hyperparameter] | None = None, /, **named: Hyperparameter) -> None:
        self.hyperparameters: Mapping[str, Hyperparameter] = _checked(
            {} if hyperparameters is None else hyperparameters, named
        )
        self.names = tuple(self.hyperparameters)
        self._conditions = {name: self._allowed(name) for name in self.names}
        self._order = tuple(self._parents_first())

    @property
    def dimension(self) -> int:
        """The number of hyperparameters, d."""
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(self.names)  # without the conditions, because they are mappings, which have no hash

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{name}={parameter!r}' for name, parameter in self.hyperparameters.items())})"

    # ----- points and configurations

    def decode(self, point: Sequence[float]) -> dict[str, Value]:
        """Return the configuration at a point, (d,) in [0, 1]; it contains only the active hyperparameters."""
        if len(point) != self.dimension or not all(0 <= u <= 1 for u in point):
            raise ValueError(f"a point has {self.dimension} coordinates in [0, 1], got {tuple(point)}")
        coordinate = dict(zip(self.names, point, strict=True))
        return self.configure(lambda name, parameter: parameter.decode(float(coordinate[name])))

    def configure(self, choose: Callable[[str, Hyperparameter], Value]) -> dict[str, Value]:
        """Return the configuration that `choose` makes by giving each active hyperparameter a value, parents first."""
        config: dict[str, Value] = {}
        for name in self._order:
            if self._active(name, config):
                config[name] = choose(name, self.hyperparameters[name])
        return {name: config[name] for name in self.names if name in config}

    def encode(self, config: Config) -> Point:
        """Return the canonical point of a configuration, (d,); raise UserError if it is not of this space."""
        self.check(config)
        return tuple(self.hyperparameters[name].encode(config[name]) if name in config else 0.5 for name in self.names)

    def snap(self, points: Array) -> Array:
        """Return `encode(decode(u))` for each of m points, up to rounding errors; (m, d) to (m, d)."""
        snapped = np.full_like(points, 0.5)
        active: dict[str, NDArray[np.bool_]] = {}
        for name in self._order:
            axis, parameter = self.names.index(name), self.hyperparameters[name]
            active[name] = np.ones(len(points), dtype=bool)
            for parent, allowed in self._conditions[name].items():
                # A snapped parent is at the middle of its value's share, so its coordinate shows which value it has.
                middles = [self.hyperparameters[parent].encode(value) for value in allowed]
                close = np.isclose(snapped[:, [self.names.index(parent)]], middles, rtol=0, atol=1e-9)  # (m, allowed)
                active[name] &= active[parent] & close.any(axis=1)
            snapped[active[name], axis] = parameter.snap(points[active[name], axis])
        return snapped

    def check(self, config: Config) -> None:
        """Raise UserError unless a configuration has exactly the active hyperparameters, each within its bounds."""
        for name in config:
            if name not in self.hyperparameters:
                raise UserError(f'the space has no hyperparameter "{name}"{suggestion(name, self.names)}')
        for name in self._order:
            if not self._active(name, config):
                if name in config:
                    raise UserError(
                        f"{name} exists only when {condition_text(self._conditions[name])}, got {dict(config)}"
                    )
            elif name not in config:
                raise UserError(f"{name} is missing in {dict(config)}")
            elif not self.hyperparameters[name].contains(config[name]):
                raise UserError(f"{name}={config[name]!r} is not in {self.hyperparameters[name].describe()}")

    def fixing(self, values: Mapping[str, Value]) -> Space:
        """Return the space that remains to be searched when some hyperparameters have fixed values.

        A hyperparameter whose condition the fixed values do not meet is left out too.

        Args:
            values: The fixed values by name; a value may lie outside its hyperparameter's range.

        Raises:
            UserError: Nothing is left to search.
        """
        free: dict[str, Hyperparameter] = {}
        for name in self._order:
            conditions = self._conditions[name]
            met = all(
                parent in free or (parent in values and any(same_value(values[parent], value) for value in allowed))
                for parent, allowed in conditions.items()
            )
            if name not in values and met:
                when = {parent: allowed for parent, allowed in conditions.items() if parent in free}
                free[name] = dataclasses.replace(self.hyperparameters[name], when=when or None)
        if not free:
            fixed = ", ".join(name for name in self.names if name in values)
            raise UserError(f"nothing is left to search: the settings fix {fixed}; remove those to be searched")
        return Space({name: free[name] for name in self.names if name in free})

    # ----- cells of the cube

    def splittable(self, lower: Sequence[float], upper: Sequence[float], axis: int) -> bool:
        """Return whether a cell contains more than one value along an axis.

        The result is False if the hyperparameter is inactive throughout the cell.

        Args:
            lower: The lower corner of the cell, (d,).
            upper: The upper corner of the cell, (d,).
            axis: The axis.
        """
        name = self.names[axis]
        low, high = inner_interval(lower[axis], upper[axis])
        parameter = self.hyperparameters[name]
        return not same_value(parameter.decode(low), parameter.decode(high)) and self._active_in(name, lower, upper)

    def _active_in(self, name: str, lower: Sequence[float], upper: Sequence[float]) -> bool:
        """Return whether a hyperparameter is active anywhere within a cell."""
        for parent, allowed in self._conditions[name].items():
            axis = self.names.index(parent)
            parameter = self.hyperparameters[parent]
            first, last = (parameter.decode(u) for u in inner_interval(lower[axis], upper[axis]))
            values = parameter.values or ()
            inside = values[value_index(values, first) : value_index(values, last) + 1]
            if not any(same_value(a, b) for a in allowed for b in inside) or not self._active_in(parent, lower, upper):
                return False
        return True

    # ----- all configurations

    @property
    def size(self) -> int | None:
        """The number of configurations; None if there is a real hyperparameter or if the conditions are too complex."""
        return count_configurations(self.hyperparameters, self._conditions, self._order)

    def configurations(self, values: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
        """Yield every configuration made of the listed values of each hyperparameter; the last name varies fastest."""

        def extended(names: tuple[str, ...], config: dict[str, Value]) -> Iterator[dict[str, Value]]:
            if not names:
                yield config
                return
            name, *rest = names
            for chosen in [{name: value} for value in values[name]] if self._active(name, config) else [{}]:
                yield from extended(tuple(rest), {**config, **chosen})

        return extended(self._order, {})

    # ----- the space in a study's file

    @classmethod
    def parse(cls, form: str | Mapping[str, Any]) -> Space:
        """Return a space from its definition in a study's file.

        Args:
            form: The name of a ready-made space, or {name: {float: [low, high], log: true, when: {...}}, ...}.

        Raises:
            UserError: The definition is not valid.
        """
        if isinstance(form, str):
            if form not in SPACES:
                raise UserError(f'no ready-made space "{form}"{suggestion(form, SPACES)}')
            return SPACES[form]
        if not isinstance(form, Mapping):
            raise UserError(f"a space is a name or a mapping of hyperparameters, got {form!r}")
        return cls({_checked_name(name): parse_hyperparameter(name, spec) for name, spec in form.items()})

    def describe(self) -> dict[str, Any]:
        """Return the space as the mapping that `parse` reads."""
        return {
            name: {**parameter.describe(), **({"when": described_condition(parameter.when)} if parameter.when else {})}
            for name, parameter in self.hyperparameters.items()
        }

    # ----- conditions

    def _allowed(self, name: str) -> dict[str, tuple[Value, ...]]:
        """Return the checked condition of a hyperparameter: for each parent, the values that let it exist."""
        conditions: dict[str, tuple[Value, ...]] = {}
        when = self.hyperparameters[name].when or {}
        if not isinstance(when, Mapping):
            raise UserError(f"{name}: when is a mapping of names to values, got {when!r}")
        for parent, values in when.items():
            if parent not in self.hyperparameters:
                unknown = f'{name} depends on "{parent}", which is not in the space'
                raise UserError(f"{unknown}{suggestion(parent, self.names)}")
            if self.hyperparameters[parent].values is None:
                raise UserError(f"{name} depends on {parent}: a condition needs a choice or an integer, not a float")
            allowed = condition_values(values)
            if not 1 <= len(allowed) <= MOST_OPTIONS:
                rule = f"a value, or a list of 1 to {MOST_OPTIONS}"
                raise UserError(f"{name} depends on {parent}: when takes {rule}, got {shown(values)}")
            for value in allowed:
                if not self.hyperparameters[parent].contains(value):
                    raise UserError(f"{name} exists when {parent} is {value!r}, which is not a value of {parent}")
            conditions[parent] = allowed
        return conditions

    def _parents_first(self) -> Iterator[str]:
        done: set[str] = set()
        while len(done) < len(self.names):
            ready = [name for name in self.names if name not in done and done.issuperset(self._conditions[name])]
            if not ready:
                raise UserError(f"conditions form a cycle: {', '.join(n for n in self.names if n not in done)}")
            done.update(ready)
            yield from ready

    def _active(self, name: str, config: Config) -> bool:
        """Return whether a hyperparameter exists in a configuration that already contains its active parents."""
        return all(
            parent in config and any(same_value(config[parent], value) for value in allowed)
            for parent, allowed in self._conditions[name].items()
        )


def _checked(mapping: Mapping[str, Hyperparameter], named: Mapping[str, Hyperparameter]) -> dict[str, Hyperparameter]:
    """Return the hyperparameters of both mappings; raise UserError if they cannot make a space."""
    if not isinstance(mapping, Mapping):
        raise UserError(f"a space is a mapping of names to Float, Int or Choice, got {mapping!r}")
    for name in named:
        if name in mapping:
            raise UserError(f'the hyperparameter "{name}" is defined twice')
    hyperparameters = {**mapping, **named}
    if not hyperparameters:
        raise UserError("a space needs at least one hyperparameter")
    for name, parameter in hyperparameters.items():
        _checked_name(name)
        if not isinstance(parameter, Hyperparameter):
            raise UserError(f"{name} must be a Float, an Int or a Choice, got {parameter!r}")
    return hyperparameters


def _checked_name(name: object) -> str:
    """Return a hyperparameter's name; raise UserError if it is not valid."""
    if not isinstance(name, str):
        raise UserError(f"a hyperparameter's name is a text, got {name!r}")
    if not name or name != name.strip() or not name.isprintable() or len(name) > LONGEST:
        rule = f"1 to {LONGEST} printable characters, without spaces at its ends"
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
    # Table 3.1 in the report of the study of 2025 that partune goes back to (docs/experiment.md). That study rounded
    # numbers to integers, so the lowest and the highest value of an integer had only half a share each.
    "lora-report": Space(
        lora_r=Int(2, 32),
        lora_alpha=Int(16, 64),
        lora_dropout=Float(0.0, 0.5),
        learning_rate=Float(1e-10, 1e-1, log=True),
        weight_decay=Float(1e-3, 1e-1, log=True),
    ),
    # The space of the published runs of the same study.
    "lora-article": Space(
        lora_r=Int(2, 64),
        lora_alpha=Int(1, 64),
        lora_dropout=Float(0.0, 0.5),
        learning_rate=Float(1e-10, 1e-1, log=True),
        weight_decay=Float(1e-5, 1e-1, log=True),
    ),
}
