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
# The metrics of lm-evaluation-harness that score whole texts by perplexity. partune keeps minus its logarithm.
TEXT_LOSSES = {
    "perplexity": Goal("loss per item", -1, "per item, in nats", True),
    "word_perplexity": Goal("loss per word", -1, "per word, in nats", True),
    "byte_perplexity": Goal("loss per byte", -1, "per byte, in nats", True),
    "bits_per_byte": Goal("bits per byte", -1, "per byte, in bits"),
}
GOALS = {goal.name: goal for goal in (SCORE, LOSS, *TEXT_LOSSES.values())}


def goal_of(loaded: Mapping[str, Any]) -> Goal:
    """Return the goal of a study.

    Args:
        loaded: What the study recorded about its model, data and scoring; empty for a study of a function.
    """
    return GOALS[loaded.get("scoring", {}).get("shown_as", SCORE.name)]


def goal_on_test(loaded: Mapping[str, Any], task: str) -> Goal:
    """Return what the scores on a test task measure.

    Args:
        loaded: What the study recorded about its model, data and scoring.
        task: The name of the test task.
    """
    return GOALS[loaded.get("scoring", {}).get("tests_shown_as", {}).get(task, SCORE.name)]


def text_loss(metric: str) -> Goal | None:
    """Return the goal of a metric that scores whole texts by perplexity; None for another metric.

    Args:
        metric: The name of the metric, with or without the name of a filter after a comma.
    """
    return TEXT_LOSSES.get(metric.partition(",")[0])


def perplexity(score: float) -> float | None:
    """Return the perplexity exp(loss) of a score, which is minus a loss in nats; None if it is not finite."""
    try:
        value = math.exp(-score)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None
