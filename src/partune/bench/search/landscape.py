"""The demo's landscape: a few thousand measured LoRA configurations, and surfaces through their scores.

The file (compressed .npz; `benchmarks/search_landscape.py` makes it):

    names    (d,)       hyperparameters of the space `lora`, in its order
    points   (n, d)     configurations, encoded in the unit cube
    seeds    (n,)       each trial's seed; configurations that were trained again with other seeds have several rows
    search   (n, f)     scores on the search items at each fidelity, the last the whole training; nan: diverged
    shares   (f,)       the fidelities, as shares of a trial's steps; rungs score a fixed part of the search items
    stderr   (n,)       standard error of the last search score, from its items
    verdict  (n,)       score on the verdict items, which no optimiser sees
    chance   ()         score that a diverged trial counts as
    noise    ()         standard deviation of a search score over training seeds
    axes     (2, d, d)  points @ axes is where the surface of the search and of the verdict score has its spline
    smoothing (2,)      of these splines

Optimisers propose points, not rows, and no peer accepts a list of candidates; taking the nearest row would make
plateaus of the noise's height. So each score has a surface: a smoothing thin-plate spline over weighted axes, one of
which is log(learning rate x alpha) instead of the learning rate's. It has no ties and no plateaus (which trees would
model best), and it is not a stationary Gaussian process (which some contenders are). It is fitted to scores whose lower
tail is on a log scale, because otherwise the cliff where training fails would decide weights and smoothing; values are
read on the scores' own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from scipy.stats import qmc

from partune.demo import DIRECTORY
from partune.errors import UserError
from partune.optimizers.surrogate import Surrogate, tamed
from partune.space import Space

FILE = DIRECTORY / "landscape.npz"
LOOK = 2**15  # Sobol points of the unit cube, which the best and the middling value are found among
SMOOTHINGS = np.geomspace(1e-3, 10, 17).tolist()

Array = NDArray[np.float64]


def spline(points: Array, values: Array, axes: Array, smoothing: float) -> Callable[[Array], Array]:
    """Return a smoothing thin-plate spline over points @ axes, as a function of (m, d) to (m,).

    Args:
        points: Points in the unit cube, (n, d).
        values: The values there, (n,).
        axes: The axes, (d, d).
        smoothing: How far it may miss the values; 0 for interpolation.
    """
    through = RBFInterpolator(points @ axes, values, smoothing=smoothing, kernel="thin_plate_spline")
    return lambda others: np.asarray(through(others @ axes), dtype=np.float64)


class Surface:
    """A spline through scores whose lower tail is tamed, read on their own scale and within their range.

    Args:
        points: Points in the unit cube, (n, d).
        scores: The scores there, (n,).
        axes: The axes, (d, d).
        smoothing: How far the spline may miss the tamed scores.
    """

    def __init__(self, points: Array, scores: Array, axes: Array, smoothing: float) -> None:
        self._scores, self._tamed = np.sort(scores), np.sort(tamed(scores))
        self._spline = spline(points, tamed(scores), axes, smoothing)

    def __call__(self, points: Array) -> Array:
        """Return the surface at points, (m, d) to (m,)."""
        # Between the sorted scores and their tamed values, which is exact at every score and never leaves their range.
        return np.interp(self._spline(points), self._tamed, self._scores)


def error(points: Array, values: Array, axes: Array, smoothing: float, folds: int = 5) -> float:
    """Return the mean squared error of a spline at rows that were left out.

    Args:
        points: Points in the unit cube, (n, d).
        values: The values there, (n,).
        axes: The axes, (d, d).
        smoothing: How far the spline may miss the values.
        folds: How many folds there are; row i is in fold i mod `folds`.
    """
    fold = np.arange(len(points)) % folds
    squares = []
    for k in range(folds):
        through = spline(points[fold != k], values[fold != k], axes, smoothing)
        squares.append((through(points[fold == k]) - values[fold == k]) ** 2)
    return float(np.concatenate(squares).mean())


def fitted(space: Space, points: Array, scores: Array, axes: Array) -> tuple[Array, float]:
    """Return weighted axes and a smoothing for a spline; half a minute at n = 2000.

    Args:
        space: The space.
        points: Points in the unit cube, (n, d).
        scores: The scores there, (n,), which are tamed for both.
        axes: The axes, (d, d).

    Returns:
        The axes, weighted by a Gaussian process's inverse length scales, and the smoothing with the smallest error.
    """
    # Weights by cross-validation on a sample were tried: they end in whichever valley they start above.
    transformed = [tuple(row) for row in (points @ axes).tolist()]
    weighted = axes / Surrogate(space, transformed, scores.tolist()).lengths
    values = tamed(scores)
    return weighted, min(SMOOTHINGS, key=lambda smoothing: error(points, values, weighted, smoothing))


@dataclass(frozen=True)
class Landscape:
    """Surfaces of the search score and of the verdict score.

    Attributes:
        searched: The surface of the search score.
        judged: The surface of the verdict score.
        noise: The standard deviation of a search score over training seeds.
        best: The greatest value of the verdict's surface.
        middling: Its median over the cube.
    """

    searched: Surface
    judged: Surface
    noise: float
    best: float
    middling: float

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """Return the landscape of a file."""
        with np.load(path) as file:
            points, chance = file["points"], float(file["chance"])
            scores = np.nan_to_num(np.stack([file["search"][:, -1], file["verdict"]]), nan=chance)  # (2, n)
            search, verdict = (
                Surface(points, values, axes, float(smoothing))
                for values, axes, smoothing in zip(scores, file["axes"], file["smoothing"], strict=True)
            )
            noise = float(file["noise"])
        # The best is needed for regrets. A look at many points finds it nearly; the rows may lie higher still.
        look = verdict(qmc.Sobol(points.shape[1], rng=np.random.default_rng(0)).random(LOOK))
        best = max(float(look.max()), float(verdict(points).max()))
        return cls(search, verdict, noise, best, float(np.median(look)))

    @classmethod
    def shipped(cls) -> Landscape:
        """Return the landscape that comes with partune; raise UserError if it was not measured."""
        if not FILE.is_file():
            raise UserError(f"the demo's landscape is not measured: benchmarks/search_landscape.py makes {FILE.name}")
        return _loaded(FILE)

    def search(self, point: Sequence[float]) -> float:
        """Return the search score at a point, (d,), without noise."""
        return float(self.searched(np.array([point]))[0])

    def verdict(self, point: Sequence[float]) -> float:
        """Return the verdict score at a point, (d,), without noise."""
        return float(self.judged(np.array([point]))[0])


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Landscape:
    return Landscape.load(path)
