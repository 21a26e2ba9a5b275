"""A steady-state genetic algorithm.

The algorithm is from Talbi 2009, chapter 3; its steady state is from D. Whitley, The GENITOR Algorithm and Selection
Pressure, ICGA 1989. The two operators act on coordinates of the unit cube and respect the bounds, as in Deb's code of
NSGA-II:

    simulated binary crossover   K. Deb and R. B. Agrawal, Complex Systems 9, 1995 (option eta_c)
    polynomial mutation          K. Deb and M. Goyal, Computer Science and Informatics 26, 1996 (option eta_m)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from partune.errors import UserError, suggestion
from partune.optimizers.metaheuristic import Metaheuristic, Result
from partune.optimizers.sampling import check_design
from partune.space import Choice, Space
from partune.trial import Point

CROSSOVERS = ("sbx", "uniform")


class Genetic(Metaheuristic):
    """A genetic algorithm in which each new child replaces the worst member of the population if the child is better.

    The population therefore always consists of the `size` best results so far, whichever proposals are pending.
    Unlike in the sources, a child that was proposed before is dropped and other parents are drawn.

    Args:
        space: The search space.
        seed: The seed of the hypercube, the tournaments, crossovers and mutations.
        size: The number of points in the population and in the initial hypercube, which is the first population.
        tournament: The number of candidates for a parent; the best candidate becomes the parent.
        crossover: The crossover of numbers, "sbx" or "uniform"; choices always cross over uniformly.
        mutation: The probability that an axis mutates; None for 1 / (number of active axes).
        eta_c: The distribution index of the crossover; a larger one keeps children nearer to their parents.
        eta_m: The distribution index of the mutation.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        size: int = 10,
        tournament: int = 3,
        crossover: str = "sbx",
        mutation: float | None = None,
        eta_c: float = 5.0,
        eta_m: float = 10.0,
    ) -> None:
        if size < 2:
            raise UserError(f"size >= 2 must hold, got size={size}")
        check_design("size", size)
        super().__init__(space, seed, n_init=size)
        if tournament < 1:
            raise UserError(f"tournament >= 1 must hold, got tournament={tournament}")
        if crossover not in CROSSOVERS:
            raise UserError(f'no crossover "{crossover}"{suggestion(crossover, CROSSOVERS)}')
        if mutation is not None and not 0 <= mutation <= 1:
            raise UserError(f"0 <= mutation <= 1 must hold, got mutation={mutation}")
        if not (0 <= eta_c < math.inf and 0 <= eta_m < math.inf):
            raise UserError(f"eta_c, eta_m >= 0 must hold, got eta_c={eta_c}, eta_m={eta_m}")
        self.size = size
        self.tournament = tournament
        self.crossover = crossover
        self.mutation = mutation
        self.eta_c = eta_c
        self.eta_m = eta_m

    @property
    def population(self) -> list[Result]:
        """The best `size` results without failures, best first; of equal results, the earlier one comes first."""
        alive = [result for result in self.results if math.isfinite(result.score)]
        return sorted(alive, key=lambda result: (-result.score, result.number))[: self.size]

    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        """Yield children; each has two parents, and each parent is the winner of a tournament."""
        population = self.population
        while True:
            # The population is sorted best first, so the lowest rank wins a tournament.
            first, second = rng.integers(len(population), size=(2, self.tournament)).min(axis=1)
            yield self.mutated(self.crossed(population[first].point, population[second].point, rng), rng)

    def crossed(self, first: Point, second: Point, rng: np.random.Generator) -> Point:
        """Return a child of two parents before its mutation, (d,).

        If an axis is active in only one parent, the child takes that parent's coordinate. If it is active in neither,
        the coordinate is uniform.

        Args:
            first: One parent's point, (d,).
            second: The other parent's point, (d,).
            rng: The random generator.
        """
        has_first, has_second = set(self.active(first)), set(self.active(second))
        child = rng.random(len(first))
        for j, parameter in enumerate(self.space.hyperparameters.values()):
            a, b = (first[j], second[j]) if rng.random() < 0.5 else (second[j], first[j])
            if j in has_first and j in has_second:
                # As in Deb's code, an axis is recombined with probability 1/2 and otherwise inherited.
                recombines = self.crossover == "sbx" and not isinstance(parameter, Choice) and rng.random() < 0.5
                child[j] = sbx(a, b, self.eta_c, rng.random()) if recombines else a
            elif j in has_first or j in has_second:
                child[j] = first[j] if j in has_first else second[j]
        return tuple(child.tolist())

    def mutated(self, point: Point, rng: np.random.Generator) -> Point:
        """Return a point after each active axis has mutated with probability `mutation`.

        Args:
            point: The point, (d,).
            rng: The random generator.
        """
        axes = self.active(point)
        rate = 1 / max(len(axes), 1) if self.mutation is None else self.mutation
        parameters = list(self.space.hyperparameters.values())
        mutant = list(point)
        for j in axes:
            if rng.random() < rate:
                choice = isinstance(parameters[j], Choice)
                mutant[j] = rng.random() if choice else polynomial(point[j], self.eta_m, rng.random())
        return tuple(mutant)


def sbx(a: float, b: float, eta: float, u: float) -> float:
    """Return one of the two children of `a` and `b` by simulated binary crossover: the one near `a`, in [0, 1].

    For a <= b the child is c = ((a + b) - beta |b - a|) / 2; for a > b the formula is mirrored. beta has the density of
    Deb and Agrawal's equations, truncated at the bound on a's side and renormalised by alpha / 2.

    Args:
        a: The coordinate of the nearer parent, in [0, 1].
        b: The coordinate of the other parent, in [0, 1].
        eta: The distribution index.
        u: A uniform random number in [0, 1).
    """
    if a == b:
        return a
    if a > b:
        return 1 - sbx(1 - a, 1 - b, eta, u)
    alpha: float = 2 - (1 + 2 * a / (b - a)) ** -(eta + 1)
    beta: float = (u * alpha if u <= 1 / alpha else 1 / (2 - u * alpha)) ** (1 / (eta + 1))
    return min(max(0.5 * (a + b - beta * (b - a)), 0.0), 1.0)


def polynomial(x: float, eta: float, u: float) -> float:
    """Return the polynomial mutation of a coordinate, within its bounds.

    Args:
        x: The coordinate, in [0, 1].
        eta: The distribution index.
        u: A uniform random number in [0, 1).
    """
    if u > 0.5:
        return 1 - polynomial(1 - x, eta, 1 - u)
    delta: float = (2 * u + (1 - 2 * u) * (1 - x) ** (eta + 1)) ** (1 / (eta + 1)) - 1
    return min(max(x + delta, 0.0), 1.0)
