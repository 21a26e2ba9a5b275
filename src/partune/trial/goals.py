"""Define what the scores of a study measure, and how users read them.

Inside partune, a higher score is always better. Users read a loss as a loss, for which lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partune.runtime import rounding


@dataclass(frozen=True)
class Goal:
    """What the scores of a study measure.

    Attributes:
        name: The word for the score in headings and sentences.
        sign: 1 if users read the score as it is; -1 if they read minus the score.
        unit: What a loss is per, and its unit; empty for a score.
        in_nats: Whether exp(loss) is a perplexity.
    """

    name: str
    sign: int = 1
    unit: str = ""
    in_nats: bool = False

    @property
    def lower_is_better(self) -> bool:
        """Whether lower numbers are better in what users read."""
        return self.sign < 0

    @property
    def label(self) -> str:
        """The name to put before numbers that are not plain scores; empty for plain scores."""
        return self.name if self.lower_is_better else ""

    @property
    def axis(self) -> str:
        """The name of the score itself, for figures, in which higher is always better."""
        return f"minus {self.name}" if self.lower_is_better else self.name

    def shown(self, score: float) -> float:
        """Return the number that users read for a score."""
        return self.sign * score

    def score(self, score: float | None, stderr: float | None) -> str:
        """Return a score as text, rounded to the precision of its standard error; a dash if there is no score.

        Args:
            score: The score, or None.
            stderr: Its standard error, or None if it has none.
        """
        return rounding.score(None if score is None else self.shown(score), stderr)

    def measured(self, score: float | None, stderr: float | None) -> str:
        """Return a score with its standard error; a dash if there is no score.

        Args:
            score: The score, or None.
            stderr: Its standard error, or None if it has none.
        """
        return rounding.measured(None if score is None else self.shown(score), stderr)


SCORE = Goal("score")
LOSS = Goal("loss", -1, "per trained token, in nats", True)
# The goals of the harness's tasks that score whole texts by perplexity, which is exp(loss).
TEXT_LOSSES = (
    Goal("loss per item", -1, "per item, in nats", True),
    Goal("loss per word", -1, "per word, in nats", True),
    Goal("loss per byte", -1, "per byte, in nats", True),
    Goal("bits per byte", -1, "per byte, in bits"),
)
GOALS = {goal.name: goal for goal in (SCORE, LOSS, *TEXT_LOSSES)}


def goal_of(loaded: Mapping[str, Any]) -> Goal:
    """Return the goal of a study.

    Args:
        loaded: What the study recorded about its model, data and scoring; empty for a study of a function.
    """
    return GOALS[loaded.get("scoring", {}).get("shown_as", SCORE.name)]


def perplexity(score: float | None) -> str:
    """Return the perplexity exp(loss) that belongs to minus a loss in nats per token; a dash if it is not finite."""
    try:
        return rounding.number(math.inf if score is None else math.exp(-score), 3)
    except OverflowError:
        return rounding.NONE
