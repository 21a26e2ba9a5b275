"""Bayesian Multi-Scale Optimistic Optimisation.

Z. Wang, B. Shakibi, L. Jin, N. de Freitas, Bayesian Multi-Scale Optimistic Optimization, AISTATS 2014.

    g           score of a node: f where it was evaluated, else the lower bound
    f+          best score so far
    N           nodes of the tree so far, the one in question and the root counted
    B_N         sqrt(2 log(pi^2 N^2 / (6 eta)))
    mu, sigma   posterior mean and standard deviation of f at the node's centre
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from partune.errors import UserError
from partune.optimizers.base import Search
from partune.optimizers.partition import Cell, Tree
from partune.optimizers.soo import Sweeping
from partune.optimizers.surrogate import MOST, Surrogate, subset
from partune.runtime.threads import one_blas_thread
from partune.space import Space
from partune.trial import Point


class BaMSOO(Sweeping):
    """SOO whose new node is evaluated only if its upper bound mu + B_N sigma reaches f+.

    Nodes are scored one at a time, as f+ and the process change between siblings. A node whose configuration has a
    score takes it, at no cost; a middle child whose parent was only inferred is tested again, with the current process.
    While results are pending the process believes its own mean for them, and siblings are tested in the same order.

    Args:
        space: The search space.
        seed: Ignored by the algorithm, which draws nothing.
        k: The parts of a split; with an odd number the middle child is its parent's point and costs nothing.
        h_max: "sqrt", the paper's bound floor(sqrt(t)), or "none".
        compare: ">=", the paper's, or ">", the original study's.
        eta: In (0, 1); all the bounds hold with probability 1 - eta, if the process is right.
        patience: The inferred nodes in a row after which the next is evaluated in any case; None, the paper's: never.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        k: int = 3,
        h_max: str = "none",
        compare: str = ">=",
        eta: float = 0.5,
        patience: int | None = 100,
    ) -> None:
        super().__init__(space, seed, k=k, h_max=h_max, compare=compare)
        if not 0 < eta < 1:
            raise UserError(f"0 < eta < 1 must hold, got eta={eta}")
        if patience is not None and patience < 1:
            raise UserError(f"patience >= 1 must hold, got patience={patience}")
        self.eta = eta
        self.patience = patience
        self._nodes = 0
        self._inferred: list[Cell] = []  # in a row, since the last node that was evaluated
        self._fitted: tuple[int, Surrogate] | None = None  # the number of results, and the process fitted to them
        self._believed: tuple[int, int, Surrogate] | None = None  # the numbers of results and of proposals too

    def score(self, tree: Tree, cells: list[Cell]) -> Search:
        """Score new cells one by one: by f at the centre if the upper bound reaches f+, else by the lower bound.

        Args:
            tree: The tree they are of.
            cells: The root, or the parts of one split.
        """
        for cell in cells:
            self._nodes += 1
            if not self.proposed(cell.point):
                lower, upper = self._bounds(cell.point)
                if upper >= self.best_score:
                    self._inferred = []
                    yield [cell.point]
                else:
                    cell.score = lower
                    self._inferred.append(cell)
            tree.add([cell])
        while tree.shallowest is None and self.waiting:
            # A node inferred by the current process could be inferred otherwise once the pending results are in, and
            # nothing in the record would say which: the search asks for its result.
            last, self._inferred = self._inferred[-1:], []
            yield [cell.point for cell in last]
            tree.collect()

    def _bounds(self, point: Point) -> tuple[float, float]:
        """Return mu -+ B_N sigma; without bounds while there is no finite score, and when patience ends."""
        if self.best_score == -math.inf or len(self._inferred) == self.patience:
            return -math.inf, math.inf
        note = self.infer(point, lambda: self._posterior(point))
        width = b(self._nodes, self.eta) * note["std"]
        return note["mean"] - width, note["mean"] + width

    @one_blas_thread()
    def _posterior(self, point: Point) -> Mapping[str, float]:
        mean, std = self._process().posterior([self.canonical(point)])
        return {"mean": float(mean[0]), "std": float(std[0])}

    def _process(self) -> Surrogate:
        """Return the process fitted to the results so far, believing its own mean for what is pending."""
        results, asked = len(self.scores), len(self.proposals)
        if self._fitted is None or self._fitted[0] != results:
            self._fitted = results, Surrogate(self.space, *subset(*self.history, self.errors))
        if results == asked:
            return self._fitted[1]
        if self._believed is None or self._believed[:2] != (results, asked):
            pending = [self.space.encode(proposal.config) for proposal in self.pending[-MOST:]]
            self._believed = results, asked, self._fitted[1].believing(pending)
        return self._believed[2]


def b(n: int, eta: float) -> float:
    """Return B_N = sqrt(2 log(pi^2 N^2 / (6 eta))).

    Args:
        n: N, the number of nodes, from 1 on.
        eta: In (0, 1).
    """
    return math.sqrt(2 * math.log(math.pi**2 * n**2 / (6 * eta)))
