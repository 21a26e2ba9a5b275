"""The scores of several runs of one configuration on the same items, as the tests of the verdict take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

Array = np.ndarray[Any, Any]
Items = Mapping[str, Array]


@dataclass(frozen=True)
class Runs:
    """The scores of the runs of one configuration on the same items.

    Attributes:
        values: (S, n), the score of each run on each item; nan if an item has no score.
        weights: (n,), the weight of each item in the score; they sum to 1.
        strata: (n,), the number of the stratum of each item. The items of a task, or of a leaf (subtask) of a group,
            are one stratum.
    """

    values: Array
    weights: Array
    strata: Array

    @classmethod
    def of(cls, runs: Sequence[Items], weights: Items | None = None, leaves: Items | None = None) -> Self:
        """Join the scores of some runs on several tasks, which count equally.

        Args:
            runs: For each run, a mapping from tasks to per-item scores, (n,).
            weights: For each task, the weights of its items in the task's score, (n,); by default all are equal.
            leaves: For each task, the number of the leaf that each item belongs to, (n,); by default there is one leaf.

        Raises:
            ValueError: The runs do not have the same items.
        """
        if not runs or not runs[0]:
            raise ValueError("a comparison needs at least one run and one task")
        tasks = sorted(runs[0])
        if any(run.keys() != runs[0].keys() or any(len(run[t]) != len(runs[0][t]) for t in tasks) for run in runs):
            raise ValueError("a comparison needs the same items in all runs")
        sizes = [len(runs[0][task]) for task in tasks]
        share = [
            np.asarray((weights or {}).get(task, np.full(size, 1.0)), float)
            for task, size in zip(tasks, sizes, strict=True)
        ]
        share = [weight / weight.sum() / len(tasks) for weight in share]
        kinds = [np.asarray((leaves or {}).get(t, np.zeros(size, int))) for t, size in zip(tasks, sizes, strict=True)]
        places = np.stack([np.repeat(np.arange(len(tasks)), sizes), np.concatenate(kinds)])  # (2, n)
        strata = np.unique(places, axis=1, return_inverse=True)[1].reshape(-1)
        values = np.stack([np.concatenate([np.asarray(run[task], float) for task in tasks]) for run in runs])
        return cls(values, np.concatenate(share), strata)

    def __len__(self) -> int:
        return len(self.values)

    def among(self, known: Array) -> Self:
        """Return the runs on the items for which `known`, (n,) of bool, is True."""
        weights = self.weights[known]
        return type(self)(self.values[:, known], weights / weights.sum(), self.strata[known])
