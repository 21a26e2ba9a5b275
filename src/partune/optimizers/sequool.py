"""SequOOL and StroquOOL: parameter-free optimistic optimisation, which visits each depth once.

P. L. Bartlett, V. Gabillon, M. Valko, A Simple Parameter-free and Adaptive Approach to Optimization under a Minimal
Local Smoothness Assumption, ALT 2019.

    n           budget, in cells that are opened (SequOOL) or evaluations (StroquOOL)
    log-bar(n)  sum_{t=1}^n 1/t
    h_max       deepest level at which cells are opened
    T           number of evaluations whose mean is a cell's value
    h           a level
    p           a step of StroquOOL at a level: each child of the cells that it opens gets 2^p evaluations

The plan of SequOOL was checked against two public implementations, which agree: PyXAB and the baselines of IMABO.

StroquOOL is experimental: its plan could not be checked against the paper's text, and the two implementations differ.
PyXAB opens one cell for each p. IMABO opens the m-th best cell floor(h_max / (h m)) times for every m. This module
opens floor(h_max / (h 2^p)) cells for each p, which is the number that the paper's h_max allows.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Generator
from statistics import fmean as mean
from typing import Any

from partune.errors import UserError
from partune.optimizers.base import Search
from partune.optimizers.partition import Cell, Partitioned, Tree, check_parts
from partune.space import Space
from partune.trial import Point


class Budgeted(Partitioned):
    """The base class of algorithms that plan one run for a budget, then a run for twice the budget, and so on.

    Unlike in the paper, known scores cost nothing, so a run without new points is followed by the next one at once. The
    search ends when every cell is opened.

    Args:
        space: The search space.
        seed: Ignored, because the algorithm draws no random numbers.
        budget: The number of evaluations that the first run may take.
        k: The number of parts of a split. If it is odd, the middle child has its parent's point and costs nothing.
    """

    seeded = False

    def __init__(self, space: Space, seed: int = 0, budget: int = 50, k: int = 3) -> None:
        super().__init__(space, seed)
        check_parts(k)
        if budget < 1:
            raise UserError(f"budget >= 1 must hold, got budget={budget}")
        self.budget = budget
        self.k = k

    @property
    def new(self) -> int:
        """The number of new points that opening a cell adds."""
        return self.k - self.k % 2

    def search(self) -> Search:
        """Run the plans for the budget, twice the budget, and so on, until every cell is opened."""
        tree = self.tree = Tree(self.space, self.k, known=self.known)
        budget, exhausted = self.budget, False
        while not exhausted:
            tree.clear()
            yield from self.run(tree, budget)
            exhausted = tree.shallowest is None
            budget *= 2

    @abstractmethod
    def run(self, tree: Tree, budget: int) -> Search:
        """Run the algorithm once and add its leaves to the tree.

        Args:
            tree: A tree without candidates.
            budget: The number of evaluations that the run may take.
        """


class SequOOL(Budgeted):
    """Sequential optimistic optimisation, which opens the floor(h_max / h) best cells at each depth h up to h_max."""

    def run(self, tree: Tree, budget: int) -> Search:
        """Open cells at each depth in turn, from the root down.

        Args:
            tree: A tree without candidates.
            budget: The number of evaluations that the run may take.
        """
        n = max(budget // self.new, 1)
        h_max = int(n / log_bar(n))
        yield [tree.root.point]
        tree.add([tree.root])
        yield from self.open(tree, depth=0, cells=1)
        for h in range(1, h_max + 1):
            yield from self.open(tree, h, h_max // h)

    def open(self, tree: Tree, depth: int, cells: int) -> Search:
        """Open the best cells of a depth, and score their children in one batch.

        Args:
            tree: The tree.
            depth: The depth.
            cells: The largest number of cells to open.
        """
        children: list[Cell] = []
        while cells and tree.best(depth) is not None:
            children += tree.split(tree.pop(depth))
            cells -= 1
        yield [child.point for child in children]
        tree.add(children)


class StroquOOL(Budgeted):
    """SequOOL for noisy scores: it evaluates the children of the best cells more often, and the leaders once more.

    StroquOOL is experimental (the module's docstring says why). A cell's value is the mean score of T points in the
    cell; the first point is the centre. The paper evaluates the centre T times instead, but here a configuration is
    proposed only once. Noise averages out as in the paper. The variation of f within the cell adds a bias, which
    shrinks with the cell.

    h_max is the largest value with which a run does not exceed the budget. The paper uses a lower bound on it,
    floor(n / (2 (log-bar(n) + 1)^2)), which is 0 for budgets below 68.
    """

    def run(self, tree: Tree, budget: int) -> Search:
        """Open cells at each depth in turn, then evaluate the leaders again.

        Args:
            tree: A tree without candidates.
            budget: The number of evaluations that the run may take.
        """
        h_max = next(h for h in itertools.count(1) if self.cost(h + 1) > budget)
        yield [tree.root.point]
        if not tree.candidate(tree.root):
            return
        T: dict[Cell, int] = {}
        leaves: list[list[Cell]] = [[] for _ in range(h_max + 2)]
        # Open the root, and evaluate h_max points in each child.
        leaves[1] = yield from self._evaluated(tree.split(tree.root), h_max, T)
        # For h = 1 to h_max, for p = floor(log2(h_max / h)) down to 0:
        for h in range(1, h_max + 1):
            for p in range((h_max // h).bit_length() - 1, -1, -1):
                # Rank the cells of depth h that have T >= 2^p by their values. Open the first floor(h_max / (h 2^p)) of
                # them, and evaluate 2^p points in each child.
                ranked = sorted((c for c in leaves[h] if T[c] >= 2**p and tree.candidate(c)), key=lambda c: -c.score)
                opened = ranked[: h_max // (h * 2**p)]
                leaves[h] = [cell for cell in leaves[h] if cell not in opened]
                children = [child for cell in opened for child in tree.split(cell)]
                leaves[h + 1] += yield from self._evaluated(children, 2**p, T)
        # Cross-validation: for each p, evaluate the best cell with T >= 2^p another h_max times.
        for p in range(h_max.bit_length()):
            best = max((cell for cell in T if T[cell] >= 2**p), key=lambda cell: cell.score)
            yield points(best, T[best], T[best] + h_max)
        tree.add(cell for row in leaves for cell in row)

    def _evaluated(self, cells: list[Cell], times: int, T: dict[Cell, int]) -> Generator[list[Point], Any, list[Cell]]:
        """Evaluate `times` points in each cell, set the cell's value to the mean score, and return the cells."""
        yield [point for cell in cells for point in points(cell, 0, times)]
        for cell in cells:
            cell.score = mean(known for point in points(cell, 0, times) if (known := self.known(point)) is not None)
            T[cell] = times
        return cells

    def cost(self, h_max: int) -> int:
        """Return the largest number of evaluations in a run: the root, children of opened cells, cross-validation."""
        opened = sum(h_max // (h << p) << p for h in range(1, h_max + 1) for p in range((h_max // h).bit_length()))
        return 1 + self.k * (h_max + opened) + h_max.bit_length() * h_max


def points(cell: Cell, start: int, stop: int) -> list[Point]:
    """Return points of a sequence that begins at a cell's centre and fills the cell evenly.

    In units of the cell's sides, point j is u_j = 1/2 + j alpha (mod 1), where alpha_i = phi^-i and
    phi^(d + 1) = phi + 1 (Roberts 2018).

    Args:
        cell: The cell.
        start: The number j of the first point.
        stop: The number j of the last point, plus 1.

    Returns:
        The points, each (d,).
    """
    d = len(cell.point)
    # This fixed-point iteration more than halves its error in each step, so 60 steps reach the last bit.
    phi = 2.0
    for _ in range(60):
        phi = (1 + phi) ** (1 / (d + 1))
    sides = list(zip(cell.lower, cell.upper, strict=True))
    return [
        tuple(low + (0.5 + j * phi**-i) % 1 * (high - low) for i, (low, high) in enumerate(sides, start=1))
        if j
        else cell.point
        for j in range(start, stop)
    ]


def log_bar(n: int) -> float:
    """Return sum_{t=1}^n 1/t."""
    return sum(1 / t for t in range(1, n + 1))
