"""Cells of the unit cube and the tree of their splits: what SOO, and its relatives, search.

A cell is integers: on each axis its level (how often it was cut there) and its index among the base^level equal parts.
Bounds and centre are quotients of integers, so no error accumulates with depth.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

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
    score: what it is selected by, as a rule the centre's; NaN until it is known.
    inside: canonical points of the configurations in the cell, where they are few; else None.
    age: its number in the order of creation.
    children: made when they are first looked at.
    """

    base: int
    levels: tuple[int, ...]
    indices: tuple[int, ...]
    point: Point
    axis: int | None = None
    score: float = math.nan
    inside: tuple[Point, ...] | None = None
    age: int = 0
    children: list[Cell] = field(default_factory=list, repr=False)

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

    A cell that was added is selected by its score. While the score is missing, because its trial is pending, the cell
    awaits it and is no candidate. A score that has come is taken over by `collect`, and the order of candidates is that
    of score and creation, so that nothing depends on when it was collected.

    known: the score of the configuration at a point; None while there is none.
    worth: whether a cell with these children may be split now.
    """

    def __init__(
        self,
        space: Space,
        base: int = 3,
        known: Callable[[Point], float | None] = lambda point: None,
        worth: Callable[[Sequence[Cell]], bool] = lambda children: True,
    ) -> None:
        if base < 2:
            raise UserError(f"a cell is cut into 2 parts or more, got {base}")
        self.space = space
        self.base = base
        self.known = known
        self.worth = worth
        self._middles = [
            None if each.values is None else [each.encode(value) for value in each.values]
            for each in space.hyperparameters.values()
        ]
        d = space.dimension
        self.root = self._measured(Cell(base, (0,) * d, (0,) * d, (0.5,) * d))
        self._rows: list[list[tuple[float, int, Cell]]] = [[]]  # a heap for each depth: best score first, then age
        self._awaiting: list[Cell] = []
        self._ages = itertools.count(1)

    @property
    def depth(self) -> int:
        """Of the deepest cell."""
        return len(self._rows) - 1

    @property
    def shallowest(self) -> int | None:
        """The least depth with a candidate; None where there is none."""
        return next((depth for depth in range(len(self._rows)) if self.best(depth) is not None), None)

    def best(self, depth: int) -> Cell | None:
        """The best-scoring leaf of a depth that can be split, the oldest among equals; None where there is none."""
        row, passed = self._rows[depth], []
        while row and not self._candidate(leaf := row[0][2]):
            entry = heapq.heappop(row)
            if leaf.axis is not None:
                passed.append(entry)
        found = row[0][2] if row else None
        for entry in passed:
            heapq.heappush(row, entry)
        return found

    def split(self, leaf: Cell) -> list[Cell]:
        """The `base` parts of a leaf, from low to high, in its place; to be added by the caller."""
        if leaf.axis is None:
            raise ValueError(f"no side of the cell around {leaf.point} can be split")
        children = self._children(leaf)
        for child in children:
            child.age = next(self._ages)
        if leaf.depth == self.depth:
            self._rows.append([])
        leaf.axis = None
        return children

    def add(self, cells: Iterable[Cell]) -> None:
        """Makes candidates of cells, each as soon as it has a score."""
        self._awaiting.extend(cells)
        self.collect()

    def collect(self) -> None:
        """Takes over the scores that have become known."""
        awaiting, self._awaiting = self._awaiting, []
        for cell in awaiting:
            if math.isnan(cell.score) and (score := self.known(cell.point)) is not None:
                cell.score = score
            if math.isnan(cell.score):
                self._awaiting.append(cell)
            else:
                heapq.heappush(self._rows[cell.depth], (-cell.score, cell.age, cell))

    def _candidate(self, leaf: Cell) -> bool:
        if leaf.inside is not None and all(self.known(point) is not None for point in leaf.inside):
            leaf.axis = leaf.inside = None
        return leaf.axis is not None and self.worth(self._children(leaf))

    def _children(self, cell: Cell) -> list[Cell]:
        if not cell.children and cell.axis is not None:
            cell.children = [self._child(cell, cell.axis, part) for part in range(self.base)]
        return cell.children

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
