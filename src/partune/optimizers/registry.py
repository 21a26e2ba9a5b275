"""The registry of algorithms by name, and the function that makes an optimiser from a name.

An algorithm's module is imported only when the algorithm is used.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from partune.errors import UserError, reason, shown, suggestion
from partune.optimizers.base import Optimizer, ReplayError
from partune.runtime.failures import OF_USERS
from partune.runtime.plugins import load_named
from partune.space import Space

__all__ = ["ALGORITHMS", "AUTO", "Algorithm", "Optimizer", "ReplayError", "optimizer", "resolved"]


@dataclass(frozen=True)
class Algorithm:
    """An entry of the registry.

    Attributes:
        path: The location of the class, as "package.module:Class".
        summary: A description in one line.
        source: The authors and years of the publications that describe the algorithm.
    """

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
        "a steady-state genetic algorithm: tournaments, crossover, mutation",
        "Talbi 2009; Deb and Agrawal 1995",
    ),
    "soo": Algorithm(
        "partune.optimizers.soo:SOO",
        "simultaneous optimistic optimisation: a partition tree, all depths at once",
        "Munos 2011",
    ),
    "sequool": Algorithm(
        "partune.optimizers.sequool:SequOOL",
        "sequential optimistic optimisation: visits each depth once, opens fewer cells at greater depths",
        "Bartlett, Gabillon and Valko 2019",
    ),
    "stroquool": Algorithm(
        "partune.optimizers.sequool:StroquOOL",
        "SequOOL for noisy scores (experimental): a cell's value is the mean over several points",
        "Bartlett, Gabillon and Valko 2019",
    ),
    "direct": Algorithm(
        "partune.optimizers.direct:DIRECT",
        "dividing rectangles: every cell that could be the best for some Lipschitz constant",
        "Jones, Perttunen and Stuckman 1993",
    ),
    "direct-l": Algorithm(
        "partune.optimizers.direct:DIRECTL",
        "DIRECT with a bias towards regions with good scores",
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
        "SOO that evaluates a point only if a Gaussian process considers an improvement there possible",
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
        "Optuna's NSGA-II, a genetic algorithm, with a single objective",
        "Deb, Pratap, Agarwal and Meyarivan 2002; Akiba et al. 2019",
    ),
}

# The key is a type of option that `_check` checks, and the value is its name in messages. Algorithms check options of
# other types themselves.
KINDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
}

# The largest integer that an option may be. Many options are numbers of points, and too many points would fill the
# memory.
LARGEST = 1_000_000

# The algorithm that "auto" means: the best one by measurement (docs/search-log.md). A study records this name instead
# of "auto", so that it resumes with the same algorithm even if a later release chooses another one.
AUTO = "bo"


def resolved(name: str) -> str:
    """Return the name that "auto" stands for, or any other name as it is."""
    return AUTO if name == "auto" else name


def optimizer(algorithm: str | type[Optimizer] | Optimizer, space: Space, seed: int = 0, **options: Any) -> Optimizer:
    """Return an optimiser.

    Args:
        algorithm: A registered name, "package.module:Class", a class, or an optimiser, which is returned as it is.
        space: The search space.
        seed: The seed of everything random in the algorithm.
        options: The algorithm's options.

    Raises:
        UserError: The algorithm is not known, an option is not valid, or the class raises an error.
    """
    return optimizer_with(algorithm, space, seed, options)


def optimizer_with(
    algorithm: str | type[Optimizer] | Optimizer, space: Space, seed: int, options: Mapping[str, Any]
) -> Optimizer:
    """Return an optimiser. Its options are a mapping, whose keys may be any text, unlike the keywords of `optimizer`.

    Args:
        algorithm: A registered name, "package.module:Class", a class, or an optimiser, which is returned as it is.
        space: The search space.
        seed: The seed of everything random in the algorithm.
        options: The algorithm's options by name.

    Raises:
        UserError: The algorithm is not known, an option is not valid, or the class raises an error.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"an algorithm's options are a mapping of names to values, got {shown(options)}")
    if isinstance(algorithm, Optimizer):
        if options or algorithm.space != space:
            raise UserError("an optimiser that is already made takes no options, and must have the study's space")
        return algorithm
    chosen = algorithm_of(algorithm) if isinstance(algorithm, str) else algorithm
    if not (isinstance(chosen, type) and issubclass(chosen, Optimizer)):
        raise UserError(f"an algorithm is a name or a subclass of partune.optimizers.Optimizer, got {shown(chosen)}")
    known, any_name = _options(chosen)
    for name, value in options.items():
        if name in ("space", "seed"):
            raise UserError(f"{chosen.__name__}: {name} is not an option of an algorithm; pass it to the study")
        if not isinstance(name, str) or not (name in known or any_name):
            raise UserError(f'{chosen.__name__} has no option "{name}"{suggestion(str(name), known)}')
        _check(chosen.__name__, name, value, known.get(name))
    try:
        return chosen(space, seed=seed, **options)
    except UserError:
        raise
    except OF_USERS as error:
        raise UserError(f"{chosen.__name__} cannot be made: {reason(error)}") from error


def _check(algorithm: str, option: str, value: object, annotation: Any) -> None:
    """Raise UserError if an option's value is not of its type, is not finite or is too large."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if KINDS.keys() >= set(kinds) and not any(_is_of_kind(value, kind) for kind in kinds):
        wanted = " or ".join(KINDS[kind] for kind in kinds)
        raise UserError(f"{algorithm}: {option} must be {wanted}, got {shown(value)}")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        raise UserError(f"{algorithm}: {option} must be at most {LARGEST} in size, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{algorithm}: {option} must be a finite number, got {value}")


def _options(kind: type[Optimizer]) -> tuple[dict[str, Any], bool]:
    """Return an algorithm's options with their types, and whether its constructor accepts options of any name."""
    parameters = _parameters(kind)
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    known = {parameter.name: parameter.annotation for parameter in parameters if parameter.kind in named}
    any_name = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    return {name: annotation for name, annotation in known.items() if name not in ("space", "seed")}, any_name


def _parameters(kind: type[Optimizer]) -> list[Parameter]:
    """Return the parameters of a constructor with their types.

    If one of the types is imported only for type checkers, it cannot be resolved, and all types are returned as text.
    """
    try:
        return list(inspect.signature(kind, eval_str=True).parameters.values())
    except NameError:
        return list(inspect.signature(kind).parameters.values())


def _is_of_kind(value: object, kind: type) -> bool:
    """Return whether a value is of one of KINDS; an integer is also a number, but true and false are not."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def algorithm_of(name: str) -> Any:
    """Return the class with a registered name, or at "package.module:Class"; raise UserError if there is none."""
    name = resolved(name)
    if ":" not in name and name not in ALGORITHMS:
        raise UserError(f'no algorithm "{name}"{suggestion(name, ["auto", *ALGORITHMS])}')
    return load_named(ALGORITHMS[name].path if name in ALGORITHMS else name, "algorithm")
