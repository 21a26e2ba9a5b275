"""Cells of the unit cube and the tree of their splits, which SOO and its relatives search.

A cell is made of integers: on each axis its level (how often it was cut there) and its index among the base^level equal
parts.
Bounds and centre are quotients of integers, so no error accumulates with depth.
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

# The configurations of a cell are listed if there are no more than these.
FEW = 64
# The most parts of a split: each is a cell in memory.
MOST_PARTS = 100
# A value is inside a cell if its share of the axis reaches further in than 1 / FINE of the cell's side: what only
# touches the edge belongs to the neighbour.
FINE = 10**9


@dataclass(eq=False)
class Cell:
    """A box in the unit cube, [i / base^l, (i + 1) / base^l] on each axis, scored at its centre.

    Attributes:
        base: The number of parts of a split.
        levels: l, how often the cell was cut along each axis, (d,).
        indices: i, its place among the equal parts of each axis, (d,).
        point: The centre, (d,); a middle child has its parent's, to the last bit.
        sides: The axes along which it can be cut, the longest first.
        score: What it is selected by, as a rule the centre's score; NaN until it is known.
        inside: The canonical points of the configurations in the cell if they are few, else None.
        age: Its number in the order of creation.
        children: Its parts, made when they are first looked at.
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
        """How many cuts led to it."""
        return sum(self.levels)

    @property
    def longest(self) -> tuple[int, ...]:
        """The longest of its sides that can be cut."""
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
        """Return where the first `part` of `parts` equal parts of a side end: (i + part / parts) / base^l.

        Args:
            axis: The side's axis.
            part: How many of the parts, from 0 on.
            parts: How many equal parts the side has.
        """
        # One quotient of two integers, so that equal coordinates are equal to the last bit whichever cell they are of.
        whole = int(self.base ** self.levels[axis])
        return (parts * self.indices[axis] + part) / (parts * whole)


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

    The root's depth is 0. A leaf is cut into `base` equal parts along its longest side in the unit cube, the first such
    axis among equals; never along a side within which only one value decodes, or that is inactive throughout. A cell
    in which nothing is unknown is not cut either: one that straddles a border between discrete values could be cut for
    ever (1/2, between two options, is not an edge of any cell of base 3).

    A cell that was added is selected by its score, among the cells of its row. While the score is missing, because its
    trial is pending, the cell waits for it and is not a candidate. `collect` takes over the scores that have come. The
    order of candidates is that of score and creation, so that it does not depend on when a score was collected.

    Args:
        space: The search space.
        base: The number of parts of a split.
        known: Called with a point, returns the score of its configuration, or None if it is not known.
        may_split: Called with a cell's children, says whether it may be split now; None if it always may.
        row: Called with a cell, returns the number of the row in which it is ranked.

    Attributes:
        cells: The root and all parts of splits, in the order in which they were made.
        depth: The depth of the deepest cell since the tree was cleared.
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
        """The rows with a candidate, in order."""
        return [row for row in sorted(self._rows) if self.best(row) is not None]

    @property
    def shallowest(self) -> float | None:
        """The first row with a candidate; None if there is no candidate."""
        return next((row for row in sorted(self._rows) if self.best(row) is not None), None)

    def best(self, row: float) -> Cell | None:
        """Return the best-scoring leaf of a row that can be split, the oldest among equals; None if there is none."""
        heap, passed = self._rows.get(row, []), []
        # A leaf that must not be split at the moment goes back; one that never can be again is dropped for good.
        while heap and not self.candidate(leaf := heap[0][2]):
            entry = heapq.heappop(heap)
            if leaf.sides:
                passed.append(entry)
        leader = heap[0][2] if heap else None
        for entry in passed:
            heapq.heappush(heap, entry)
        return leader

    def pop(self, row: float) -> Cell:
        """Take the best leaf of a row out of the candidates; raise ValueError if there is none."""
        if self.best(row) is None:
            raise ValueError(f"row {row} has no candidate")
        return heapq.heappop(self._rows[row])[2]

    def split(self, leaf: Cell, axis: int | None = None) -> list[Cell]:
        """Cut a leaf that was popped; the caller scores its parts and adds them.

        Args:
            leaf: The leaf.
            axis: Where to cut; None for the longest side that can be cut.

        Returns:
            The `base` parts, from low to high.

        Raises:
            ValueError: The leaf cannot be cut there.
        """
        if not leaf.sides or (axis is not None and axis not in leaf.sides):
            raise ValueError(f"the cell around {leaf.point} can be split along axes {leaf.sides}, got axis {axis}")
        children = self._children(leaf) if axis in (None, leaf.sides[0]) else self._parts(leaf, axis)
        self.depth = max(self.depth, children[0].depth)
        self.cells.update(dict.fromkeys(children))
        return children

    def clear(self) -> None:
        """Forget the candidates, so that a search can begin again at the root; cells that were made are kept."""
        self._rows.clear()
        self._awaiting.clear()
        self.depth = 0

    def add(self, cells: Iterable[Cell]) -> None:
        """Make candidates of cells, each as soon as it has a score."""
        for cell in cells:
            cell.age = next(self._ages)
            self._awaiting.append(cell)
        self.collect()

    def collect(self) -> None:
        """Take over the scores that have become known."""
        awaiting, self._awaiting = self._awaiting, []
        for cell in awaiting:
            if math.isnan(cell.score) and (score := self.known(cell.point)) is not None:
                cell.score = score
            if math.isnan(cell.score):
                self._awaiting.append(cell)
            else:
                heapq.heappush(self._rows.setdefault(self.row(cell), []), (-cell.score, cell.age, cell))

    def candidate(self, leaf: Cell) -> bool:
        """Return whether a leaf can be split, has something unknown in it, and may be split now."""
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
        """Fill in which sides of a cell can be cut and what is inside, and return the cell.

        axes: The sides of its parent that could be cut.
        cut: The axis along which the parent was cut; None for the root.
        """
        # The sides that were not cut are as they were, unless conditions depend on the axis that was.
        lower, upper = cell.lower, cell.upper
        kept = [
            axis
            for axis in axes
            if (cut is not None and axis != cut and not self._conditions) or self.space.splittable(lower, upper, axis)
        ]
        cell.sides = tuple(sorted(kept, key=lambda axis: (cell.levels[axis], axis)))
        cell.inside = self._inside(cell, kept) if kept else None
        return cell

    def _inside(self, cell: Cell, axes: Sequence[int]) -> tuple[Point, ...] | None:
        """Return all configurations of a cell if they are few; None if not, or if a side that can be cut is real.

        axes: The sides that can be cut.
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
