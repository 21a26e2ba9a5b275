"""Planes through the surrogate at the winner: what a Gaussian process expects there, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partune.optimizers.surrogate import imputed, untamed
from partune.runtime.threads import one_blas_thread
from partune.space import Choice, Hyperparameter, Space
from partune.trial import Trial
from partune.verdict.winner import MOST, process, ranked

Array = NDArray[np.float64]

FINE = 25  # values of an axis at most
FEWEST = 4  # scores below which a process says nothing


@dataclass(frozen=True)
class Plane:
    """A plane along which two hyperparameters vary and the others are the winner's.

    Attributes:
        across: The name of the hyperparameter on the x axis.
        up: The name of the one on the y axis.
        x: Places in [0, 1], (n,).
        y: Places in [0, 1], (m,).
        mean: The middle of what is expected there, (m, n), in units of the score; nothing below the worst score.
        std: Half of what lies within one standard deviation of the process, (m, n), without the noise of an
            observation.
    """

    across: str
    up: str
    x: list[float]
    y: list[float]
    mean: Array
    std: Array


class Model:
    """The process through the best scores of a study, and the point through which it is cut.

    Attributes:
        space: The study's space.
        trials: The trials that it is fitted to, the best first.
        winner: The trial through which planes go.
    """

    def __init__(self, space: Space, done: Sequence[Trial], winner: Trial) -> None:
        """Fit the process.

        Args:
            space: The study's space.
            done: The trials with a score, at least FEWEST; of many the best are taken.
            winner: The trial through which planes go.
        """
        self.space = space
        self.trials = ranked(done)[:MOST]
        self.winner = winner
        self._scores = imputed([trial.score for trial in self.trials])
        self._surrogate = process(space, self.trials)

    @property
    def names(self) -> list[str]:
        """The hyperparameters that can be varied: those that the winner has."""
        return [name for name in self.space.names if name in self.winner.config]

    def plane(self, across: str, up: str) -> Plane:
        """Return a plane through the winner.

        Args:
            across: The name of the hyperparameter on the x axis.
            up: The name of the one on the y axis.
        """
        x, y = (grid(self.space.hyperparameters[name]) for name in (across, up))
        points = np.tile(np.array(self.space.encode(self.winner.config)), (len(y), len(x), 1))  # (m, n, d)
        points[:, :, self.space.names.index(across)] = np.array(x)
        points[:, :, self.space.names.index(up)] = np.array(y)[:, None]
        flat: NDArray[Any] = self.space.snap(points.reshape(len(y) * len(x), -1))
        with one_blas_thread():
            mean, std = self._surrogate.posterior(flat)
        shape = len(y), len(x)
        values = (untamed(mean + k * std, self._scores) for k in (-1, 0, 1))
        # A small step beyond the worst score on the process's log scale would be a huge one back on the score's.
        low, middle, high = (np.maximum(curve, self._scores.min()).reshape(shape) for curve in values)
        return Plane(across, up, x, y, middle, (high - low) / 2)


def grid(parameter: Hyperparameter) -> list[float]:
    """Return places along an axis, in order: all values of a discrete one where they are few."""
    if isinstance(parameter, Choice):
        return [parameter.encode(option) for option in parameter.options]
    return sorted({parameter.encode(parameter.decode(u)) for u in np.linspace(0, 1, FINE).tolist()})
