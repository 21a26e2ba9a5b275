"""What the metaheuristics share: a hypercube to begin with, then moves from what was told; and the neighbourhood.

E.-G. Talbi, Metaheuristics: From Design to Implementation, Wiley 2009; a neighbourhood for mixed axes: section 2.1.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from partune.optimizers.sampling import LatinHypercube, check_design
from partune.space import Choice, Hyperparameter, Int, Space
from partune.trial import Point

# Moves in a row whose configurations were all proposed before, after which the hypercubes go on.
MOVES = 200


class Told(NamedTuple):
    """A result: the proposal's number, its point (d,), its score (-inf for a failure)."""

    number: int
    point: Point
    score: float


class Metaheuristic(LatinHypercube):
    """A Latin hypercube of n_init points, then moves.

    While no finite score is told, and where no move leads to a new configuration, further hypercubes go on.
    """

    learns = True

    def __init__(self, space: Space, seed: int, n_init: int) -> None:
        check_design("n_init", n_init)
        super().__init__(space, seed, size=n_init)
        self.n_init = n_init

    @abstractmethod
    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        """Points that the next proposal may be, endlessly; some finite score is told."""

    def next_point(self) -> Point | None:
        if len(self.proposals) >= self.n_init and any(map(math.isfinite, self._scores.values())):
            rng = np.random.default_rng([self.seed, len(self.proposals), 2])
            for point in itertools.islice(self.moves(rng), MOVES):
                if not self.proposed(point):
                    return point
        return super().next_point()

    @property
    def told(self) -> list[Told]:
        """The results told so far, in order of number, in whichever order they came."""
        return [Told(n, self.proposals[n].point, self._scores[n]) for n in sorted(self._scores)]

    # ----- the neighbourhood

    def active(self, point: Point) -> list[int]:
        """The axes that exist in the configuration at a point and have more than one value."""
        config = self.space.decode(point)
        parameters = self.space.hyperparameters.items()
        return [j for j, (name, each) in enumerate(parameters) if name in config and _several(each)]

    def neighbour(self, point: Point, step: float, rng: np.random.Generator) -> Point:
        """A point near another: each number moves with probability 1/2, each choice with 1/m; one of them at least.

        m: active axes. What is inactive is drawn anew, uniformly: the value it has if the move makes it exist.

        step: standard deviation of a move of a number, in units of the cube's side.
        """
        axes = self.active(point)
        parameters = list(self.space.hyperparameters.values())
        chances = [1 / len(axes) if isinstance(parameters[j], Choice) else 0.5 for j in axes]
        moving = rng.random(len(axes)) < chances
        if axes and not moving.any():
            moving[rng.integers(len(axes))] = True
        near = rng.random(len(point))  # (d,)
        near[axes] = np.array(point)[axes]
        for j in itertools.compress(axes, moving):
            near[j] = moved(parameters[j], point[j], step, rng)
        return tuple(near.tolist())


def moved(parameter: Hyperparameter, u: float, step: float, rng: np.random.Generator) -> float:
    """A coordinate moved: a real by a Gaussian, an integer likewise but to another value, a choice to any other."""
    if isinstance(parameter, Choice):
        n = len(parameter.options)
        index = min(int(u * n), n - 1) + int(rng.integers(1, n))
        return parameter.encode(parameter.options[index % n])
    delta = step * float(rng.standard_normal())
    near = reflected(u + delta)
    if isinstance(parameter, Int) and parameter.decode(near) == (k := parameter.decode(u)):
        beside = k + 1 if delta > 0 else k - 1
        return parameter.encode(beside if parameter.contains(beside) else 2 * k - beside)
    return near


def reflected(u: float) -> float:
    """A coordinate brought back to [0, 1] by reflection at its ends, so that a move and its reverse are as likely."""
    return 1 - abs(u % 2 - 1)


def _several(parameter: Hyperparameter) -> bool:
    return parameter.values is None or len(parameter.values) > 1
