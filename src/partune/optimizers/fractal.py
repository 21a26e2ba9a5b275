"""The fractal decomposition algorithm.

A. Nakib, S. Ouchraa, N. Shvai, L. Souquet, E.-G. Talbi, Deterministic Metaheuristic Based on Fractal Decomposition for
Large-Scale Optimization, Applied Soft Computing 61, 2017; T. Firmin, E.-G. Talbi, A Fractal-Based Decomposition
Framework for Continuous Optimization, 2022 (other shapes, and a correction to the distance from the best point).

This module was checked line by line against two programs by authors of these papers, not against the papers' text.
With zellij (Firmin and Talbi 2022) we compared the children and the three points of a region, the quality, the tree
search and the local search. With FDS (Llanza, Shvai and Nakib 2025) we compared the children, the three points and the
inflation of a region. FDS agrees with zellij for up to three axes; for four or more, FDS inflates by 2.185.

    c, r        centre and radius of a region, in the unit cube
    x*, f*      best point so far, and its score
    q           quality of a region: max over its points s of (f(s) - f*) / |s - x*|
    omega       step of the intensive local search
    e_i         unit vector of axis i
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

from partune.errors import UserError, suggestion
from partune.optimizers.base import Search, Sequential
from partune.optimizers.partition import Tree
from partune.space import Space
from partune.trial import Point


@dataclass(eq=False)
class Region:
    """A hypersphere of radius r, or a hypercube of half side r, around a centre.

    Attributes:
        c: The centre, (d,).
        r: The radius or the half side.
        level: The number of decompositions that led to the region.
        q: The quality of the region.
    """

    c: Point
    r: float
    level: int = 0
    q: float = 0.0


class Hypersphere:
    """The decomposition into 2 d spheres of radius r / (1 + sqrt(2)), one at each end of the parent's axes.

    The spheres leave gaps, so each region is searched in a sphere that is larger by the factor `inflation`.
    """

    inflation = 1.75

    @staticmethod
    def children(parent: Region) -> list[Region]:
        """Return the parts of a region: those above its centre on each axis, then those below."""
        r = parent.r / (1 + math.sqrt(2))
        return [
            Region(moved(parent.c, axis, sign * (parent.r - r)), r, parent.level + 1)
            for sign in (1, -1)
            for axis in range(len(parent.c))
        ]


class Hypercube:
    """The decomposition into 2^d cubes of half the side, which leave no gaps and need no inflation."""

    inflation = 1.0
    most = 10  # the largest number of axes

    @staticmethod
    def children(parent: Region) -> list[Region]:
        """Return the parts of a region."""
        c, half = parent.c, parent.r / 2
        return [
            Region(tuple(u + s * half for u, s in zip(c, signs, strict=True)), half, parent.level + 1)
            for signs in itertools.product((-1, 1), repeat=len(c))
        ]


# The largest number of levels: deeper regions would be smaller than the spacing of floating-point numbers.
DEEPEST = 50


class FDA(Sequential):
    """The fractal decomposition algorithm, which decomposes the best region of the deepest level.

    Args:
        space: The search space.
        seed: Ignored, because the algorithm draws no random numbers.
        shape: The shape of regions: "hypersphere", as in the paper, or "hypercube".
        levels: The number of levels of the decomposition. Regions of the last level are searched locally.
        precision: The smallest step of the local search, in units of the cube's side.
    """

    seeded = False
    shapes: ClassVar[dict[str, type[Hypersphere] | type[Hypercube]]] = {
        "hypersphere": Hypersphere,
        "hypercube": Hypercube,
    }

    def __init__(
        self, space: Space, seed: int = 0, shape: str = "hypersphere", levels: int = 2, precision: float = 1e-3
    ) -> None:
        super().__init__(space, seed)
        if shape not in self.shapes:
            raise UserError(f'no shape "{shape}"{suggestion(shape, self.shapes)}')
        if shape == "hypercube" and space.dimension > Hypercube.most:
            raise UserError(
                f"shape=hypercube makes 2^d children of a region, so it takes at most {Hypercube.most} "
                f"hyperparameters, got {space.dimension}; use shape=hypersphere"
            )
        if levels < 1:
            raise UserError(f"levels >= 1 must hold, got levels={levels}")
        if levels > DEEPEST:
            raise UserError(
                f"levels <= {DEEPEST} must hold, got levels={levels}: each level at least halves the size of regions"
            )
        if not 0 < precision < 0.5:
            raise UserError(f"0 < precision < 0.5 must hold, got precision={precision}")
        self.shape = self.shapes[shape]
        self.levels = levels
        self.precision = precision
        self.regions = [Region((0.5,) * space.dimension, 0.5)]  # in order of creation

    def search(self) -> Search:
        """Decompose the most promising region, explore its parts or search them locally, and repeat."""
        frontier = self.regions[:1]
        while frontier:
            region = max(frontier, key=lambda region: (region.level, region.q))
            frontier.remove(region)
            children = self.shape.children(region)
            self.regions += children
            if region.level + 1 < self.levels:
                yield from self._explore(children)
                frontier += children
            else:
                for child in children:
                    yield from self._intensive_local_search(child)
        yield from self._rest()

    def _explore(self, regions: list[Region]) -> Search:
        """Compute the quality of regions from three points each (the paper's promising hypersphere search).

        Unlike in the paper, the children of a region are one batch, and their q is relative to the best point after
        that batch. A region whose three points all failed is decomposed after all others of its level.
        """
        points = [self._three(region) for region in regions]
        scores = iter((yield [point for three in points for point in three]))
        x, f = self._best()
        for region, three in zip(regions, points, strict=True):
            three_scores = [next(scores) for _ in three]
            # x* itself has the best possible quality, q = 0. The formula would compute 0 / 0.
            region.q = max(
                -math.inf if score == -math.inf else 0.0 if score >= f else (score - f) / max(math.dist(s, x), 1e-20)
                for s, score in zip(three, three_scores, strict=True)
            )

    def _three(self, region: Region) -> list[Point]:
        """Return three points: c, and c with inflation * r / sqrt(d) added to, or taken from, all its coordinates."""
        step = self.shape.inflation * region.r / math.sqrt(len(region.c))
        return [region.c, *(tuple(clipped(u + sign * step) for u in region.c) for sign in (1, -1))]

    def _intensive_local_search(self, region: Region) -> Search:
        """Move s, on each axis in turn, to the best of s, s + omega e_i and s - omega e_i.

        If no axis improves, omega is halved. The search begins at the region's centre.
        """
        # The paper stops at omega = 1e-20, which would spend any budget of fine-tunings in one small region.
        s, omega = region.c, self.shape.inflation * region.r
        (f,) = yield [s]
        while omega > self.precision:
            improved = False
            for axis in range(len(s)):
                steps = [moved(s, axis, omega), moved(s, axis, -omega)]
                scores = yield steps
                for score, point in zip(scores, steps, strict=True):
                    if score > f:
                        s, f, improved = point, score, True
            if not improved:
                omega /= 2

    def _rest(self) -> Search:
        """Propose the centres of a partition tree's cells, breadth first, once all regions are searched.

        The paper has no such step.
        """
        tree = Tree(self.space, known=self.known)
        yield [tree.root.point]
        tree.add([tree.root])
        while (row := tree.shallowest) is not None:
            children = tree.split(tree.pop(row))
            yield [child.point for child in children]
            tree.add(children)

    def _best(self) -> tuple[Point, float]:
        """Return x* and f*."""
        number = max(self.scores, key=lambda candidate: (self.scores[candidate], -candidate))
        return self.proposals[number].point, self.scores[number]


def moved(point: Point, axis: int, by: float) -> Point:
    """Return a point moved along one axis, within the cube.

    Args:
        point: The point, (d,).
        axis: The axis.
        by: The signed distance, in units of the cube's side.
    """
    return (*point[:axis], clipped(point[axis] + by), *point[axis + 1 :])


def clipped(u: float) -> float:
    """Return a coordinate clipped to [0, 1]."""
    return min(max(u, 0.0), 1.0)
