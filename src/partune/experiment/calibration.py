"""Find how many epochs are enough, from configurations trained for 1, 2, ... epochs.

A search compares configurations, so fewer epochs are enough if they keep the order of the scores. The number that is
enough is the smallest one from which the scores correlate in rank with those of the full training. Each number of
epochs takes a separate training, with its own learning-rate schedule. The calibration is an ordinary study, whose space
has the number of epochs as an additional hyperparameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from partune.optimizers.base import Sampler
from partune.optimizers.sampling import LatinHypercube
from partune.space import Int, Space
from partune.trial import Config, Point, Status, Trial

EPOCHS = "epochs"  # the setting in the section `training`

Array = NDArray[np.float64]


class Ladder(Sampler):
    """Sampler that proposes each configuration of a Latin hypercube with every number of epochs, the largest first."""

    learns = False

    def __init__(self, space: Space, seed: int = 0, configurations: int = 6) -> None:
        """Draw the configurations.

        Args:
            space: The space, in which `epochs` is an integer from 1.
            seed: The seed of the hypercube.
            configurations: The number of configurations; a smaller space yields fewer.
        """
        super().__init__(space, seed)
        rest = Space({name: parameter for name, parameter in space.hyperparameters.items() if name != EPOCHS})
        design = LatinHypercube(rest, seed, size=configurations).ask(configurations)
        most = space.hyperparameters[EPOCHS]
        assert isinstance(most, Int)
        self._points = [
            space.encode({**proposal.config, EPOCHS: epochs})
            for epochs in range(most.high, 0, -1)
            for proposal in design
        ]

    def next_point(self) -> Point | None:
        """Return the next point, or None after the last one."""
        return next(iter(self._points[len(self.proposals) :]), None)


class Step(NamedTuple):
    """How well a number of epochs represents the full training.

    Attributes:
        epochs: The number of epochs.
        correlation: Spearman's rank correlation of the scores after this number of epochs with those after the full
            training; None if all scores on one side are equal.
        leader: The score after the full training of the configuration that is best after this number of epochs; None
            if that training failed.
    """

    epochs: int
    correlation: float | None
    leader: float | None


def scores(trials: Iterable[Trial]) -> tuple[list[Config], Array]:
    """Return the n configurations and their scores by number of epochs, (n, epochs); NaN for a failed training."""
    table: dict[tuple[tuple[str, object], ...], dict[int, float]] = {}
    for trial in trials:
        key = tuple((name, value) for name, value in trial.config.items() if name != EPOCHS)
        score = trial.score if trial.status is Status.DONE else math.nan
        table.setdefault(key, {})[int(trial.config[EPOCHS])] = score
    most = max(epochs for row in table.values() for epochs in row)
    rows = [[row.get(epochs, math.nan) for epochs in range(1, most + 1)] for row in table.values()]
    return [dict(key) for key in table], np.array(rows)  # type: ignore[arg-type]


def steps(table: Array) -> list[Step]:
    """Compare each number of epochs with the largest one, the full training.

    Args:
        table: The scores, (n, epochs); NaN for a failed training, which counts as the worst.
    """
    worst = np.where(np.isnan(table), -np.inf, table)
    full = table[:, -1]
    worths = []
    for k, column in enumerate(worst.T):
        leader = float(full[int(column.argmax())])
        worths.append(Step(k + 1, rank_correlation(column, worst[:, -1]), None if math.isnan(leader) else leader))
    return worths


def rank_correlation(a: Array, b: Array) -> float | None:
    """Return Spearman's rank correlation (1904); None if all numbers of one side are equal.

    Args:
        a: Numbers, (n,).
        b: Numbers, (n,).
    """
    constant = any(len(np.unique(side)) == 1 for side in (a, b))
    return None if constant else float(spearmanr(a, b).statistic)


def enough(steps: Sequence[Step], sufficient: float) -> int:
    """Return the smallest number of epochs from which every correlation is sufficient.

    Args:
        steps: The comparison of each number of epochs, in order; the last is the full training.
        sufficient: The smallest correlation that is sufficient.
    """
    chosen = steps[-1].epochs
    for step in reversed(steps[:-1]):
        if step.correlation is None or step.correlation < sufficient:
            break
        chosen = step.epochs
    return chosen
