"""The optimisers, by name. Importing this package loads no algorithm, and none of the libraries they stand on."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from partune.errors import UserError, suggestion
from partune.named import named
from partune.optimizers.base import Optimizer, ReplayError
from partune.space import Space

__all__ = ["ALGORITHMS", "AUTO", "Algorithm", "Optimizer", "ReplayError", "optimizer", "resolved"]


@dataclass(frozen=True)
class Algorithm:
    """Where an optimiser lives, what it is in one line, and where it comes from."""

    path: str
    summary: str
    source: str


ALGORITHMS: dict[str, Algorithm] = {
    "random": Algorithm(
        "partune.optimizers.sampling:RandomSearch",
        "uniform random search",
        "Bergstra and Bengio 2012",
    ),
    "lhs": Algorithm(
        "partune.optimizers.sampling:LatinHypercube",
        "Latin hypercubes, one after another",
        "McKay, Beckman and Conover 1979",
    ),
    "sobol": Algorithm(
        "partune.optimizers.sampling:Sobol",
        "a scrambled Sobol sequence",
        "Owen 1998; Joe and Kuo 2008",
    ),
    "grid": Algorithm(
        "partune.optimizers.sampling:Grid",
        "factorial grids, each finer than the one before",
        "Bergstra and Bengio 2012",
    ),
    "annealing": Algorithm(
        "partune.optimizers.annealing:Annealing",
        "simulated annealing: a walk that takes worse points less and less often",
        "Kirkpatrick, Gelatt and Vecchi 1983",
    ),
    "ils": Algorithm(
        "partune.optimizers.local_search:IteratedLocalSearch",
        "iterated local search: climb, leap, climb again, keep the better optimum",
        "Lourenço, Martin and Stützle 2003",
    ),
    "genetic": Algorithm(
        "partune.optimizers.genetic:Genetic",
        "a genetic algorithm of steady state: tournaments, crossover, mutation",
        "Talbi 2009; Deb and Agrawal 1995",
    ),
    "soo": Algorithm(
        "partune.optimizers.soo:SOO",
        "simultaneous optimistic optimisation: a partition tree, all depths at once",
        "Munos 2011",
    ),
    "sequool": Algorithm(
        "partune.optimizers.sequool:SequOOL",
        "sequential optimistic optimisation: each depth once, fewer cells the deeper",
        "Bartlett, Gabillon and Valko 2019",
    ),
    "stroquool": Algorithm(
        "partune.optimizers.sequool:StroquOOL",
        "SequOOL for noisy scores: a cell counts by the mean of several points",
        "Bartlett, Gabillon and Valko 2019",
    ),
    "direct": Algorithm(
        "partune.optimizers.direct:DIRECT",
        "dividing rectangles: every cell that could be the best for some Lipschitz constant",
        "Jones, Perttunen and Stuckman 1993",
    ),
    "direct-l": Algorithm(
        "partune.optimizers.direct:DIRECTL",
        "DIRECT with a bias to where the scores are good",
        "Gablonsky and Kelley 2001",
    ),
    "fda": Algorithm(
        "partune.optimizers.fractal:FDA",
        "fractal decomposition: hyperspheres within hyperspheres, then a local search",
        "Nakib, Ouchraa, Shvai, Souquet and Talbi 2017",
    ),
    "bo": Algorithm(
        "partune.optimizers.bayes:GPBO",
        "Bayesian optimisation: a Gaussian process, logEI, a Latin hypercube to start",
        "Jones, Schonlau and Welch 1998; Ament et al. 2023",
    ),
    "bamsoo": Algorithm(
        "partune.optimizers.bamsoo:BaMSOO",
        "SOO that evaluates only where a Gaussian process admits an improvement",
        "Wang, Shakibi, Jin and de Freitas 2014",
    ),
    "optuna-tpe": Algorithm(
        "partune.optimizers.optuna:TPE",
        "Optuna's tree-structured Parzen estimator",
        "Bergstra, Bardenet, Bengio and Kegl 2011; Akiba et al. 2019",
    ),
    "optuna-gp": Algorithm(
        "partune.optimizers.optuna:OptunaGP",
        "Optuna's Gaussian process with logEI",
        "Ament et al. 2023; Akiba et al. 2019",
    ),
    "optuna-cmaes": Algorithm(
        "partune.optimizers.optuna:CMAES",
        "CMA-ES, as Optuna drives it",
        "Hansen 2016; Akiba et al. 2019",
    ),
    "optuna-nsga2": Algorithm(
        "partune.optimizers.optuna:NSGA2",
        "Optuna's NSGA-II with its single objective: a genetic algorithm",
        "Deb, Pratap, Agarwal and Meyarivan 2002; Akiba et al. 2019",
    ),
}

# The types of options that are checked here, in words; others are left to the algorithm.
KINDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
}

# What "auto" stands for: the best that measurement found (docs/search-log.md). A study records the name behind it.
AUTO = "bo"


def resolved(name: str) -> str:
    """The name behind "auto", or the name itself."""
    return AUTO if name == "auto" else name


def optimizer(algorithm: str | type[Optimizer] | Optimizer, space: Space, seed: int = 0, **options: Any) -> Optimizer:
    """An optimiser by name, "package.module:Class", class or instance. Raises UserError for what is not known."""
    if isinstance(algorithm, Optimizer):
        if options or algorithm.space != space:
            raise UserError("a ready-made optimiser takes no options, and must have the study's space")
        return algorithm
    chosen = algorithm_of(algorithm) if isinstance(algorithm, str) else algorithm
    if not (isinstance(chosen, type) and issubclass(chosen, Optimizer)):
        raise UserError(f"an algorithm is a name or a subclass of partune.optimizers.Optimizer, got {chosen!r}")
    known = {name: each for name, each in _annotations(chosen).items() if name not in ("space", "seed")}
    for name, value in options.items():
        if name not in known:
            raise UserError(f'{chosen.__name__} has no option "{name}"{suggestion(name, known)}')
        kinds = get_args(known[name]) if get_origin(known[name]) in (Union, UnionType) else (known[name],)
        if KINDS.keys() >= set(kinds) and not any(_is(value, kind) for kind in kinds):
            wanted = " or ".join(KINDS[kind] for kind in kinds)
            raise UserError(f"{chosen.__name__}: {name} must be {wanted}, got {value!r}")
    return chosen(space, seed=seed, **options)


def _annotations(kind: type[Optimizer]) -> dict[str, Any]:
    """The parameters of a constructor with their types; with text where a type is there for type checkers alone."""
    try:
        signature = inspect.signature(kind, eval_str=True)
    except NameError:
        signature = inspect.signature(kind)
    return {name: each.annotation for name, each in signature.parameters.items()}


def _is(value: object, kind: type) -> bool:
    """Whether a value is of one of KINDS: an integer is a number too, true and false are neither."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def algorithm_of(name: str) -> Any:
    """The class of a name of the registry, or what is at "package.module:Class"; raises UserError."""
    name = resolved(name)
    if ":" not in name and name not in ALGORITHMS:
        raise UserError(f'no algorithm "{name}"{suggestion(name, ["auto", *ALGORITHMS])}')
    return named(ALGORITHMS[name].path if name in ALGORITHMS else name, "algorithm")
