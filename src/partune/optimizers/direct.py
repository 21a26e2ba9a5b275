"""The DIRECT algorithm (dividing rectangles) and its locally biased form, DIRECT-l.

D. R. Jones, C. D. Perttunen, B. E. Stuckman, Lipschitzian Optimization Without the Lipschitz Constant, Journal of
Optimization Theory and Applications 79, 1993. J. M. Gablonsky, C. T. Kelley, A Locally-Biased Form of the DIRECT
Algorithm, Journal of Global Optimization 21, 2001.

    c, delta    a cell's centre, and a third of its longest side
    d_j, f_j    size of a cell, and its score
    e_i         unit vector of axis i
    w_i         better one of the scores at c + delta e_i and c - delta e_i
    K           a Lipschitz constant: f_j + K d_j bounds f in cell j
    f*          best score so far
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from partune.errors import UserError
from partune.optimizers.base import Search
from partune.optimizers.partition import Cell, Partitioned, Tree
from partune.space import Space
from partune.trial import Point


class DIRECT(Partitioned):
    """The DIRECT algorithm: each iteration divides every cell that has the best bound for some Lipschitz constant.

    The points of an iteration are one batch, and the next iteration needs all of their scores.

    Args:
        space: The search space.
        seed: Ignored, because the algorithm draws no random numbers.
        epsilon: A cell is divided only if its bound is at least f* + epsilon |f*|; epsilon >= 0.
    """

    seeded = False
    biased: ClassVar[bool] = False

    def __init__(self, space: Space, seed: int = 0, epsilon: float = 1e-4) -> None:
        super().__init__(space, seed)
        if not 0 <= epsilon < math.inf:
            raise UserError(f"epsilon >= 0 must hold, got epsilon={epsilon}")
        self.epsilon = epsilon

    def search(self) -> Search:
        """Run the iterations: sample the potentially optimal cells, then divide them."""
        tree = self.tree = Tree(self.space, known=self.known, row=self.size)
        yield [tree.root.point]
        tree.add([tree.root])
        while cells := self._potentially_optimal(tree):
            yield [point for cell in cells for axis in cell.longest for point in pair(cell, axis)]
            for cell in cells:
                self._divide(tree, cell)

    def size(self, cell: Cell) -> float:
        """Return d_j, the distance from the centre to a corner; sides that cannot be cut count as having length 0."""
        # Sorted, so that the sums of cells with equal sides agree to the last bit: equal cells must share a row.
        return 0.5 * math.sqrt(sum(9.0**-level for level in sorted(cell.levels[axis] for axis in cell.sides)))

    def _potentially_optimal(self, tree: Tree) -> list[Cell]:
        """Remove the cells to divide from the tree, and return them.

        The best cell of each chosen size comes first, in descending order of size. Unless the search is biased, all
        other cells that have the size and the score of one of these follow.
        """
        # A failure (-inf) would make every slope infinite, so it counts as the worst finite score.
        finite = [score for score in self.scores.values() if math.isfinite(score)]
        best, worst = max(finite, default=0.0), min(finite, default=0.0)
        scores = {d: max(leaf.score, worst) for d in tree.rows if (leaf := tree.best(d)) is not None}
        chosen = potentially_optimal(scores, best, self.epsilon)
        cells = [tree.pop(d) for d in chosen]
        if not self.biased:
            for d, leader in zip(chosen, list(cells), strict=True):
                while (leaf := tree.best(d)) is not None and leaf.score == leader.score:
                    cells.append(tree.pop(d))
        return cells

    def _divide(self, tree: Tree, cell: Cell) -> None:
        """Cut a cell along its longest sides, the best w_i first, so that the best points get the largest cells."""
        longest, middle, parts = cell.longest, cell, {}
        for axis in sorted(longest, key=lambda axis: self._best_of_pair(cell, axis), reverse=True):
            if axis in middle.sides:  # an earlier cut may have made the axis inactive
                low, middle, high = tree.split(middle, axis)
                parts[axis] = [high, low]
        tree.add(part for axis in longest for part in parts.get(axis, []))
        tree.add([middle])

    def _best_of_pair(self, cell: Cell, axis: int) -> float:
        """Return w_i."""
        return max(-math.inf if (score := self.known(point)) is None else score for point in pair(cell, axis))


class DIRECTL(DIRECT):
    """DIRECT-l, the locally biased form, which concentrates sooner on regions where f is good.

    It measures a cell by its longest side and divides only one cell of each size.
    """

    biased = True

    def size(self, cell: Cell) -> float:
        """Return d_j, the longest side that can be cut; 1 if there is none."""
        return 3.0 ** -min((cell.levels[axis] for axis in cell.sides), default=0)


def potentially_optimal(scores: Mapping[float, float], best: float, epsilon: float) -> list[float]:
    """Return the sizes that are potentially optimal by the definition of Jones et al., largest first.

    A size j is potentially optimal if there is a K > 0 such that, for every size i,

        f_j + K d_j >= f_i + K d_i   and   f_j + K d_j >= f* + epsilon |f*|

    Args:
        scores: The best score f_i of each size d_i.
        best: f*.
        epsilon: The relative improvement on f* that must be possible, >= 0.
    """

    def holds(d: float) -> bool:
        least = max(((scores[i] - scores[d]) / (d - i) for i in scores if i < d), default=0.0)
        most = min(((scores[d] - scores[i]) / (i - d) for i in scores if i > d), default=math.inf)
        return most > 0 and least <= most and scores[d] + most * d >= best + epsilon * abs(best)

    return [d for d in sorted(scores, reverse=True) if holds(d)]


def pair(cell: Cell, axis: int) -> list[Point]:
    """Return c + delta e_i and c - delta e_i.

    Args:
        cell: The cell around c.
        axis: i.
    """
    c = cell.point
    return [(*c[:axis], cell.at(axis, part, 6), *c[axis + 1 :]) for part in (5, 1)]
