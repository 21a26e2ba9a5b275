"""The base class of the metaheuristics, with the neighbourhood of a point.

E.-G. Talbi, Metaheuristics: From Design to Implementation, Wiley 2009. Section 2.1 is about neighbourhoods.
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

# If this many moves in a row lead to no new configuration, the next point comes from a hypercube.
MOVES = 200


class Result(NamedTuple):
    """The result of a proposal.

    Attributes:
        number: The proposal's number.
        point: The proposal's point, (d,).
        score: The proposal's score; -inf for a failure.
    """

    number: int
    point: Point
    score: float


class Metaheuristic(Stream):
    """An algorithm that proposes a Latin hypercube of n_init points, and then moves that depend on the results.

    If there is no finite score yet, or if no move leads to a new configuration, further hypercubes supply the points.

    Args:
        space: The search space.
        seed: The seed of the hypercubes and the moves.
        n_init: The number of points of the initial hypercube.
    """

    def __init__(self, space: Space, seed: int, n_init: int) -> None:
        check_design("n_init", n_init)
        super().__init__(space, seed, Hypercubes(space.dimension, seed, n_init))
        self.n_init = n_init

    @abstractmethod
    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        """Yield an endless series of candidates for the next proposal; called only if there is a finite score."""

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
        """The results told so far, in order of the proposals' numbers."""
        return [Result(n, self.proposals[n].point, self.scores[n]) for n in sorted(self.scores)]

    # ----- the neighbourhood

    def active(self, point: Point) -> list[int]:
        """Return the axes whose hyperparameters exist in the configuration at a point and have more than one value."""
        config = self.space.decode(point)
        return [
            axis
            for axis, (name, parameter) in enumerate(self.space.hyperparameters.items())
            if name in config and _has_several_values(parameter)
        ]

    def neighbour(self, point: Point, step: float, rng: np.random.Generator) -> Point:
        """Return a random neighbour of a point.

        Each active number moves with probability 1/2, and each active choice with probability 1/m, where m is the
        number of active axes. At least one active axis moves.

        Args:
            point: The point, (d,).
            step: The standard deviation of a number's move, in units of the cube's side.
            rng: The random generator.
        """
        axes = self.active(point)
        parameters = list(self.space.hyperparameters.values())
        chances = [1 / len(axes) if isinstance(parameters[j], Choice) else 0.5 for j in axes]
        moving = rng.random(len(axes)) < chances
        if axes and not moving.any():
            moving[rng.integers(len(axes))] = True
        # Inactive axes get uniform values: a move of the hyperparameter that they depend on may make them active.
        near = rng.random(len(point))  # (d,)
        near[axes] = np.array(point)[axes]
        for j in itertools.compress(axes, moving):
            near[j] = moved(parameters[j], point[j], step, rng)
        return tuple(near.tolist())


def moved(parameter: Hyperparameter, u: float, step: float, rng: np.random.Generator) -> float:
    """Return a coordinate after a random move.

    A number moves by a Gaussian step, but an integer always moves to another value. A choice moves to any other option.

    Args:
        parameter: The hyperparameter of the axis.
        u: The coordinate, in [0, 1].
        step: The standard deviation of a number's move, in units of the cube's side.
        rng: The random generator.
    """
    if isinstance(parameter, Choice):
        n = len(parameter.options)
        index = min(int(u * n), n - 1) + int(rng.integers(1, n))
        return parameter.encode(parameter.options[index % n])
    delta = step * float(rng.standard_normal())
    near = reflected(u + delta)
    if isinstance(parameter, Int) and parameter.decode(near) == (k := parameter.decode(u)):
        adjacent = k + 1 if delta > 0 else k - 1
        return parameter.encode(adjacent if parameter.contains(adjacent) else 2 * k - adjacent)
    return near


def reflected(u: float) -> float:
    """Return a coordinate reflected at 0 and 1 until it is in [0, 1]."""
    # Clipping would pile up points at the bounds. With reflection, a move and its reverse are equally likely.
    return 1 - abs(u % 2 - 1)


def _has_several_values(parameter: Hyperparameter) -> bool:
    return parameter.values is None or len(parameter.values) > 1
