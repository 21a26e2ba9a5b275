"""How many epochs are enough: configurations trained for 1, 2, ... epochs, each with a schedule of its own.

A search compares configurations, so what fewer epochs have to keep is their order: enough is the smallest number after
which the scores correlate in rank with those of the full training. Its study is an ordinary one, over the space with
the number of epochs as one hyperparameter more.
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

EPOCHS = "epochs"  # the setting's name

Array = NDArray[np.float64]


class Ladder(Sampler):
    """A Latin hypercube of configurations, each with every number of epochs; the longest trainings first."""

    learns = False

    def __init__(self, space: Space, seed: int = 0, configurations: int = 6) -> None:
        """Draw the configurations.

        Args:
            space: The space, with `epochs` as an integer from 1.
            seed: The seed of the hypercube.
            configurations: How many there are; fewer where the space has not as many.
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
        """Return the next point; None after the last."""
        return next(iter(self._points[len(self.proposals) :]), None)


class Step(NamedTuple):
    """What a number of epochs is worth.

    Attributes:
        epochs: The number.
        correlation: Spearman's, of the scores after them with those of the full training; None where all scores are
            equal.
        leader: What their best configuration scores after the full training; None where it failed there.
    """

    epochs: int
    correlation: float | None
    leader: float | None


def scores(trials: Iterable[Trial]) -> tuple[list[Config], Array]:
    """Return the configurations, n, and their scores by epochs, (n, epochs); NaN where a training failed."""
    table: dict[tuple[tuple[str, object], ...], dict[int, float]] = {}
    for trial in trials:
        key = tuple((name, value) for name, value in trial.config.items() if name != EPOCHS)
        score = trial.score if trial.status is Status.DONE else math.nan
        table.setdefault(key, {})[int(trial.config[EPOCHS])] = score
    most = max(epochs for row in table.values() for epochs in row)
    rows = [[row.get(epochs, math.nan) for epochs in range(1, most + 1)] for row in table.values()]
    return [dict(key) for key in table], np.array(rows)  # type: ignore[arg-type]


def steps(table: Array) -> list[Step]:
    """Return every number of epochs against the last.

    Args:
        table: The scores, (n, epochs); NaN for a failure, which counts as the worst.
    """
    worst = np.where(np.isnan(table), -np.inf, table)
    full = table[:, -1]
    worths = []
    for k, column in enumerate(worst.T):
        leader = float(full[int(column.argmax())])
        worths.append(Step(k + 1, rank_correlation(column, worst[:, -1]), None if math.isnan(leader) else leader))
    return worths


def rank_correlation(a: Array, b: Array) -> float | None:
    """Return Spearman's rank correlation (1904); None where one side is constant.

    Args:
        a: Numbers, (n,).
        b: Numbers, (n,).
    """
    constant = any(len(np.unique(side)) == 1 for side in (a, b))
    return None if constant else float(spearmanr(a, b).statistic)


def enough(steps: Sequence[Step], sufficient: float) -> int:
    """Return the smallest number of epochs whose correlation is sufficient, as is that of all larger ones.

    Args:
        steps: Every number of epochs, in order.
        sufficient: The least correlation.
    """
    chosen = steps[-1].epochs
    for step in reversed(steps[:-1]):
        if step.correlation is None or step.correlation < sufficient:
            break
        chosen = step.epochs
    return chosen
