"""Define the metrics of tasks of lm-evaluation-harness ("the harness") as one value for each item.

partune compares models item by item, so a metric needs a value for each item. The score is the mean of these values.
Higher is better for all values:

    a metric whose score is a mean          the task's own value of the item
    perplexity                              the log-likelihood of the item (nats)
    word_perplexity, byte_perplexity        the log-likelihood per word or byte (nats), weighted by words or bytes
    bits_per_byte                           the same per byte, in bits
    any other (bleu, chrf, a task's own)    the task's aggregation of the item alone

So minus the score of a perplexity is its logarithm, and reports call it a loss (`partune.trial.goals`). Two further
metrics, only for multiple choice, respond to any change of the model:

    loss     the log-likelihood of the right choice per token (nats), which is minus the usual loss; mean over items
    margin   tanh(m / 2), where m is the log-likelihood of the right choice minus that of the best wrong one (nats).
             If p and q are the two likelihoods, this is (p - q) / (p + q), in (-1, 1). It is positive only if `acc`
             counts the item as right, and 0 if a wrong choice is as likely. Its bounds keep single items from
             outweighing the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from partune.finetune.scoring.base import Floats
from partune.trial.goals import text_loss

if TYPE_CHECKING:
    from lm_eval.api.task import Task as Leaf

ACCURACIES = ("acc_norm", "acc")
CONTINUOUS = ("loss", "margin")
# Metrics without a meaning for a single item: two scores of a classifier, and a placeholder.
WHOLE = ("f1_score", "matthews_corrcoef", "bypass_agg")


@dataclass(frozen=True)
class Metric:
    """A metric of a harness task.

    Attributes:
        name: The name of the metric. If the task filters answers in several ways, this includes the filter's name, as
            the harness writes it: "exact_match,strict-match".
        key: The name of the metric in what the task's `process_results` returns.
        filter: The name of the filter of the answers.
        aggregation: The harness's function from the values of all items to the score.
    """

    name: str
    key: str
    filter: str
    aggregation: Callable[[Sequence[Any]], float]

    @property
    def is_mean(self) -> bool:
        """Whether the score is the mean of the task's own per-item values."""
        from lm_eval.api.metrics import mean

        return self.aggregation is mean

    @property
    def weighted(self) -> bool:
        """Whether an item's value is a mean over its words or bytes, and their number is the item's weight."""
        return name_of(self.aggregation) in ("weighted_perplexity", "bits_per_byte")

    def value(self, raw: Any) -> float:
        """Return an item's value; nan if it has none.

        Args:
            raw: The item's entry in what `process_results` returns.
        """
        try:
            if self.weighted:
                bits = math.log(2) if name_of(self.aggregation) == "bits_per_byte" else 1.0
                return float(raw[0] / (bits * raw[1]))
            if name_of(self.aggregation) in ("mean", "perplexity"):
                return float(raw)
            return float(self.aggregation([raw]))
        except (TypeError, ValueError, LookupError, ZeroDivisionError):
            return math.nan


def name_of(aggregation: Callable[..., Any]) -> str:
    """Return the name of an aggregation; empty for one without a name, such as a partial function."""
    return str(getattr(aggregation, "__name__", ""))


def metrics_of(leaf: Leaf, found: Mapping[str, Any]) -> dict[str, Metric]:
    """Return the metrics that a task defines and that have a value for a single item, by name.

    Args:
        leaf: The task.
        found: What `process_results` returns for an item. A function among the task's metrics may return several
            values, whose names the task's file does not list.
    """
    from lm_eval.api.metrics import mean

    aggregations = dict(leaf.aggregation())
    aggregations |= {name: mean for name in found if name not in aggregations}
    if found:
        aggregations = {name: aggregate for name, aggregate in aggregations.items() if name in found}
    better = leaf.higher_is_better()
    filters = [ensemble.name for ensemble in leaf._filters]
    chosen = {}
    for filtered in filters:
        for key, aggregate in aggregations.items():
            lower = better.get(key, True) is False and text_loss(key) is None
            name = f"{key},{filtered}" if len(filters) > 1 else key
            if not lower and name_of(aggregate) not in WHOLE:
                chosen[name] = Metric(name, key, filtered, aggregate)
    return chosen


def continuous(gold: Sequence[int], likelihoods: Floats, tokens: Sequence[int]) -> tuple[float, float]:
    """Return the metrics `loss` and `margin` of an item.

    Both are nan if no choice is right. The margin is also nan if all choices are right.

    Args:
        gold: The indices of the right choices.
        likelihoods: (choices,), the log-likelihoods of the choices.
        tokens: (choices,), the numbers of tokens of the choices.
    """
    wrong = [i for i in range(len(likelihoods)) if i not in gold]
    if not gold:
        return math.nan, math.nan
    best = max(gold, key=lambda i: float(likelihoods[i]))

    margin = math.tanh(float(likelihoods[best] - np.asarray(likelihoods)[wrong].max()) / 2) if wrong else math.nan
    return float(likelihoods[best]) / tokens[best], margin
