"""Sampling that does not depend on results: uniform random search, Latin hypercubes, Sobol points and grids.

Each algorithm proposes the points of an endless sequence, which is fixed by the seed. The next proposal is the first
point of the sequence whose configuration was not proposed before. Algorithms that learn begin with such a sequence, and
return to it when they have nothing better to propose.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import scipy

from partune.errors import UserError
from partune.optimizers.base import Sampler
from partune.space import Choice, Hyperparameter, Space
from partune.trial import Point, Value

# If this many points in a row lead to no new configuration, the configurations that remain are listed, and one of them
# is drawn.
PATIENCE = 1000
# The largest number of configurations that are listed, so that a huge space is never listed completely.
MOST_LISTED = 100_000
# The largest number of points of a design (a set such as a Latin hypercube), because all of them are drawn at once.
MOST_DESIGN = 100_000
# The size of a block of Sobol points: a power of two, because the points of the sequence are balanced in such blocks.
SOBOL_BLOCK = 64


def check_design(option: str, size: int) -> None:
    """Check the number of points of a design.

    Args:
        option: The name of the option that sets the number, for the message.
        size: The number of points.

    Raises:
        UserError: The number is not from 1 to MOST_DESIGN.
    """
    if size < 1:
        raise UserError(f"{option} >= 1 must hold, got {option}={size}")
    if size > MOST_DESIGN:
        raise UserError(f"{option} <= {MOST_DESIGN} must hold, got {option}={size}")


class PointSequence(Protocol):
    """An endless sequence of points in the unit cube."""

    def __getitem__(self, i: int) -> Point:
        """Return the point with the number i, counted from 0; its shape is (d,)."""


class UniformPoints:
    """Independent uniform points; point i is drawn by `default_rng([seed, i])`."""

    def __init__(self, dimension: int, seed: int) -> None:
        self.dimension = dimension
        self.seed = seed

    def __getitem__(self, i: int) -> Point:
        return tuple(np.random.default_rng([self.seed, i]).random(self.dimension).tolist())


class Hypercubes:
    """Latin hypercubes of `size` points, one after another; hypercube b is drawn by `default_rng([seed, b])`."""

    def __init__(self, dimension: int, seed: int, size: int) -> None:
        self.dimension = dimension
        self.seed = seed
        self.size = size
        self._drawn: list[list[Point]] = []

    def __getitem__(self, i: int) -> Point:
        b, row = divmod(i, self.size)
        while len(self._drawn) <= b:
            rng = np.random.default_rng([self.seed, len(self._drawn)])
            sample = scipy.stats.qmc.LatinHypercube(self.dimension, rng=rng).random(self.size)  # (size, d)
            self._drawn.append([tuple(point) for point in sample.tolist()])
        return self._drawn[b][row]


class SobolPoints:
    """A Sobol sequence, scrambled by `default_rng([seed])`."""

    def __init__(self, dimension: int, seed: int) -> None:
        self._sequence = scipy.stats.qmc.Sobol(dimension, rng=np.random.default_rng([seed]))
        self._drawn: list[Point] = []

    def __getitem__(self, i: int) -> Point:
        while len(self._drawn) <= i:
            self._drawn += map(tuple, self._sequence.random(SOBOL_BLOCK).tolist())  # (block, d)
        return self._drawn[i]


class GridPoints:
    """The points of a grid, in an order given by a scrambled Sobol sequence.

    The grid divides the cube into equal shares, one for each grid point. Item i is the grid point whose share contains
    point i of the Sobol sequence. In this order, the points are spread out even if the budget ends before the grid
    does. In lexical order, the first axes would not have changed by then.

    Attributes:
        axes: The values of every hyperparameter, in the order of the axes.
    """

    def __init__(self, space: Space, seed: int, points: int) -> None:
        self._parameters = space.hyperparameters
        self._order = SobolPoints(space.dimension, seed)
        self._points = points
        self.axes: dict[str, Sequence[Value]] = self._values(points)

    def __getitem__(self, i: int) -> Point:
        shares = zip(self._order[i], self._parameters.values(), self.axes.values(), strict=True)
        return tuple(parameter.encode(values[int(u * len(values))]) for u, parameter, values in shares)

    def refine(self) -> bool:
        """Halve the grid's spacing and return True; if the grid cannot become finer, only return False."""
        finer = self._values(2 * self._points - 1)
        if finer == self.axes or self._points > MOST_LISTED:
            return False
        self._points, self.axes = 2 * self._points - 1, finer
        return True

    def _values(self, points: int) -> dict[str, Sequence[Value]]:
        return {name: _axis(parameter, points) for name, parameter in self._parameters.items()}


class Stream(Sampler):
    """The base class of algorithms that propose the points of a sequence in order, each configuration once.

    Args:
        space: The search space.
        seed: The seed of everything random in the algorithm.
        sequence: The sequence of points.
    """

    def __init__(self, space: Space, seed: int, sequence: PointSequence) -> None:
        super().__init__(space, seed)
        self.sequence = sequence
        self._passed = 0

    def next_point(self) -> Point | None:
        """Return the sequence's next point with a new configuration, or None if every configuration was proposed."""
        for _ in range(PATIENCE):
            point = self.sequence[self._passed]
            if not self.proposed(point):
                return point
            self._passed += 1
        new = list(itertools.islice((point for point in self._listed() if not self.proposed(point)), MOST_LISTED))
        if not new:
            return None
        return new[int(np.random.default_rng([self.seed, len(self.proposals), 1]).integers(len(new)))]

    def _listed(self) -> Iterator[Point]:
        """Yield the point of every configuration; yield nothing if the space has a real hyperparameter."""
        parameters = self.space.hyperparameters
        values = {name: parameter.values for name, parameter in parameters.items() if parameter.values is not None}
        return map(self.space.encode, self.space.configurations(values) if len(values) == len(parameters) else ())


class RandomSearch(Stream):
    """Uniform random search; Bergstra and Bengio 2012. Point i is drawn by `default_rng([seed, i])`."""

    learns = False

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed, UniformPoints(space.dimension, seed))


class LatinHypercube(Stream):
    """Latin hypercube sampling; McKay, Beckman and Conover 1979.

    An optimiser does not know its budget, so hypercubes of `size` points follow one another. They are independent, and
    on every axis a hypercube has one point in each of `size` equal strata.

    Args:
        space: The search space.
        seed: The seed of the hypercubes.
        size: The number of points of a hypercube; ideally the budget or a divisor of the budget.
    """

    learns = False

    def __init__(self, space: Space, seed: int = 0, size: int = 50) -> None:
        check_design("size", size)
        super().__init__(space, seed, Hypercubes(space.dimension, seed, size))
        self.size = size


class Sobol(Stream):
    """A Sobol sequence (Sobol' 1967; directions of Joe and Kuo 2008), scrambled after Owen 1998 by `scipy.stats.qmc`.

    Point i is the i-th point of the sequence that `default_rng([seed])` scrambles.
    """

    learns = False

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed, SobolPoints(space.dimension, seed))


class Grid(Stream):
    """Factorial grids, each finer than the one before; Bergstra and Bengio 2012.

    On the axis of a number, the first grid has `points` values from end to end, evenly spaced on the scale of the axis.
    An integer with no more values than that uses all of them, and a choice always uses all options. After a grid, the
    grid with half its spacing follows (3, 5, 9, ... values), without end if there is a real hyperparameter. The seed
    changes the order of a grid's points, not the grids.

    Args:
        space: The search space.
        seed: The seed of the order.
        points: The number of values of an axis in the first grid, at least 2.
    """

    learns = False

    def __init__(self, space: Space, seed: int = 0, points: int = 3) -> None:
        if points < 2:
            raise UserError(f"points >= 2 must hold, got points={points}")
        if points > MOST_DESIGN:
            raise UserError(f"points <= {MOST_DESIGN} must hold, got points={points}")
        self.grid = GridPoints(space, seed, points)
        super().__init__(space, seed, self.grid)
        self.points = points

    def next_point(self) -> Point | None:
        """Return the next point of the current grid or of a finer one, or None if there is no finer grid."""
        while (point := super().next_point()) is None:
            # `refine` returns False if no axis can have more values. It also does so at its largest number of points.
            # This limit ends the loop if the axes that can have more values are inactive in every configuration: their
            # conditions never hold together.
            if not self.grid.refine():
                return None
        return point

    def _listed(self) -> Iterator[Point]:
        return map(self.space.encode, self.space.configurations(self.grid.axes))


def _axis(parameter: Hyperparameter, points: int) -> Sequence[Value]:
    """Return the values of a grid's axis: `points` from end to end of its scale, or all of them if there are fewer."""
    values = parameter.values
    if values is not None and (isinstance(parameter, Choice) or len(values) <= points):
        return values
    return list(dict.fromkeys(parameter.decode(i / (points - 1)) for i in range(points)))
