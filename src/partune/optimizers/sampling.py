"""Sampling that learns nothing: uniform random search, Latin hypercubes, Sobol points and grids.

Each is an endless stream of points, a function of the seed alone; the next proposal is the first point of the stream
whose configuration was not proposed before.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from scipy.stats import qmc

from partune.errors import UserError
from partune.optimizers.base import Sampler
from partune.space import Choice, Hyperparameter, Space
from partune.trial import Point, Value

# Stream points in a row without a new configuration, after which the few that are left are listed and drawn from.
PATIENCE = 1000
# As many of them at most, so that a huge space is never listed whole.
LISTED = 100_000
# Points of a design that is drawn whole, at most.
DESIGN = 100_000


def check_design(option: str, size: int) -> None:
    """Raises UserError unless a design can have so many points."""
    if size < 1:
        raise UserError(f"{option} >= 1 must hold, got {option}={size}")
    if size > DESIGN:
        raise UserError(f"{option} <= {DESIGN} must hold, got {option}={size}")


class Stream(Sampler):
    """The points of a stream, in order, each configuration once."""

    learns = False

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._passed = 0

    @abstractmethod
    def stream(self, i: int) -> Point:
        """Point i = 0, 1, ... of the stream, (d,)."""

    def next_point(self) -> Point | None:
        for _ in range(PATIENCE):
            point = self.stream(self._passed)
            if not self.proposed(point):
                return point
            self._passed += 1
        left = list(itertools.islice((point for point in self._listed() if not self.proposed(point)), LISTED))
        if not left:
            return None
        return left[int(np.random.default_rng([self.seed, len(self.proposals), 1]).integers(len(left)))]

    def _listed(self) -> Iterator[Point]:
        """Every configuration's point in a finite space; nothing in one with a real hyperparameter."""
        parameters = self.space.hyperparameters
        values = {name: each.values for name, each in parameters.items() if each.values is not None}
        return map(self.space.encode, self.space.configurations(values) if len(values) == len(parameters) else ())


class RandomSearch(Stream):
    """Uniform in the unit cube; point i is drawn by `default_rng([seed, i])`. Bergstra and Bengio 2012."""

    def stream(self, i: int) -> Point:
        return tuple(np.random.default_rng([self.seed, i]).random(self.space.dimension).tolist())


class LatinHypercube(Stream):
    """Latin hypercube sampling; McKay, Beckman and Conover 1979.

    An optimiser does not know its budget, so the stream is cut into batches of `size` points: batch b is a fresh
    hypercube drawn by `default_rng([seed, b])`, every axis of which has one point in each of `size` equal strata.

    size: points in a hypercube; best the budget, or a divisor of it.
    """

    def __init__(self, space: Space, seed: int = 0, size: int = 50) -> None:
        super().__init__(space, seed)
        check_design("size", size)
        self.size = size
        self._hypercubes: list[list[Point]] = []

    def stream(self, i: int) -> Point:
        batch, row = divmod(i, self.size)
        while len(self._hypercubes) <= batch:
            rng = np.random.default_rng([self.seed, len(self._hypercubes)])
            sample = qmc.LatinHypercube(self.space.dimension, rng=rng).random(self.size)  # (size, d)
            self._hypercubes.append([tuple(point) for point in sample.tolist()])
        return self._hypercubes[batch][row]


class Sobol(Stream):
    """A Sobol sequence (Sobol' 1967; directions of Joe and Kuo 2008), scrambled after Owen 1998 by `scipy.stats.qmc`.

    Point i is the i-th of the sequence scrambled by `default_rng([seed])`.
    """

    # The sequence is drawn in blocks: a power of two, which is where it is balanced.
    block: ClassVar[int] = 64

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._sequence = qmc.Sobol(space.dimension, rng=np.random.default_rng([seed]))
        self._drawn: list[Point] = []

    def stream(self, i: int) -> Point:
        while len(self._drawn) <= i:
            self._drawn += map(tuple, self._sequence.random(self.block).tolist())  # (block, d)
        return self._drawn[i]


class Grid(Sobol):
    """Factorial grids, each finer than the one before and with all its points; Bergstra and Bengio 2012.

    The axis of a real or an integer has `points` values from end to end, evenly on its scale; a grid that is used up is
    followed by the one with half its spacing (3, 5, 9, ... values), for ever where there is a real hyperparameter. An
    integer with no more values than that, and a choice always, lists them all. The points of a grid come in the order
    in which a scrambled Sobol sequence enters their shares of the cube, so that a grid cut short by the budget is
    spread too: a lexical order would not have moved its first axes yet. The seed changes the order, not the grids.

    points: values of an axis in the first grid.
    """

    def __init__(self, space: Space, seed: int = 0, points: int = 3) -> None:
        super().__init__(space, seed)
        if points < 2:
            raise UserError(f"points >= 2 must hold, got points={points}")
        if points > DESIGN:
            raise UserError(f"points <= {DESIGN} must hold, got points={points}")
        self.points = points
        self._fine = points
        self._axes = self._values(points)

    def next_point(self) -> Point | None:
        while (point := super().next_point()) is None:
            # No axis has more values; or conditions that never hold together hide every axis that has.
            if (finer := self._values(2 * self._fine - 1)) == self._axes or self._fine > LISTED:
                return None
            self._fine, self._axes = 2 * self._fine - 1, finer
        return point

    def stream(self, i: int) -> Point:
        """Sobol point i, moved to the grid's point in whose share of the cube it lies."""
        shares = zip(super().stream(i), self.space.hyperparameters.values(), self._axes.values(), strict=True)
        return tuple(parameter.encode(values[int(u * len(values))]) for u, parameter, values in shares)

    def _listed(self) -> Iterator[Point]:
        return map(self.space.encode, self.space.configurations(self._axes))

    def _values(self, points: int) -> dict[str, Sequence[Value]]:
        return {name: _axis(each, points) for name, each in self.space.hyperparameters.items()}


def _axis(parameter: Hyperparameter, points: int) -> Sequence[Value]:
    """The values of an axis of a grid: `points` from end to end of its scale, or all where there are no more."""
    values = parameter.values
    if values is not None and (isinstance(parameter, Choice) or len(values) <= points):
        return values
    return list(dict.fromkeys(parameter.decode(i / (points - 1)) for i in range(points)))
