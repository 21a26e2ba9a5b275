"""Count the configurations of a space with conditions without listing them.

Hyperparameters that are connected by conditions form a group, and the counts of the groups are multiplied. A group is
counted case by case. Values of its first hyperparameter that meet the same conditions make one case.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from partune.space.hyperparameters import Hyperparameter
from partune.trial import Value

Conditions = Mapping[str, Mapping[str, Sequence[Value]]]  # child -> parent -> the parent's values under which it exists

# The largest number of cases that are counted. The configurations of a space are at least about as many as its cases.
MOST_CASES = 10_000


class _UncountedError(Exception):
    """A space has more than MOST_CASES cases."""


def count_configurations(
    hyperparameters: Mapping[str, Hyperparameter], conditions: Conditions, order: Sequence[str]
) -> int | None:
    """Return how many configurations a space has.

    Args:
        hyperparameters: The space's hyperparameters by name.
        conditions: For each hyperparameter and each of its parents, the parent's values under which the child exists.
        order: The names of the hyperparameters, parents first.

    Returns:
        The number; None if there is a real hyperparameter, or if conditions connect too many hyperparameters.
    """
    if any(parameter.values is None for parameter in hyperparameters.values()):
        return None
    try:
        return _Counter(hyperparameters, conditions).count(order, {})
    except (_UncountedError, RecursionError):  # counting goes one call deeper with each condition on a condition
        return None


class _Counter:
    """A counter of configurations, which also counts the cases that it has visited."""

    def __init__(self, hyperparameters: Mapping[str, Hyperparameter], conditions: Conditions) -> None:
        self._sizes = {name: len(parameter.values or ()) for name, parameter in hyperparameters.items()}
        self._conditions = conditions
        self._cases: Iterator[int] = itertools.count(1)

    def count(self, names: Iterable[str], known: Mapping[str, Value | None]) -> int:
        """Return the number of configurations of some hyperparameters when some others have known values.

        Args:
            names: The hyperparameters to count, parents first.
            known: The values of other hyperparameters. None stands for a hyperparameter that does not exist, or for a
                value that no condition names.

        Raises:
            _UncountedError: There are too many cases.
        """
        if next(self._cases) > MOST_CASES:
            raise _UncountedError
        decided, undecided = dict(known), list[str]()
        for name in names:
            if all(decided[parent] in values for parent, values in self._conditions[name].items() if parent in decided):
                undecided.append(name)
            else:
                decided[name] = None
        return math.prod(self._count_group(group, decided) for group in self._groups(undecided))

    def _count_group(self, names: Sequence[str], known: Mapping[str, Value | None]) -> int:
        """Return the number of configurations of one group, from the cases of its first hyperparameter."""
        first, *others = names
        allowed = [set(self._conditions[name][first]) for name in others if first in self._conditions[name]]
        by_conditions_met: dict[tuple[bool, ...], list[Value]] = {}
        for value in set().union(*allowed):
            by_conditions_met.setdefault(tuple(value in values for values in allowed), []).append(value)
        named = sum(map(len, by_conditions_met.values()))
        rest: tuple[int, Value | None] = (self._sizes[first] - named, None)
        cases = [rest, *((len(values), values[0]) for values in by_conditions_met.values())]
        return sum(n * self.count(others, {**known, first: value}) for n, value in cases if n)

    def _groups(self, names: Sequence[str]) -> list[list[str]]:
        """Divide names into groups, so that no condition connects two groups; the order stays within each group."""
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
