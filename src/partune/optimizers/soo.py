"""Simultaneous Optimistic Optimisation.

R. Munos, Optimistic Optimization of a Deterministic Function without the Knowledge of its Smoothness, NeurIPS 2011,
section 4.

    v_max      best score that was expanded in this sweep over the depths
    t          expansions so far, counted from 1
    h_max(t)   deepest leaf that a sweep may expand
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
    """The sweeps of SOO, whatever scores the new cells.

    Each sweep expands, depth by depth, the best leaf, unless a shallower leaf of the sweep was better. `SOO` says what
    the options are.
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
            # Where all leaves lie below h_max a sweep would expand nothing and t stand still, for ever: the sweep
            # reaches the shallowest leaf in any case. (K = 2 leads there, and exhausted cells do.)
            bottom = int(max(top, min(tree.depth, H_MAX[self.h_max](t))))
            for depth in range(bottom + 1):
                leaf = tree.best(depth)
                if leaf is not None and self._admits(leaf.score, v_max):
                    yield from self.score(tree, tree.split(tree.pop(depth)))
                    v_max = leaf.score
                    t += 1

    @abstractmethod
    def score(self, tree: Tree, cells: list[Cell]) -> Search:
        """Score new cells and add them to the tree; return once a leaf has a score.

        Args:
            tree: The tree they are of.
            cells: The root, or the parts of one split.
        """

    def _may_split(self, children: Sequence[Cell]) -> bool:
        # While results are pending, a split must bring a new point: without one its ask would bring no proposal, be in
        # no record, and leave a trace all the same.
        return not self.waiting or any(not self.proposed(child.point) for child in children)

    def _admits(self, score: float, v_max: float | None) -> bool:
        """Return whether a leaf may be expanded; v_max is None before the first expansion of a sweep."""
        # None rather than -inf, so that failures (-inf) can be expanded too under ">".
        return v_max is None or score > v_max or (score == v_max and self.compare == ">=")


class SOO(Sweeping):
    """Simultaneous optimistic optimisation: sweeps over a partition tree whose cells are scored at their centres.

    Args:
        space: The search space.
        seed: Ignored by the algorithm, which draws nothing.
        k: The parts of a split; with an odd number the middle child is its parent's point and costs nothing.
        h_max: "sqrt", the paper's bound floor(sqrt(t)), or "none".
        compare: ">=", the paper's, or ">", the original study's.
    """

    def score(self, tree: Tree, cells: list[Cell]) -> Search:
        """Score new cells by f at their centres, together; the middle child is answered from the record.

        Args:
            tree: The tree they are of.
            cells: The root, or the parts of one split.
        """
        yield [cell.point for cell in cells]
        tree.add(cells)
        # The sweep goes on over the leaves that have scores, and rests only where none has.
        while tree.shallowest is None and self.waiting:
            yield []
            tree.collect()
