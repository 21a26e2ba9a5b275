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
from collections.abc import Callable, Sequence

from partune.errors import UserError, suggestion
from partune.optimizers.base import Search
from partune.optimizers.partition import Cell, Partitioned, Tree, check_parts
from partune.space import Space

H_MAX: dict[str, Callable[[int], int]] = {"sqrt": math.isqrt, "none": lambda t: sys.maxsize}


class SOO(Partitioned):
    """Each sweep expands, depth by depth, the best leaf, if no shallower one of the sweep was better.

    k: parts of a split; with an odd number the middle child is its parent's point and costs nothing.
    h_max: "sqrt", the paper's bound floor(sqrt(t)), or "none".
    compare: ">=", the paper's, or ">", the original study's.
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
        tree = self.tree = Tree(self.space, self.k, known=self.known, worth=self._worthwhile)
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

    def score(self, tree: Tree, cells: list[Cell]) -> Search:
        """Scores new cells by f at their centres, together; the middle child is answered from the record.

        Where results are pending the sweep goes on over the leaves that have scores, and rests only where none has.
        """
        yield [cell.point for cell in cells]
        tree.add(cells)
        while tree.shallowest is None and self.waiting:
            yield []
            tree.collect()

    def _worthwhile(self, children: Sequence[Cell]) -> bool:
        """While results are pending, a split brings a new point, or else it is put off: it would leave a trace."""
        return not self.waiting or any(not self.proposed(child.point) for child in children)

    def _admits(self, score: float, v_max: float | None) -> bool:
        """v_max is None before the first expansion of a sweep, so that failures (-inf) can be expanded too."""
        return v_max is None or score > v_max or (score == v_max and self.compare == ">=")
