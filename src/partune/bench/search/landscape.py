"""The demo's landscape: smooth surfaces fitted to the measured scores of a few thousand LoRA configurations.

The file is a compressed .npz, which `benchmarks/search_landscape.py` writes. It has a row for each of n trials:

    names    (d,)       hyperparameters of the space `lora`, in the order of the space
    points   (n, d)     configurations, encoded in the unit cube
    seeds    (n,)       seed of each trial; a configuration that was trained with several seeds has several rows
    search   (n, f)     score on the search items at each fidelity, the last one after the whole training; nan: diverged
    shares   (f,)       fidelities, as shares of a trial's steps; at all but the last, a part of the items is scored
    stderr   (n,)       standard error of the last search score, from its items
    verdict  (n,)       score on the verdict items, which no optimiser sees
    chance   ()         score that a diverged trial counts as
    noise    ()         standard deviation of a search score over training seeds
    axes     (2, d, d)  matrices for the search score and the verdict score; points @ axes are the inputs of the spline
    smoothing (2,)      smoothing of the spline of the search score and of the verdict score

An optimiser may propose any point of the space, and no other library can be limited to the measured rows. If a point
had the score of the nearest row, there would be plateaus that differ by noise. So each score has a surface, which is a
smoothing thin-plate spline over weighted axes. One axis is log(learning rate x alpha) instead of the learning rate. The
spline favours no contender: it has no ties and no plateaus, which trees would model best, and it is not a stationary
Gaussian process, which some contenders assume. It is fitted to scores whose lower tail is on a log scale, because
otherwise the cliff where training fails would determine the weights and the smoothing. Its values are converted back to
the scale of the scores.
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
LOOK = 2**15  # the number of Sobol points at which the best and the median value of a surface are searched
SMOOTHINGS = np.geomspace(1e-3, 10, 17).tolist()

Array = NDArray[np.float64]


def spline(points: Array, values: Array, axes: Array, smoothing: float) -> Callable[[Array], Array]:
    """Return a smoothing thin-plate spline over points @ axes: a function that takes points (m, d) and returns (m,).

    Args:
        points: Points in the unit cube, (n, d).
        values: The values at the points, (n,).
        axes: The axes, (d, d).
        smoothing: How far the spline may deviate from the values; at 0 it interpolates them.
    """
    interpolator = RBFInterpolator(points @ axes, values, smoothing=smoothing, kernel="thin_plate_spline")
    return lambda new_points: np.asarray(interpolator(new_points @ axes), dtype=np.float64)


class Surface:
    """A spline that is fitted to tamed scores, and returns values on the scale of the scores.

    The lower tail of tamed scores is on a log scale (see `tamed`).

    Args:
        points: Points in the unit cube, (n, d).
        scores: The scores at the points, (n,).
        axes: The axes, (d, d).
        smoothing: How far the spline may miss the tamed scores.
    """

    def __init__(self, points: Array, scores: Array, axes: Array, smoothing: float) -> None:
        self._scores, self._tamed = np.sort(scores), np.sort(tamed(scores))
        self._spline = spline(points, tamed(scores), axes, smoothing)

    def __call__(self, points: Array) -> Array:
        """Return the values of the surface, (m,), at points, (m, d)."""
        # The spline's values are converted back by interpolation between pairs of tamed and original scores. This is
        # exact at every score, and keeps the values within the range of the scores.
        return np.interp(self._spline(points), self._tamed, self._scores)


def error(points: Array, values: Array, axes: Array, smoothing: float, folds: int = 5) -> float:
    """Return the mean squared error of a spline by cross-validation.

    Args:
        points: Points in the unit cube, (n, d).
        values: The values at the points, (n,).
        axes: The axes, (d, d).
        smoothing: How far the spline may miss the values.
        folds: The number of folds; row i is in fold i mod `folds`.
    """
    fold = np.arange(len(points)) % folds
    squares = []
    for k in range(folds):
        fit = spline(points[fold != k], values[fold != k], axes, smoothing)
        squares.append((fit(points[fold == k]) - values[fold == k]) ** 2)
    return float(np.concatenate(squares).mean())


def fitted(space: Space, points: Array, scores: Array, axes: Array) -> tuple[Array, float]:
    """Fit the weights of the axes and the smoothing of a spline, which takes half a minute at n = 2000.

    Args:
        space: The space.
        points: Points in the unit cube, (n, d).
        scores: The scores at the points, (n,); they are tamed before both fits.
        axes: The axes, (d, d).

    Returns:
        The axes, weighted by the inverse length scales of a Gaussian process, and the smoothing with the smallest
        error.
    """
    # Choosing the weights by cross-validation on a sample was tried too, but only finds the local minimum at its start.
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
        best: The largest value found on the surface of the verdict score.
        median: The median of the surface of the verdict score over the cube.
    """

    searched: Surface
    judged: Surface
    noise: float
    best: float
    median: float

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """Return the landscape that a file describes."""
        with np.load(path) as file:
            points, chance = file["points"], float(file["chance"])
            scores = np.nan_to_num(np.stack([file["search"][:, -1], file["verdict"]]), nan=chance)  # (2, n)
            search, verdict = (
                Surface(points, values, axes, float(smoothing))
                for values, axes, smoothing in zip(scores, file["axes"], file["smoothing"], strict=True)
            )
            noise = float(file["noise"])
        # Regrets need the best value. Many Sobol points come close to it, but a measured row may be better still.
        sobol_values = verdict(qmc.Sobol(points.shape[1], rng=np.random.default_rng(0)).random(LOOK))
        best = max(float(sobol_values.max()), float(verdict(points).max()))
        return cls(search, verdict, noise, best, float(np.median(sobol_values)))

    @classmethod
    def shipped(cls) -> Landscape:
        """Return the landscape that comes with partune; raise UserError if its file is missing."""
        if not FILE.is_file():
            raise UserError(
                f"the demo's landscape is missing: run `python benchmarks/search_landscape.py`, which writes {FILE}"
            )
        return _loaded(FILE)

    def search(self, point: Sequence[float]) -> float:
        """Return the search score, without noise, at a point with d coordinates."""
        return float(self.searched(np.array([point]))[0])

    def verdict(self, point: Sequence[float]) -> float:
        """Return the verdict score, without noise, at a point with d coordinates."""
        return float(self.judged(np.array([point]))[0])


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Landscape:
    return Landscape.load(path)
