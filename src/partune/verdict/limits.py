"""Say which gains the verdict items can show, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np

from partune.runtime import rounding
from partune.verdict.assumed import Yardstick
from partune.verdict.paired import level
from partune.verdict.power import Design, smallest
from partune.verdict.runs import Runs
from partune.verdict.variation import Variation, shape_of


@dataclass(frozen=True)
class Limits:
    """The smallest gains that a verdict shows with a probability of 80 % (see `power`).

    The gains are computed when they are first asked for, because that may take a second.

    Attributes:
        design: The items and runs of the verdict.
        variation: How scores vary; None if the base model has the same score on all items, which tells nothing.
        called: What a sentence calls the first baseline.
    """

    design: Design
    variation: Variation | None
    called: str = "the defaults"

    @classmethod
    def of(cls, base: Runs, seeds: int, yardstick: Yardstick, called: str = "the defaults") -> Self:
        """Return the limits for the items on which the base model was scored.

        Args:
            base: The run of the base model.
            seeds: The number of fresh runs.
            yardstick: What scores the study.
            called: What a sentence calls the first baseline.
        """
        base = base.among(np.asarray(~np.isnan(base.values).any(axis=0)))
        shape = shape_of(base.values)
        constant = shape != "answers" and not np.ptp(base.values, axis=1).any()
        variation = None if constant else yardstick.assumed(shape).at(base)
        return cls(Design(base.weights, seeds), variation, called)

    @property
    def items(self) -> int:
        """The number of verdict items."""
        return self.design.items

    @property
    def hopeless(self) -> bool:
        """Whether the items cannot show any gain, however large, because they are too few."""
        return 0.5**self.items > level(1)

    @cached_property
    def gain(self) -> float | None:
        """The smallest gain over the base model that the verdict shows; None if it shows none or that is unknown."""
        return self.gain_over(0)

    def gain_over(self, baselines: int) -> float | None:
        """Return the smallest gain that the verdict shows over the base model and the first few baselines, all alike.

        Args:
            baselines: The number of trained baselines.
        """
        if self.hopeless or self.variation is None:
            return None
        return _smallest(tuple(self.design.weights.tolist()), self.design.seeds, self.variation, baselines)

    @property
    def sentence(self) -> str:
        """The smallest gain that the items can show, in one sentence."""
        if self.hopeless:
            return (
                f"{self.items} held-out items cannot show a gain, however large: even a gain on all of them happens by "
                f"chance with p = {rounding.number(0.5**self.items, 2)}. Use more items (`--limit`, `--verdict-share`)."
            )
        if self.variation is None:
            return (
                f"The base model has the same score on all {self.items} held-out items. If no item's score changes "
                "with training either, nothing can be shown: check that the metric tells answers apart."
            )
        runs = f"{self.items:,} held-out items and {self.design.seeds} fresh runs"
        runs = runs if self.design.seeds else f"{self.items:,} held-out items, with one adapter of each side,"
        over_base, over_both = self.gain, self.gain_over(1)
        if over_base is None or over_both is None:
            return f"{runs} show even the largest possible gain in fewer than four studies out of five."
        return (
            f"{runs} show a gain of {rounding.number(over_base, 2)} over the base model in four studies out of five, "
            f"and of {rounding.number(over_both, 2)} over {self.called} too (if {self.assumption})."
        )

    @property
    def assumption(self) -> str:
        """What the prediction assumes, as a clause."""
        assert self.variation is not None
        return assumption(self.variation)


def assumption(variation: Variation) -> str:
    """Return what a variation means, as a clause of a sentence.

    Args:
        variation: How scores vary.
    """
    if variation.answers:
        trained, base = (rounding.percent(variation.differing(other)) for other in (True, False))
        return f"tuning changes {base} of the answers, and two adapters differ in {trained}"
    correlations = (rounding.number(value, 2) for value in (variation.base, variation.alike))
    return "an item's scores before and after tuning have a correlation of {}, and those of two adapters of {}".format(
        *correlations
    )


@lru_cache(maxsize=64)
def _smallest(weights: tuple[float, ...], seeds: int, variation: Variation, baselines: int) -> float | None:
    """Return the smallest gain; remembered, because a report is written again and again while its study runs."""
    found = smallest(Design(np.array(weights), seeds), variation, baselines)
    return found if found is None or math.isfinite(found) else None
