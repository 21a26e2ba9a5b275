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
    weights  (2, d)     of the axes, for search and verdict scores
    smoothing (2,)      of their surfaces

Optimisers propose points, not rows, and no peer takes a list of candidates; the nearest row makes plateaus of the
noise's height. So each score has a surface: a smoothing thin-plate spline over the weighted cube, with weights and
smoothing by cross-validation when the file is made. It ties nowhere, it has no plateaus (which trees would model best)
and is no stationary Gaussian process (which some contenders are). Beyond the range of the scores it is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from scipy.optimize import minimize
from scipy.stats import qmc

from partune.demo import DIRECTORY
from partune.errors import UserError

FILE = DIRECTORY / "landscape.npz"
LOOK = 2**15  # Sobol points of the unit cube that the best and the middling value are taken from

Array = NDArray[np.float64]


class Surface:
    """A smoothing thin-plate spline; points: (n, d) in the unit cube, values: (n,), weights: (d,) of the axes."""

    def __init__(self, points: Array, values: Array, weights: Array, smoothing: float) -> None:
        self.weights = weights
        self.low, self.high = float(values.min()), float(values.max())
        self._spline = RBFInterpolator(points * weights, values, smoothing=smoothing, kernel="thin_plate_spline")

    def __call__(self, points: Array) -> Array:
        """The surface at points, (m, d); (m,)."""
        found: Array = np.clip(self._spline(points * self.weights), self.low, self.high)
        return found


def error(points: Array, values: Array, weights: Array, smoothing: float, folds: int = 5) -> float:
    """The mean squared error at rows left out, fold by fold."""
    fold = np.arange(len(points)) % folds
    squares = []
    for k in range(folds):
        surface = Surface(points[fold != k], values[fold != k], weights, smoothing)
        squares.append((surface(points[fold == k]) - values[fold == k]) ** 2)
    return float(np.concatenate(squares).mean())


def fitted(points: Array, values: Array) -> tuple[Array, float]:
    """The weights and the smoothing of the smallest error that Nelder and Mead's simplex finds from equal weights."""
    d = points.shape[1]

    def loss(logs: Any) -> float:
        weights, smoothing = np.exp(np.clip(logs[:d], -5, 5)), float(np.exp(np.clip(logs[d], -15, 10)))
        return error(points, values, weights, smoothing)

    logs = minimize(loss, np.append(np.zeros(d), np.log(0.1)), method="Nelder-Mead", options={"maxfev": 60 * d}).x
    return np.exp(np.clip(logs[:d], -5, 5)), float(np.exp(np.clip(logs[d], -15, 10)))


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
                Surface(points, values, weights, float(smoothing))
                for values, weights, smoothing in zip(scores, file["weights"], file["smoothing"], strict=True)
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
