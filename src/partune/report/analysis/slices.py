"""Compute the mean and the uncertainty of the surrogate, a Gaussian process, in planes through the winner."""

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

FINE = 25  # the largest number of grid values per axis
FEWEST = 4  # the smallest number of scores for a Gaussian process


@dataclass(frozen=True)
class Plane:
    """A plane in which two hyperparameters vary and all others have the winner's values.

    Attributes:
        across: The name of the hyperparameter on the x axis.
        up: The name of the hyperparameter on the y axis.
        x: The grid on the x axis, in the unit cube's coordinates, (n,).
        y: The grid on the y axis, in the unit cube's coordinates, (m,).
        mean: The Gaussian process's mean at the grid points, converted to units of the score, (m, n). Values below the
            worst score are raised to it.
        std: Half the width of the interval of one standard deviation around the mean, converted to units of the score,
            (m, n). It does not include the noise of an observation.
    """

    across: str
    up: str
    x: list[float]
    y: list[float]
    mean: Array
    std: Array


class Model:
    """A Gaussian process fitted to the best scores of a study, which is shown in planes through the winner.

    Attributes:
        space: The study's space.
        trials: The trials that the Gaussian process is fitted to, the best first.
        winner: The trial that all planes go through.
    """

    def __init__(self, space: Space, done: Sequence[Trial], winner: Trial) -> None:
        """Fit the Gaussian process.

        Args:
            space: The study's space.
            done: The trials that have a score, at least FEWEST; if there are many, only the best are used.
            winner: The trial that all planes go through.
        """
        self.space = space
        self.trials = ranked(done)[:MOST]
        self.winner = winner
        self._scores = imputed([trial.score for trial in self.trials])
        self._surrogate = process(space, self.trials)

    @property
    def names(self) -> list[str]:
        """The hyperparameters that can vary in a plane: those that the winner has."""
        return [name for name in self.space.names if name in self.winner.config]

    def plane(self, across: str, up: str) -> Plane:
        """Return a plane through the winner.

        Args:
            across: The name of the hyperparameter on the x axis.
            up: The name of the hyperparameter on the y axis.
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
        # Below the worst score, small differences on the Gaussian process's log scale are huge differences in score.
        low, middle, high = (np.maximum(curve, self._scores.min()).reshape(shape) for curve in values)
        return Plane(across, up, x, y, middle, (high - low) / 2)


def grid(parameter: Hyperparameter) -> list[float]:
    """Return the grid of a hyperparameter's axis in [0, 1]: all values if they are few, otherwise evenly spaced."""
    if isinstance(parameter, Choice):
        return [parameter.encode(option) for option in parameter.options]
    return sorted({parameter.encode(parameter.decode(u)) for u in np.linspace(0, 1, FINE).tolist()})
