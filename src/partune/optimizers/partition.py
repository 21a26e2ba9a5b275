"""Cells of the unit cube and the tree of their splits: what SOO, and its relatives, search.

A cell is integers: on each axis its level (how often it was cut there) and its index among the base^level equal parts.
Bounds and centre are quotients of integers, so no error accumulates with depth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from partune.errors import UserError
from partune.space import Space
from partune.trial import Point

# Configurations of a cell that are listed, at most.
FEW = 64
# A value counts as inside a cell where it reaches further in than this part of a side.
FINE = 10**9


@dataclass(eq=False)
class Cell:
    """A box in the unit cube, scored at its centre.

    levels, indices: (d,); the cell is [i / base^l, (i + 1) / base^l] on each axis.
    point: the centre, (d,); a middle child has its parent's, by construction.
    axis: along which it will be cut; None where no side can be.
    score: of the centre; NaN until it is known.
    inside: canonical points of the configurations in the cell, where they are few; else None.
    """

    base: int
    levels: tuple[int, ...]
    indices: tuple[int, ...]
    point: Point
    axis: int | None = None
    score: float = math.nan
    inside: tuple[Point, ...] | None = None

    @property
    def depth(self) -> int:
        return sum(self.levels)

    @property
    def lower(self) -> Point:
        return tuple(self.at(axis, 0, 1) for axis in range(len(self.levels)))

    @property
    def upper(self) -> Point:
        return tuple(self.at(axis, 1, 1) for axis in range(len(self.levels)))

    def at(self, axis: int, part: int, parts: int) -> float:
        """Where `part` of `parts` equal parts of one side end: (i + part / parts) / base^l."""
        whole = int(self.base ** self.levels[axis])
        return (parts * self.indices[axis] + part) / (parts * whole)


class Tree:
    """A partition tree over a space; its leaves cover the unit cube.

    The root's depth is 0. A leaf is cut into `base` equal parts along its longest side in the unit cube, the first such
    axis among equals, never along a side within which only one value decodes or that is inactive throughout. Nor is a
    cell that straddles a border between discrete values, with nothing in it that is not known: it could be cut for ever
    (1/2, between two options, is no edge of any cell of base 3).

    known: whether the configuration at a point has its score.
    """

    def __init__(self, space: Space, base: int = 3, known: Callable[[Point], bool] = lambda point: False) -> None:
        if base < 2:
            raise UserError(f"a cell is cut into 2 parts or more, got {base}")
        self.space = space
        self.base = base
        self.known = known
        self._middles = [
            None if each.values is None else [each.encode(value) for value in each.values]
            for each in space.hyperparameters.values()
        ]
        d = space.dimension
        self.root = self._measured(Cell(base, (0,) * d, (0,) * d, (0.5,) * d))
        self.leaves: list[list[Cell]] = [[self.root]]

    @property
    def depth(self) -> int:
        return len(self.leaves) - 1

    @property
    def shallowest(self) -> int | None:
        """The least depth with a leaf that can be split; None where the space is exhausted."""
        return next((depth for depth in range(len(self.leaves)) if self.splittable(depth)), None)

    def splittable(self, depth: int) -> list[Cell]:
        """Leaves of a depth that can be split, in order of creation."""
        for leaf in self.leaves[depth]:
            if leaf.inside is not None and all(map(self.known, leaf.inside)):
                leaf.axis = leaf.inside = None
        return [leaf for leaf in self.leaves[depth] if leaf.axis is not None]

    def best(self, depth: int) -> Cell | None:
        """The best-scoring leaf of a depth that can be split, the oldest among equals; None where there is none."""
        return max(self.splittable(depth), key=lambda leaf: leaf.score, default=None)

    def split(self, leaf: Cell) -> list[Cell]:
        """Replaces a leaf by its `base` children, from low to high; their scores are not known yet."""
        if leaf.axis is None:
            raise ValueError(f"no side of the cell around {leaf.point} can be split")
        children = [self._child(leaf, leaf.axis, part) for part in range(self.base)]
        self.leaves[leaf.depth].remove(leaf)
        if leaf.depth == self.depth:
            self.leaves.append([])
        self.leaves[leaf.depth + 1].extend(children)
        return children

    def _child(self, parent: Cell, axis: int, part: int) -> Cell:
        levels, indices, point = list(parent.levels), list(parent.indices), list(parent.point)
        levels[axis] += 1
        indices[axis] = self.base * indices[axis] + part
        child = Cell(self.base, tuple(levels), tuple(indices), parent.point)
        middle = self.base % 2 == 1 and part == self.base // 2
        if not middle:
            point[axis] = child.at(axis, 1, 2)
            child.point = tuple(point)
        return self._measured(child)

    def _measured(self, cell: Cell) -> Cell:
        """With its longest side that can be cut, and what is inside."""
        lower, upper = cell.lower, cell.upper
        axes = [axis for axis in range(self.space.dimension) if self.space.splittable(lower, upper, axis)]
        if axes:
            cell.axis = min(axes, key=lambda axis: cell.levels[axis])
            cell.inside = self._inside(cell, axes)
        return cell

    def _inside(self, cell: Cell, axes: Sequence[int]) -> tuple[Point, ...] | None:
        """All configurations of a cell whose sides that can be cut are discrete, if they are few; axes: these sides."""
        sides: list[Sequence[float]] = [(u,) for u in cell.point]
        for axis in axes:
            middles = self._middles[axis]
            if middles is None:
                return None
            parameter = self.space.hyperparameters[self.space.names[axis]]
            first, last = (parameter.encode(parameter.decode(cell.at(axis, part, FINE))) for part in (1, FINE - 1))
            sides[axis] = [u for u in middles if first <= u <= last]
        if math.prod(map(len, sides)) > FEW:
            return None
        return tuple({self.space.encode(self.space.decode(point)): None for point in itertools.product(*sides)})
