"""Cells of the unit cube and the tree of their splits, which SOO and its relatives search.

A cell is stored as integers. On each axis it has a level (the number of cuts along the axis) and an index among the
base^level equal parts of the axis. Bounds and centre are quotients of integers, so no error accumulates with depth.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from partune.errors import UserError
from partune.optimizers.base import Sequential
from partune.space import Space
from partune.trial import Point, Value

# The largest number of configurations of a cell that are listed.
FEW = 64
# The largest number of parts of a split, because each part is a cell in memory.
MOST_PARTS = 100
# A value is inside a cell if its share of the axis reaches more than 1 / FINE of the cell's side into the cell. A share
# that only touches the edge belongs to the neighbouring cell.
FINE = 10**9


@dataclass(eq=False)
class Cell:
    """A box in the unit cube, [i / base^l, (i + 1) / base^l] on each axis, scored at its centre.

    Attributes:
        base: The number of parts of a split.
        levels: l, the number of cuts along each axis, (d,).
        indices: i, the cell's index among the equal parts of each axis, (d,).
        point: The centre, (d,). A middle child has exactly the centre of its parent.
        sides: The axes along which the cell can be cut, the longest side first.
        score: The score by which the cell is selected, usually the score at its centre; NaN until it is known.
        inside: The canonical points of the cell's configurations; None if they are not listed.
        age: The cell's number in the order in which cells were added to the tree.
        children: The parts of the cell, created when they are first needed.
    """

    base: int
    levels: tuple[int, ...]
    indices: tuple[int, ...]
    point: Point
    sides: tuple[int, ...] = ()
    score: float = math.nan
    inside: tuple[Point, ...] | None = None
    age: int = 0
    children: list[Cell] = field(default_factory=list, repr=False)

    @property
    def depth(self) -> int:
        """The number of cuts that led to the cell."""
        return sum(self.levels)

    @property
    def longest(self) -> tuple[int, ...]:
        """The axes of the longest sides that can be cut."""
        return tuple(axis for axis in self.sides if self.levels[axis] == self.levels[self.sides[0]])

    @property
    def lower(self) -> Point:
        """The lower corner, (d,)."""
        return tuple(self.at(axis, 0, 1) for axis in range(len(self.levels)))

    @property
    def upper(self) -> Point:
        """The upper corner, (d,)."""
        return tuple(self.at(axis, 1, 1) for axis in range(len(self.levels)))

    def at(self, axis: int, part: int, parts: int) -> float:
        """Return (i + part / parts) / base^l, the coordinate at the share part / parts of a side.

        Args:
            axis: The axis of the side.
            part: The number of parts between the side's lower end and the coordinate.
            parts: The number of equal parts of the side.
        """
        # A single quotient of two integers makes equal coordinates of different cells equal to the last bit.
        cells_per_axis = int(self.base ** self.levels[axis])
        return (parts * self.indices[axis] + part) / (parts * cells_per_axis)


def check_parts(k: int) -> None:
    """Raise UserError unless a cell can be cut into k parts."""
    if not 2 <= k <= MOST_PARTS:
        raise UserError(f"a cell is cut into 2 to {MOST_PARTS} parts, got k={k}")


class Partitioned(Sequential):
    """An optimiser whose search grows a tree of cells.

    Attributes:
        tree: The latest tree; None before the search begins.
    """

    tree: Tree | None = None


class Tree:
    """A partition tree over a space; its leaves cover the unit cube.

    The root has depth 0. A leaf is cut into `base` equal parts along its longest side; of equal sides, the first axis
    is cut. A side is not cut if only one value decodes within it or if its hyperparameter is inactive throughout the
    cell. A cell is not cut either if the scores of all its configurations are known. Without this rule, a cell that
    straddles a border between discrete values could be cut for ever: with base 3, no edge is ever at 1/2, where a
    choice of two options has its border.

    The leaves are ranked in rows, by default one for each depth. An added cell becomes a candidate in its row when its
    score is known; while its trial is pending, the cell waits. `collect` looks for scores that have arrived. Candidates
    are ordered by score and then by age, so that the order does not depend on when a score was collected.

    Args:
        space: The search space.
        base: The number of parts of a split.
        known: A function that takes a point and returns the score of its configuration, or None if that is unknown.
        may_split: A function that takes a cell's children and returns whether the cell may be split now; None to allow
            every split.
        row: A function that takes a cell and returns the row in which the cell is ranked.

    Attributes:
        cells: The root and all parts of splits, in order of creation.
        depth: The depth of the deepest cell since the tree was last cleared.
    """

    def __init__(
        self,
        space: Space,
        base: int = 3,
        known: Callable[[Point], float | None] = lambda point: None,
        may_split: Callable[[Sequence[Cell]], bool] | None = None,
        row: Callable[[Cell], float] = lambda cell: cell.depth,
    ) -> None:
        check_parts(base)
        self.space = space
        self.base = base
        self.known = known
        self.may_split = may_split
        self.row = row
        self.depth = 0
        self._parameters = list(space.hyperparameters.values())
        self._conditions = any(parameter.when for parameter in space.hyperparameters.values())
        d = space.dimension
        self.root = self._measured(Cell(base, (0,) * d, (0,) * d, (0.5,) * d), range(d))
        self.cells: dict[Cell, None] = {self.root: None}
        self._rows: dict[float, list[tuple[float, int, Cell]]] = {}  # heaps: the best score first, then the oldest
        self._awaiting: list[Cell] = []
        self._ages = itertools.count(1)

    @property
    def rows(self) -> list[float]:
        """The rows with a candidate, in ascending order."""
        return [row for row in sorted(self._rows) if self.best(row) is not None]

    @property
    def shallowest(self) -> float | None:
        """The first row with a candidate; None if there is no candidate."""
        return next((row for row in sorted(self._rows) if self.best(row) is not None), None)

    def best(self, row: float) -> Cell | None:
        """Return the best-scoring leaf of a row that can be split, the oldest among equals; None if there is none."""
        heap, postponed = self._rows.get(row, []), []
        # A leaf that may not be split at the moment returns to the heap. A leaf that can never be split is dropped.
        while heap and not self.candidate(leaf := heap[0][2]):
            entry = heapq.heappop(heap)
            if leaf.sides:
                postponed.append(entry)
        leader = heap[0][2] if heap else None
        for entry in postponed:
            heapq.heappush(heap, entry)
        return leader

    def pop(self, row: float) -> Cell:
        """Remove the best leaf of a row from the candidates, and return it; raise ValueError if there is none."""
        if self.best(row) is None:
            raise ValueError(f"row {row} has no candidate")
        return heapq.heappop(self._rows[row])[2]

    def split(self, leaf: Cell, axis: int | None = None) -> list[Cell]:
        """Cut a leaf that was popped. The caller must score and add the parts.

        Args:
            leaf: The leaf.
            axis: The axis along which to cut; None for the longest side that can be cut.

        Returns:
            The `base` parts, from low to high.

        Raises:
            ValueError: The leaf cannot be cut along this axis.
        """
        if not leaf.sides or (axis is not None and axis not in leaf.sides):
            raise ValueError(f"the cell around {leaf.point} can be split along axes {leaf.sides}, got axis {axis}")
        children = self._children(leaf) if axis in (None, leaf.sides[0]) else self._parts(leaf, axis)
        self.depth = max(self.depth, children[0].depth)
        self.cells.update(dict.fromkeys(children))
        return children

    def clear(self) -> None:
        """Remove all candidates, so that a search can begin again at the root; `cells` stays as it is."""
        self._rows.clear()
        self._awaiting.clear()
        self.depth = 0

    def add(self, cells: Iterable[Cell]) -> None:
        """Add cells; each becomes a candidate as soon as it has a score."""
        for cell in cells:
            cell.age = next(self._ages)
            self._awaiting.append(cell)
        self.collect()

    def collect(self) -> None:
        """Look for the scores of waiting cells, and make candidates of the cells whose scores are known."""
        awaiting, self._awaiting = self._awaiting, []
        for cell in awaiting:
            if math.isnan(cell.score) and (score := self.known(cell.point)) is not None:
                cell.score = score
            if math.isnan(cell.score):
                self._awaiting.append(cell)
            else:
                heapq.heappush(self._rows.setdefault(self.row(cell), []), (-cell.score, cell.age, cell))

    def candidate(self, leaf: Cell) -> bool:
        """Return whether a leaf can be split, may hold a configuration without a score, and may be split now."""
        if leaf.inside is not None and all(self.known(point) is not None for point in leaf.inside):
            leaf.sides, leaf.inside = (), None
        return bool(leaf.sides) and (self.may_split is None or self.may_split(self._children(leaf)))

    def _children(self, leaf: Cell) -> list[Cell]:
        if not leaf.children:
            leaf.children = self._parts(leaf, leaf.sides[0])
        return leaf.children

    def _parts(self, leaf: Cell, axis: int) -> list[Cell]:
        return [self._child(leaf, axis, part) for part in range(self.base)]

    def _child(self, parent: Cell, axis: int, part: int) -> Cell:
        levels, indices, point = list(parent.levels), list(parent.indices), list(parent.point)
        levels[axis] += 1
        indices[axis] = self.base * indices[axis] + part
        child = Cell(self.base, tuple(levels), tuple(indices), parent.point)
        middle = self.base % 2 == 1 and part == self.base // 2
        if not middle:
            point[axis] = child.at(axis, 1, 2)
            child.point = tuple(point)
        return self._measured(child, parent.sides, cut=axis)

    def _measured(self, cell: Cell, axes: Iterable[int], cut: int | None = None) -> Cell:
        """Set the sides along which a cell can be cut and the configurations inside it, and return the cell.

        axes: The axes along which the parent could be cut; all axes for the root.
        cut: The axis along which the parent was cut; None for the root.
        """
        # The sides along which the parent was not cut can still be cut. Only conditions on the axis of the cut could
        # change that.
        lower, upper = cell.lower, cell.upper
        cuttable = [
            axis
            for axis in axes
            if (cut is not None and axis != cut and not self._conditions) or self.space.splittable(lower, upper, axis)
        ]
        cell.sides = tuple(sorted(cuttable, key=lambda axis: (cell.levels[axis], axis)))
        cell.inside = self._inside(cell, cuttable) if cuttable else None
        return cell

    def _inside(self, cell: Cell, axes: Sequence[int]) -> tuple[Point, ...] | None:
        """Return the canonical points of a cell's configurations.

        The result is None if there are more than FEW, or if a side that can be cut belongs to a real hyperparameter.

        axes: The axes along which the cell can be cut.
        """
        values: dict[int, Sequence[Value]] = {}
        for axis in axes:
            parameter = self._parameters[axis]
            if parameter.values is None:
                return None
            first, last = (parameter.decode(cell.at(axis, part, FINE)) for part in (1, FINE - 1))
            values[axis] = parameter.values[parameter.values.index(first) : parameter.values.index(last) + 1]
        if math.prod(map(len, values.values())) > FEW:
            return None
        sides: list[Sequence[float]] = [(u,) for u in cell.point]
        for axis, inside in values.items():
            sides[axis] = [self._parameters[axis].encode(value) for value in inside]
        return tuple({self.space.encode(self.space.decode(point)): None for point in itertools.product(*sides)})
