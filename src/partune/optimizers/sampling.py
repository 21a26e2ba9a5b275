"""Sampling that learns nothing: uniform random search and Latin hypercubes.

Both are an endless stream of points, a function of the seed alone; the next proposal is the first point of the stream
whose configuration was not proposed before.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable

import numpy as np
from scipy.stats import qmc

from partune.errors import UserError
from partune.optimizers.base import Sampler
from partune.space import Space
from partune.trial import Point

# Stream points in a row without a new configuration, after which the few that are left are listed and drawn from.
PATIENCE = 1000


class Stream(Sampler):
    """The points of a stream, in order, each configuration once."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._passed = 0

    @abstractmethod
    def stream(self, i: int) -> Point:
        """Point i = 0, 1, ... of the stream, (d,)."""

    def next_point(self) -> Point | None:
        for _ in range(PATIENCE):
            point = self.stream(self._passed)
            if not self.proposed(point):
                return point
            self._passed += 1
        left = [point for point in self._grid() if point not in self._number]
        if not left:
            return None
        return left[int(np.random.default_rng([self.seed, len(self.proposals), 1]).integers(len(left)))]

    def _grid(self) -> Iterable[Point]:
        """Every configuration's point in a finite space; nothing in one with a real hyperparameter."""
        if self.space.size is None:
            return ()
        parameters = self.space.hyperparameters.values()
        axes = [[parameter.encode(value) for value in parameter.values or ()] for parameter in parameters]
        return dict.fromkeys(self._canonical(point) for point in itertools.product(*axes))


class RandomSearch(Stream):
    """Uniform in the unit cube; point i is drawn by `default_rng([seed, i])`. Bergstra and Bengio 2012."""

    def stream(self, i: int) -> Point:
        return tuple(np.random.default_rng([self.seed, i]).random(self.space.dimension).tolist())


class LatinHypercube(Stream):
    """Latin hypercube sampling; McKay, Beckman and Conover 1979.

    An optimiser does not know its budget, so the stream is cut into batches of `size` points: batch b is a fresh
    hypercube drawn by `default_rng([seed, b])`, every axis of which has one point in each of `size` equal strata.

    size: points in a hypercube; best the budget, or a divisor of it.
    """

    def __init__(self, space: Space, seed: int = 0, size: int = 50) -> None:
        super().__init__(space, seed)
        if size < 1:
            raise UserError(f"size >= 1 must hold, got size={size}")
        self.size = size
        self._hypercubes: list[list[Point]] = []

    def stream(self, i: int) -> Point:
        batch, row = divmod(i, self.size)
        while len(self._hypercubes) <= batch:
            rng = np.random.default_rng([self.seed, len(self._hypercubes)])
            sample = qmc.LatinHypercube(self.space.dimension, rng=rng).random(self.size)  # (size, d)
            self._hypercubes.append([tuple(point) for point in sample.tolist()])
        return self._hypercubes[batch][row]
