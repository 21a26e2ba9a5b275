"""Pair the scores of two models that partune has scored itself, item by item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from partune.errors import UserError
from partune.trial.goals import LOSS, text_loss
from partune.trial.names import ItemSet, ResultName
from partune.verdict.models.answers import Kind, Question
from partune.verdict.models.pairing import Measure, Paired

Array = np.ndarray[Any, Any]
Items = Mapping[str, Array]  # per-item results by their names on record


def question(
    name: str, kind: Kind, a: Sequence[Items], b: Sequence[Items], items: ItemSet, metrics: Mapping[str, str]
) -> Question:
    """Return the question whether A is better than B on average over some tasks, with equal weights.

    Args:
        name: The name of the answer.
        kind: What the name stands for.
        a: The per-item results of each run of A.
        b: The per-item results of each run of B.
        items: The set of items to compare on.
        metrics: The metric of each task.

    Raises:
        UserError: The runs were not scored on the same items.
    """
    pairs = [
        (part, share / len(metrics)) for task in metrics for part, share in _parts(task, a, b, items, metrics[task])
    ]
    return Question(name, kind, [part for part, _ in pairs], [share for _, share in pairs])


def _parts(
    task: str, a: Sequence[Items], b: Sequence[Items], items: ItemSet, metric: str
) -> Iterator[tuple[Paired, float]]:
    """Yield the paired items of each leaf (subtask) of a task, and the leaf's share in the task's score."""

    def array(run: Items, what: str) -> Array | None:
        return run.get(str(ResultName(items, task, what)))

    first = a[0]
    numbers = array(first, "doc_id")
    for run in (*a, *b):
        if (others := array(run, "doc_id")) is None or numbers is None or not np.array_equal(others, numbers):
            raise UserError(f"task {task}: the two models were not scored on the same items")
    assert numbers is not None
    weights, leaves = array(first, "weight"), array(first, "leaf")
    weights = np.full(len(numbers), 1 / len(numbers)) if weights is None else weights / weights.sum()
    leaves = np.zeros(len(numbers), int) if leaves is None else leaves
    values = [np.array([run[str(ResultName(items, task, metric))] for run in side], float) for side in (a, b)]
    # A row that is a long chat may be several examples with the same number. Each example is an item.
    documents = [f"{task}/{position:09}/{number}" for position, number in enumerate(numbers)]
    for leaf in np.unique(leaves):
        chosen = np.flatnonzero(leaves == leaf)
        yield (
            Paired(
                task,
                _measure(metric),
                tuple(documents[index] for index in chosen),
                weights[chosen],
                *(side[:, chosen] for side in values),
            ),
            float(weights[chosen].sum()),
        )


def _measure(metric: str) -> Measure:
    """Return the measure of a metric. partune keeps minus a loss, so that higher is better; users read the loss."""
    goal = LOSS if metric == LOSS.name else text_loss(metric)
    return Measure(metric, "none", True) if goal is None else Measure(goal.name, "none", False)


def metrics_on(items: ItemSet, run: Items, metric: str | Mapping[str, str]) -> dict[str, str]:
    """Return the metric of each task that a run was scored on.

    Args:
        items: The set of items.
        run: The per-item results.
        metric: The metric of all tasks, or that of each task.
    """
    found = {}
    for name in map(ResultName.of_array, run):
        if name is not None and name.items is items:
            wanted = metric if isinstance(metric, str) else metric.get(name.task)
            if name.what == wanted:
                found[name.task] = name.what
    return found
