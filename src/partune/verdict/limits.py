"""Compute the smallest gain that verdict items can show, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy

from partune.runtime import rounding
from partune.verdict.paired import level
from partune.verdict.runs import Runs
from partune.verdict.variance import joined_small, spread

ALIKE = 0.8  # the assumed correlation of an item's scores before and after tuning
POWER = 0.8


@dataclass(frozen=True)
class Limits:
    """The smallest gain that a number of verdict items can show, computed before anything is trained.

    Attributes:
        items: The number of verdict items.
        gain: The smallest gain of one adapter over the base model that a test on these items shows with probability
            POWER; None if they cannot show any gain, or if that is not known.
        answers: Whether the score counts answers, which are right or wrong.
        constant: Whether the base model has the same score on all items, so that the gain is not known.
    """

    items: int
    gain: float | None
    answers: bool = True
    constant: bool = False

    @classmethod
    def of(cls, base: Runs) -> Self:
        """Return the limits for the items on which the base model was scored.

        The correlation of an item's scores before and after tuning is assumed to be ALIKE. If answers are right or
        wrong and the accuracy is one half, this means that one answer in ten changes. For such answers, a gain can be
        shown only with a minimum number of changed answers, no matter how little the base model's scores vary.
        """
        known = np.asarray(~np.isnan(base.values).any(axis=0))
        base, at = base.among(known), level(1)
        items = base.values.shape[1]
        answers = bool(np.isin(base.values, (0.0, 1.0)).all())
        if 0.5**items > at:
            return cls(items, None, answers)
        least = math.ceil(-math.log2(at)) / items if answers else 0.0
        variance = float(spread(base.values, base.weights, joined_small(base.strata)).sum())
        if not answers and not np.ptp(base.values, axis=1).any():
            return cls(items, None, answers, constant=True)
        error = math.sqrt(2 * (1 - ALIKE) * variance)
        return cls(items, max(least, float(scipy.stats.norm.isf(at) + scipy.stats.norm.ppf(POWER)) * error), answers)

    @property
    def sentence(self) -> str:
        """The smallest gain that the items can show, in one sentence."""
        if self.constant:
            return (
                f"The base model has the same score on all {self.items} held-out items. If no item's score changes "
                "with training either, nothing can be shown: check that the metric tells answers apart."
            )
        if self.gain is None:
            return (
                f"{self.items} held-out items cannot show a gain, however large: even a gain on all of them happens by "
                f"chance with p = {rounding.number(0.5**self.items, 2)}. Use more items (`--limit`, `--verdict-share`)."
            )
        if self.answers:
            assumed = "about one answer in ten changes"
        else:
            assumed = f"the scores of an item before and after tuning have a correlation of {ALIKE}"
        return (
            f"{self.items} held-out items show a gain of {rounding.number(self.gain, 2)} in four cases out of five if "
            f"{assumed}, and a smaller gain less often."
        )
