"""Bayesian Multi-Scale Optimistic Optimisation.

Z. Wang, B. Shakibi, L. Jin, N. de Freitas, Bayesian Multi-Scale Optimistic Optimization, AISTATS 2014.

    g           score of a node: f if it was evaluated, otherwise the lower bound mu - B_N sigma
    f+          best score so far
    N           number of nodes of the tree so far, including the root and the node in question
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
    """SOO that evaluates a new node only if the node's upper bound mu + B_N sigma reaches f+.

    A node that is not evaluated is inferred: it is scored by its lower bound. Nodes are scored one at a time, because
    f+ and the Gaussian process change between siblings. If a node's configuration already has a score, the node takes
    that score at no cost. A middle child whose parent was inferred is tested again with the current process. While
    results are pending, the process uses its own mean as the missing scores, and siblings are still tested one by one.

    Args:
        space: The search space.
        seed: Ignored, because the algorithm draws no random numbers.
        k: The number of parts of a split. If it is odd, the middle child has its parent's point and costs nothing.
        h_max: The depth bound: "sqrt" for the paper's floor(sqrt(t)), or "none".
        compare: How a leaf's score must compare with v_max for the leaf to be expanded: ">=" (the paper) or ">" (the
            study of 2025 that partune goes back to, docs/experiment.md).
        eta: If f is a draw from the Gaussian process, all bounds hold with probability at least 1 - eta; 0 < eta < 1.
        patience: The number of inferred nodes in a row after which the next node is always evaluated; None, as in the
            paper, sets no limit.
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
        self._inferred: list[Cell] = []  # the nodes inferred since the last evaluation
        self._fitted: tuple[int, Surrogate] | None = None  # the number of results, and the process fitted to them
        # The number of results, the number of proposals, and the process that counts pending proposals at its own mean.
        self._believed: tuple[int, int, Surrogate] | None = None

    def score(self, tree: Tree, cells: list[Cell]) -> Search:
        """Score new cells one by one: by f at the centre if the upper bound reaches f+, else by the lower bound.

        Args:
            tree: The tree of the cells.
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
            # Once the pending results arrive, the process could infer something else about the last node, and the
            # record would not show which inference was used. The search therefore asks for the node's result.
            last, self._inferred = self._inferred[-1:], []
            yield [cell.point for cell in last]
            tree.collect()

    def _bounds(self, point: Point) -> tuple[float, float]:
        """Return mu - B_N sigma and mu + B_N sigma.

        The bounds are infinite, which forces an evaluation, while there is no finite score and after `patience`
        inferred nodes in a row.
        """
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
        """Return the process fitted to the results so far, with its own mean as the score of pending proposals."""
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
        n: N, the number of nodes, at least 1.
        eta: In (0, 1).
    """
    return math.sqrt(2 * math.log(math.pi**2 * n**2 / (6 * eta)))
