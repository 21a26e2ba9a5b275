"""The fractal decomposition algorithm.

A. Nakib, S. Ouchraa, N. Shvai, L. Souquet, E.-G. Talbi, Deterministic Metaheuristic Based on Fractal Decomposition for
Large-Scale Optimization, Applied Soft Computing 61, 2017; T. Firmin, E.-G. Talbi, A Fractal-Based Decomposition
Framework for Continuous Optimization, 2022 (other shapes, and the distance to the best in its corrected form).

Checked line by line against two programs by authors of these papers, not against the papers' text: zellij (Firmin and
Talbi 2022) for the children, the three points, the quality, the tree search and the local search; FDS (Llanza, Shvai
and Nakib 2025) for the children, the inflation and the three points, in which it agrees with zellij up to three axes
(from four on it inflates by 2.185).

    c, r        centre and radius of a region, in the unit cube
    x*, f*      best point so far, and its score
    q           quality of a region: max over its points s of (f(s) - f*) / |s - x*|
    omega       step of the intensive local search
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
        level: How often the cube was decomposed to get it.
        q: Its quality.
    """

    c: Point
    r: float
    level: int = 0
    q: float = 0.0


class Hypersphere:
    """The decomposition into 2 d spheres of radius r / (1 + sqrt(2)), at the ends of the parent's axes.

    They leave gaps, so each region is searched in a sphere that is larger by the factor `inflation`.
    """

    inflation = 1.75

    @staticmethod
    def children(of: Region) -> list[Region]:
        """Return the parts of a region: above its centre on every axis, then below."""
        r = of.r / (1 + math.sqrt(2))
        return [
            Region(moved(of.c, axis, sign * (of.r - r)), r, of.level + 1)
            for sign in (1, -1)
            for axis in range(len(of.c))
        ]


class Hypercube:
    """The decomposition into 2^d cubes of half the side, which leave no gaps and need no inflation."""

    inflation = 1.0
    most = 10  # axes

    @staticmethod
    def children(of: Region) -> list[Region]:
        """Return the parts of a region."""
        signs = itertools.product((-1, 1), repeat=len(of.c))
        return [
            Region(tuple(u + s * of.r / 2 for u, s in zip(of.c, sign, strict=True)), of.r / 2, of.level + 1)
            for sign in signs
        ]


DEEPEST = 50  # levels: the regions below are smaller than the distance of neighbouring floats


class FDA(Sequential):
    """Fractal decomposition: the best region of the deepest level is decomposed, those of the last searched locally.

    Args:
        space: The search space.
        seed: Ignored by the algorithm, which draws nothing.
        shape: "hypersphere", the paper's, or "hypercube".
        levels: The levels of the decomposition; the regions of the last are searched locally.
        precision: The least step of the local search, in sides of the unit cube.
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
                f"a hypercube has 2^d children: for at most {Hypercube.most} hyperparameters, got {space.dimension}; "
                "take shape=hypersphere"
            )
        if levels < 1:
            raise UserError(f"levels >= 1 must hold, got levels={levels}")
        if levels > DEEPEST:
            raise UserError(f"levels <= {DEEPEST} must hold, got levels={levels}: a region's radius halves with each")
        if not 0 < precision < 0.5:
            raise UserError(f"0 < precision < 0.5 must hold, got precision={precision}")
        self.shape = self.shapes[shape]
        self.levels = levels
        self.precision = precision
        self.regions = [Region((0.5,) * space.dimension, 0.5)]  # in the order in which they were made

    def search(self) -> Search:
        """Decompose the most promising region, explore its parts or search them locally, and repeat."""
        frontier = self.regions[:1]
        while frontier:
            region = max(frontier, key=lambda candidate: (candidate.level, candidate.q))
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
        """Judge regions by their three points (promising hypersphere search).

        Ours: the children of a region are one batch, and their q is relative to the best point after it. A region
        whose points all failed is decomposed last.
        """
        points = [self._three(region) for region in regions]
        scores = iter((yield [point for three in points for point in three]))
        x, f = self._best()
        for region, three in zip(regions, points, strict=True):
            three_scores = [next(scores) for _ in three]
            # x* itself has q = 0, the best possible; without the case it would be 0 / 0.
            region.q = max(
                -math.inf if score == -math.inf else 0.0 if score >= f else (score - f) / max(math.dist(s, x), 1e-20)
                for s, score in zip(three, three_scores, strict=True)
            )

    def _three(self, region: Region) -> list[Point]:
        """Return c, and c +- inflation r / sqrt(d) on all axes at once."""
        step = self.shape.inflation * region.r / math.sqrt(len(region.c))
        return [region.c, *(tuple(clipped(u + sign * step) for u in region.c) for sign in (1, -1))]

    def _intensive_local_search(self, region: Region) -> Search:
        """Go along each axis to the best of s, s + omega e_i, s - omega e_i; halve omega if no axis improved."""
        # The paper stops at omega = 1e-20, which would spend any budget of fine-tunings in one place.
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
        """Propose, once every region was searched, the centres of a partition tree's cells, breadth first; ours."""
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
        by: How far, in sides of the cube; negative for down.
    """
    return (*point[:axis], clipped(point[axis] + by), *point[axis + 1 :])


def clipped(u: float) -> float:
    """Return a coordinate, or the nearest end of [0, 1] if it lies outside."""
    return min(max(u, 0.0), 1.0)
