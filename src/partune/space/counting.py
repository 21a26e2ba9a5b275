"""The number of configurations of a space with conditions, counted without listing them.

Hyperparameters that no condition ties together multiply. A tied group is counted by the cases of its first
hyperparameter: values that meet the same conditions make one case.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from partune.space.hyperparameters import Hyperparameter
from partune.trial import Value

Conditions = Mapping[str, Mapping[str, Sequence[Value]]]  # child -> parent -> the parent's values under which it exists

# Counting gives up after this many cases. A space with more of them has about as many configurations at least.
MOST_CASES = 10_000


class _UncountedError(Exception):
    """A space has more cases than are counted."""


def count_configurations(
    hyperparameters: Mapping[str, Hyperparameter], conditions: Conditions, order: Sequence[str]
) -> int | None:
    """Return how many configurations a space has.

    Args:
        hyperparameters: The space's hyperparameters by name.
        conditions: For each of them, the values of its parents under which it exists.
        order: Their names, parents first.

    Returns:
        The number; None if there is a real hyperparameter, or if conditions tie too many others together.
    """
    if any(parameter.values is None for parameter in hyperparameters.values()):
        return None
    try:
        return _Counter(hyperparameters, conditions).count(order, {})
    except (_UncountedError, RecursionError):  # counting goes one call deeper with each condition on a condition
        return None


class _Counter:
    """Counts configurations, case by case, and the cases."""

    def __init__(self, hyperparameters: Mapping[str, Hyperparameter], conditions: Conditions) -> None:
        self._sizes = {name: len(parameter.values or ()) for name, parameter in hyperparameters.items()}
        self._conditions = conditions
        self._cases: Iterator[int] = itertools.count(1)

    def count(self, names: Iterable[str], known: Mapping[str, Value | None]) -> int:
        """Return the number of configurations of some hyperparameters, given those that they depend on.

        Args:
            names: The hyperparameters to count, parents first.
            known: The values of the others; None for one that does not exist, or whose value no condition names.

        Raises:
            _UncountedError: There are too many cases.
        """
        if next(self._cases) > MOST_CASES:
            raise _UncountedError
        decided, left = dict(known), list[str]()
        for name in names:
            if all(decided[parent] in values for parent, values in self._conditions[name].items() if parent in decided):
                left.append(name)
            else:
                decided[name] = None
        return math.prod(self._count_tied(group, decided) for group in self._tied(left))

    def _count_tied(self, names: Sequence[str], known: Mapping[str, Value | None]) -> int:
        """Return the number of configurations of a tied group, from the cases of its first hyperparameter."""
        first, *others = names
        allowed = [set(self._conditions[name][first]) for name in others if first in self._conditions[name]]
        alike: dict[tuple[bool, ...], list[Value]] = {}
        for value in set().union(*allowed):
            alike.setdefault(tuple(value in values for values in allowed), []).append(value)
        mentioned = sum(map(len, alike.values()))
        rest: tuple[int, Value | None] = (self._sizes[first] - mentioned, None)
        cases = [rest, *((len(values), values[0]) for values in alike.values())]
        return sum(n * self.count(others, {**known, first: value}) for n, value in cases if n)

    def _tied(self, names: Sequence[str]) -> list[list[str]]:
        """Return the names in groups that no condition connects with each other; the order is kept within each."""
        leader = {name: name for name in names}  # a union-find forest

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
