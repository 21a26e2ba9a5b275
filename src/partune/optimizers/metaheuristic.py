"""The base of the metaheuristics: a hypercube to begin with, then moves from the results; and the neighbourhood.

E.-G. Talbi, Metaheuristics: From Design to Implementation, Wiley 2009; a neighbourhood for mixed axes: section 2.1.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from partune.optimizers.sampling import Hypercubes, Stream, check_design
from partune.space import Choice, Hyperparameter, Int, Space
from partune.trial import Point

# Moves in a row whose configurations were all proposed before, after which a point of the hypercubes is taken.
MOVES = 200


class Result(NamedTuple):
    """A result that was told.

    Attributes:
        number: The proposal's number.
        point: The proposal's point, (d,).
        score: Its score; -inf for a failure.
    """

    number: int
    point: Point
    score: float


class Metaheuristic(Stream):
    """A Latin hypercube of n_init points, then moves.

    While no finite score is told, and if no move leads to a new configuration, the points of further hypercubes follow.

    Args:
        space: The search space.
        seed: The seed of the hypercubes and the moves.
        n_init: The points of the initial hypercube.
    """

    def __init__(self, space: Space, seed: int, n_init: int) -> None:
        check_design("n_init", n_init)
        super().__init__(space, seed, Hypercubes(space.dimension, seed, n_init))
        self.n_init = n_init

    @abstractmethod
    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        """Yield candidates for the next proposal, endlessly; called only once a finite score is told."""

    def next_point(self) -> Point | None:
        """Return the first move to a new configuration, or the next point of a hypercube."""
        if len(self.proposals) >= self.n_init and self.best_score > -math.inf:
            rng = np.random.default_rng([self.seed, len(self.proposals), 2])
            for point in itertools.islice(self.moves(rng), MOVES):
                if not self.proposed(point):
                    return point
        return super().next_point()

    @property
    def results(self) -> list[Result]:
        """The results told so far, in order of number, in whichever order they came."""
        return [Result(n, self.proposals[n].point, self.scores[n]) for n in sorted(self.scores)]

    # ----- the neighbourhood

    def active(self, point: Point) -> list[int]:
        """Return the axes that exist in the configuration at a point and have more than one value."""
        config = self.space.decode(point)
        parameters = self.space.hyperparameters.items()
        return [j for j, (name, parameter) in enumerate(parameters) if name in config and _several(parameter)]

    def neighbour(self, point: Point, step: float, rng: np.random.Generator) -> Point:
        """Return a random point near another.

        Each active number moves with probability 1/2 and each active choice with 1/m, m the number of active axes; at
        least one of them moves.

        Args:
            point: The other point, (d,).
            step: The standard deviation of a number's move, in units of the cube's side.
            rng: What is drawn from.
        """
        axes = self.active(point)
        parameters = list(self.space.hyperparameters.values())
        chances = [1 / len(axes) if isinstance(parameters[j], Choice) else 0.5 for j in axes]
        moving = rng.random(len(axes)) < chances
        if axes and not moving.any():
            moving[rng.integers(len(axes))] = True
        # Inactive axes are uniform: a move of their parent may switch them on, and then they need a value.
        near = rng.random(len(point))  # (d,)
        near[axes] = np.array(point)[axes]
        for j in itertools.compress(axes, moving):
            near[j] = moved(parameters[j], point[j], step, rng)
        return tuple(near.tolist())


def moved(parameter: Hyperparameter, u: float, step: float, rng: np.random.Generator) -> float:
    """Return a coordinate moved: a number by a Gaussian, but an integer always to another value, a choice to any other.

    Args:
        parameter: The axis.
        u: The coordinate, in [0, 1].
        step: The standard deviation of a number's move, in units of the cube's side.
        rng: What is drawn from.
    """
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
    """Return a coordinate brought back to [0, 1] by reflection at its ends."""
    # Clipping would pile up moves at the bounds; reflected, a move and its reverse are equally likely.
    return 1 - abs(u % 2 - 1)


def _several(parameter: Hyperparameter) -> bool:
    return parameter.values is None or len(parameter.values) > 1
