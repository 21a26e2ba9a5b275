"""Scores are paired as by the verdict of a study: by item, leaf by leaf, and losses the right way round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.trial.names import ItemSet
from partune.verdict.models.answers import answers
from partune.verdict.models.scored import metrics_on, question
from partune.verdict.paired import compare
from partune.verdict.winner import on_verdict_items

Items = dict[str, np.ndarray[Any, Any]]


def scored(seed: int, metric: str = "acc", tasks: tuple[str, ...] = ("t",), **further: Any) -> Items:
    """The results of a model on thirty items of each task; further: arrays that all tasks have."""
    rng = np.random.default_rng(seed)
    items: Items = {}
    for task in tasks:
        values = (rng.random(30) < 0.6).astype(float) if metric == "acc" else -rng.random(30)
        items |= {f"verdict/{task}/doc_id": np.arange(30), f"verdict/{task}/{metric}": values}
        items |= {f"verdict/{task}/{name}": array for name, array in further.items()}
    return items


@pytest.mark.parametrize("metric", ["acc", "loss"])
@pytest.mark.parametrize(
    "further",
    [
        {},
        {"leaf": np.repeat([0, 1, 2], 10), "weight": np.repeat([3.0, 1.0, 2.0], 10)},
        {"weight": np.arange(1.0, 31.0)},
    ],
    ids=["plain", "leaves", "weights"],
)
@pytest.mark.parametrize("tasks", [("t",), ("a", "b/c")])
def test_gain_and_error_are_those_of_the_studys_verdict(metric: str, further: Items, tasks: tuple[str, ...]) -> None:
    a, b = scored(1, metric, tasks, **further), scored(2, metric, tasks, **further)
    metrics = metrics_on(ItemSet.VERDICT, a, metric)
    assert metrics == dict.fromkeys(tasks, metric)
    (found,) = answers([question("all", "mean", [a], [b], ItemSet.VERDICT, metrics)])
    oracle = compare(on_verdict_items([a], metric), on_verdict_items([b], metric))
    assert found.gain == pytest.approx(oracle.gain)
    assert found.comparison.stderr == pytest.approx(oracle.stderr)
    assert found.items == 30 * len(tasks)
    sign = -1 if metric == "loss" else 1
    assert found.scores[0] - found.scores[1] == pytest.approx(sign * found.gain)
    assert found.measures[0].higher == (metric != "loss")


def test_losses_below_one_are_not_taken_for_scores_with_bounds() -> None:
    a, b = scored(1, "loss"), scored(2, "loss")
    (part,) = question("t", "task", [a], [b], ItemSet.VERDICT, {"t": "loss"}).parts
    assert not part.bounded
    (part,) = question("t", "task", [scored(1)], [scored(2)], ItemSet.VERDICT, {"t": "acc"}).parts
    assert part.bounded


def test_perplexities_are_compared_and_shown_as_losses() -> None:
    a, b = scored(1, "word_perplexity"), scored(2, "word_perplexity")
    (found,) = answers([question("t", "task", [a], [b], ItemSet.VERDICT, {"t": "word_perplexity"})])
    (measure,) = found.measures
    assert (measure.metric, measure.higher) == ("loss per word", False)
    assert found.scores == pytest.approx([-side["verdict/t/word_perplexity"].mean() for side in (a, b)])
    assert found.gain == pytest.approx(found.scores[1] - found.scores[0])
    (part,) = question("t", "task", [a], [b], ItemSet.VERDICT, {"t": "word_perplexity"}).parts
    assert not part.bounded


def test_several_runs_are_runs_of_one_model() -> None:
    a, b = [scored(seed) for seed in (1, 2, 3)], [scored(4)]
    (found,) = answers([question("t", "task", a, b, ItemSet.VERDICT, {"t": "acc"})])
    assert found.comparison.runs == (3, 1)


@pytest.mark.parametrize(
    "other",
    [
        scored(2) | {"verdict/t/doc_id": np.arange(1, 31)},
        scored(2) | {"verdict/t/doc_id": np.arange(29)},
        {name: values for name, values in scored(2).items() if "doc_id" not in name},
        {},
    ],
    ids=["other items", "fewer items", "no numbers", "nothing"],
)
def test_other_items_are_refused(other: Items) -> None:
    with pytest.raises(UserError, match=r"^task t: the two models were not scored on the same items$"):
        question("t", "task", [scored(1)], [other], ItemSet.VERDICT, {"t": "acc"})
    with pytest.raises(UserError, match="not scored on the same items"):
        question("t", "task", [other], [scored(1)], ItemSet.VERDICT, {"t": "acc"})


def test_each_task_may_have_its_own_metric() -> None:
    run = {
        f"verdict/{name}": np.zeros(2) for name in ("choices/acc", "choices/acc_norm", "free/exact_match", "free/acc")
    }
    metrics = {"choices": "acc_norm", "free": "exact_match"}
    assert metrics_on(ItemSet.VERDICT, run, metrics) == metrics
    assert metrics_on(ItemSet.VERDICT, run, "acc") == {"choices": "acc", "free": "acc"}
    assert metrics_on(ItemSet.TEST, run, metrics) == {}
