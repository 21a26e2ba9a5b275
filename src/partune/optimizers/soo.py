"""Simultaneous Optimistic Optimisation.

R. Munos, Optimistic Optimization of a Deterministic Function without the Knowledge of its Smoothness, NeurIPS 2011,
section 4.

    v_max      best score of a leaf that was expanded in this sweep over the depths
    t          number of expansions so far, counted from 1
    h_max(t)   depth of the deepest leaf that a sweep may expand
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence

from partune.errors import UserError, suggestion
from partune.optimizers.base import Search
from partune.optimizers.partition import Cell, Partitioned, Tree, check_parts
from partune.space import Space

H_MAX: dict[str, Callable[[int], int]] = {"sqrt": math.isqrt, "none": lambda t: sys.maxsize}


class Sweeping(Partitioned):
    """The base class of SOO and BaMSOO: it sweeps over the depths, and a subclass scores the new cells.

    At each depth in turn, a sweep expands the best leaf, unless the sweep has expanded a better one at a smaller depth.
    `SOO` describes the options.
    """

    seeded = False
    ahead = True

    def __init__(self, space: Space, seed: int = 0, k: int = 3, h_max: str = "none", compare: str = ">=") -> None:
        super().__init__(space, seed)
        check_parts(k)
        if h_max not in H_MAX:
            raise UserError(f'no depth bound "{h_max}"{suggestion(h_max, H_MAX)}')
        if compare not in (">=", ">"):
            raise UserError(f'compare is ">=" or ">", got {compare!r}')
        self.k = k
        self.h_max = h_max
        self.compare = compare

    def search(self) -> Search:
        """Run the sweeps over the depths until no leaf can be expanded."""
        tree = self.tree = Tree(self.space, self.k, known=self.known, may_split=self._may_split)
        yield from self.score(tree, [tree.root])
        t = 1
        while (top := tree.shallowest) is not None:
            v_max = None
            # A sweep always reaches the shallowest leaf. If all leaves were deeper than h_max, it would otherwise
            # expand nothing, t would stay the same, and the search would never end. (This could happen with k = 2, or
            # once all cells of depth h_max and less are exhausted.)
            bottom = int(max(top, min(tree.depth, H_MAX[self.h_max](t))))
            for depth in range(bottom + 1):
                leaf = tree.best(depth)
                if leaf is not None and self._admits(leaf.score, v_max):
                    yield from self.score(tree, tree.split(tree.pop(depth)))
                    v_max = leaf.score
                    t += 1

    @abstractmethod
    def score(self, tree: Tree, cells: list[Cell]) -> Search:
        """Score new cells and add them to the tree; return once some leaf of the tree has a score.

        Args:
            tree: The tree of the cells.
            cells: The root, or the parts of one split.
        """

    def _may_split(self, children: Sequence[Cell]) -> bool:
        # While results are pending, a split must bring a new point. Without one, the ask could end without a proposal.
        # The record would not show such an ask, although the ask would have changed the tree.
        return not self.waiting or any(not self.proposed(child.point) for child in children)

    def _admits(self, score: float, v_max: float | None) -> bool:
        """Return whether a leaf may be expanded; v_max is None before the first expansion of a sweep."""
        # v_max begins as None and not as -inf, so that failures (-inf) can be expanded with compare=">" too.
        return v_max is None or score > v_max or (score == v_max and self.compare == ">=")


class SOO(Sweeping):
    """Simultaneous optimistic optimisation: sweeps over a partition tree whose cells are scored at their centres.

    Args:
        space: The search space.
        seed: Ignored, because the algorithm draws no random numbers.
        k: The number of parts of a split. If it is odd, the middle child has its parent's point and costs nothing.
        h_max: The depth bound: "sqrt" for the paper's floor(sqrt(t)), or "none".
        compare: How a leaf's score must compare with v_max for the leaf to be expanded: ">=" (the paper) or ">" (the
            study of 2025 that partune goes back to, docs/experiment.md).
    """

    def score(self, tree: Tree, cells: list[Cell]) -> Search:
        """Score new cells by f at their centres, in one batch; the score of a middle child is already known.

        Args:
            tree: The tree of the cells.
            cells: The root, or the parts of one split.
        """
        yield [cell.point for cell in cells]
        tree.add(cells)
        # The sweep continues over the leaves that have scores, and waits only if no leaf has one.
        while tree.shallowest is None and self.waiting:
            yield []
            tree.collect()
