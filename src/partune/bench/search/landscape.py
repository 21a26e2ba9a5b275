"""The embedded demo's landscape: a few thousand measured LoRA configurations, and surfaces through their scores.

The file (compressed .npz; `benchmarks/search_landscape.py` makes it):

    names    (d,)       hyperparameters of the space `lora`, in its order
    points   (n, d)     configurations, encoded in the unit cube
    seeds    (n,)       each trial's seed; configurations that were trained again with other seeds have several rows
    search   (n, f)     scores on the search items at each fidelity, the last the whole training; nan: diverged
    shares   (f,)       the fidelities, as shares of a trial's steps; rungs score a fixed part of the search items
    stderr   (n,)       of the last search score, from its items
    verdict  (n,)       score on the verdict items, which no optimiser sees
    chance   ()         what a diverged trial counts as
    noise    ()         standard deviation of a search score over training seeds
    axes     (2, d, d)  points @ axes is where the surface of the search and of the verdict score has its spline
    smoothing (2,)      of these splines

Optimisers propose points, not rows, and no peer takes a list of candidates; the nearest row makes plateaus of the
noise's height. So each score has a surface: a smoothing thin-plate spline over weighted axes, of which the learning
rate's is that of log(learning rate x alpha). It ties nowhere, it has no plateaus (which trees would model best) and is
no stationary Gaussian process (which some contenders are). It goes through scores whose lower tail is on a log scale,
as else the cliff where training fails would decide weights and smoothing; values are read on the scores' own scale.
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
LOOK = 2**15  # Sobol points of the unit cube that the best and the middling value are taken from
SMOOTHINGS = np.geomspace(1e-3, 10, 17).tolist()

Array = NDArray[np.float64]


def spline(points: Array, values: Array, axes: Array, smoothing: float) -> Callable[[Array], Array]:
    """A smoothing thin-plate spline over points @ axes; points: (n, d) in the unit cube, values: (n,), axes: (d, d)."""
    found = RBFInterpolator(points @ axes, values, smoothing=smoothing, kernel="thin_plate_spline")
    return lambda others: np.asarray(found(others @ axes), dtype=np.float64)


class Surface:
    """A spline through scores whose lower tail is tamed, (n,), read on their own scale and within their range."""

    def __init__(self, points: Array, scores: Array, axes: Array, smoothing: float) -> None:
        self._scores, self._tamed = np.sort(scores), np.sort(tamed(scores))
        self._spline = spline(points, tamed(scores), axes, smoothing)

    def __call__(self, points: Array) -> Array:
        """The surface at points, (m, d); (m,)."""
        return np.interp(self._spline(points), self._tamed, self._scores)


def error(points: Array, values: Array, axes: Array, smoothing: float, folds: int = 5) -> float:
    """The mean squared error of a spline at rows left out; row i is in fold i mod `folds`."""
    fold = np.arange(len(points)) % folds
    squares = []
    for k in range(folds):
        through = spline(points[fold != k], values[fold != k], axes, smoothing)
        squares.append((through(points[fold == k]) - values[fold == k]) ** 2)
    return float(np.concatenate(squares).mean())


def fitted(space: Space, points: Array, scores: Array, axes: Array) -> tuple[Array, float]:
    """The axes, weighted by a Gaussian process's inverse length scales, and the smoothing of the smallest error.

    points: (n, d) in the unit cube; scores: (n,), tamed for both; axes: (d, d), to be weighted. Half a minute at
    n = 2000. (Weights by cross-validation on a sample end in whichever valley they start above.)
    """
    placed = [tuple(row) for row in (points @ axes).tolist()]
    weighted = axes / Surrogate(space, placed, scores.tolist()).lengths
    values = tamed(scores)
    return weighted, min(SMOOTHINGS, key=lambda each: error(points, values, weighted, each))


@dataclass(frozen=True)
class Landscape:
    """Surfaces of the search and the verdict score. best, middling: of the verdict's; noise: of a search score."""

    searched: Surface
    judged: Surface
    noise: float
    best: float
    middling: float

    @classmethod
    def load(cls, path: Path) -> Landscape:
        with np.load(path) as file:
            points, chance = file["points"], float(file["chance"])
            scores = np.nan_to_num(np.stack([file["search"][:, -1], file["verdict"]]), nan=chance)  # (2, n)
            search, verdict = (
                Surface(points, values, axes, float(smoothing))
                for values, axes, smoothing in zip(scores, file["axes"], file["smoothing"], strict=True)
            )
            noise = float(file["noise"])
        look = verdict(qmc.Sobol(points.shape[1], rng=np.random.default_rng(0)).random(LOOK))
        best = max(float(look.max()), float(verdict(points).max()))
        return cls(search, verdict, noise, best, float(np.median(look)))

    @classmethod
    def shipped(cls) -> Landscape:
        """The one that comes with partune; raises UserError where there is none."""
        if not FILE.is_file():
            raise UserError(f"the demo's landscape is not measured: benchmarks/search_landscape.py makes {FILE.name}")
        return _loaded(FILE)

    def search(self, point: Sequence[float]) -> float:
        return float(self.searched(np.array([point]))[0])

    def verdict(self, point: Sequence[float]) -> float:
        return float(self.judged(np.array([point]))[0])


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Landscape:
    return Landscape.load(path)
