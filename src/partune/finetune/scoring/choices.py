"""Score multiple-choice tasks of lm-evaluation-harness ("the harness") from the log-likelihoods of the choices.

The metrics are those that a task defines (accuracies) and two continuous ones that respond to any change of the model.
Higher is better for all of them:

    loss     the log-likelihood of the right choice per token (nats), which is minus the usual loss; mean over items
    margin   tanh(m / 2), where m is the log-likelihood of the right choice minus that of the best wrong one (nats).
             If p and q are the two likelihoods, this is (p - q) / (p + q), in (-1, 1). It is positive only if `acc`
             counts the item as right, and 0 if a wrong choice is as likely. It is bounded, so that no single item
             outweighs the others.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from partune.errors import UserError
from partune.finetune.scoring.base import (
    MIN_ITEMS,
    Answer,
    Floats,
    Ints,
    NotFiniteError,
    Request,
    Task,
    UndefinedScoreError,
)
from partune.finetune.scoring.definitions import rendering
from partune.runtime.failures import one_line
from partune.runtime.isolation import silenced_logger
from partune.trial.contents import Content, digest

if TYPE_CHECKING:
    from lm_eval.api.task import Task as HarnessTask

ACCURACIES = ("acc_norm", "acc")
CONTINUOUS = ("loss", "margin")


@dataclass(frozen=True)
class Item:
    """One document of a task, and its requests: one for each choice, then any others that the task makes.

    Attributes:
        leaf: The index of the document's subtask.
        number: The index of the document in its subtask.
        document: The document, as the harness holds it.
        gold: The indices of the right choices.
        choices: The number of choices.
        requests: The slice of the document's requests in `Task.requests`.
    """

    leaf: int
    number: int
    document: Mapping[str, Any]
    gold: tuple[int, ...]
    choices: int
    requests: slice


@dataclass(frozen=True)
class ChoiceTask(Task):
    """A multiple-choice task of the harness, or a group of subtasks (leaves) pooled into one task.

    Attributes:
        name: The name of the task or group.
        leaves: The harness's task objects: the task itself, or the subtasks of the group.
        items: The items of all leaves, leaf by leaf.
        requests: The requests of all items, in the same order.
        by_size: For each metric that the group's file names, whether subtasks are weighted by their number of items
            (True) or equally (False).
        trusted: Whether the task's templates are rendered outside the sandbox.
    """

    name: str
    leaves: tuple[HarnessTask, ...]
    items: tuple[Item, ...]
    requests: tuple[Request, ...]
    by_size: Mapping[str, bool] = field(default_factory=dict)
    trusted: bool = False

    def __len__(self) -> int:
        return len(self.items)

    def span(self, item: int) -> slice:
        """Return where an item's requests are in `requests`."""
        return self.items[item].requests

    @property
    def defined(self) -> tuple[str, ...]:
        """The metrics that all leaves define and aggregate as a mean over items."""
        from lm_eval.api.metrics import mean

        means = [[name for name, how in leaf.aggregation().items() if how is mean] for leaf in self.leaves]
        return tuple(name for name in means[0] if all(name in names for names in means))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the task defines, and the continuous ones."""
        return (*self.defined, *CONTINUOUS)

    @property
    def usual(self) -> tuple[str, ...]:
        """The harness's accuracies."""
        return ACCURACIES

    @cached_property
    def strata(self) -> tuple[str, ...]:
        """The names of the leaves."""
        # Cached, because the harness draws from Python's global generator whenever it is asked for a name.
        return tuple(leaf.task_name for leaf in self.leaves)

    def stratum(self, item: int) -> int:
        """Return the index of an item's leaf."""
        return self.items[item].leaf

    def label(self, item: int) -> str:
        """Return the name of an item for messages."""
        return f"task {self.leaves[self.items[item].leaf].task_name}, item {self.items[item].number}"

    def weighs_by_size(self, metric: str) -> bool:
        """Return whether subtasks are weighted by their number of items for a metric.

        If the group's file does not name the metric, they are, unless the file weights subtasks equally for every
        metric that it does name.
        """
        return self.by_size.get(metric, not self.by_size or any(self.by_size.values()))

    def texts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the text of each item that the model reads, without solved examples, and the texts of its document."""
        found = []
        with rendering(self.trusted):
            for item in self.items:
                prompt = self.leaves[item.leaf].doc_to_text(item.document)
                fields = tuple(value for value in item.document.values() if isinstance(value, str))
                found.append((prompt if isinstance(prompt, str) else "", fields))
        return found

    def scorable(self, metric: str) -> list[int]:
        """Return the indices of the items for which a metric is defined.

        The loss and the harness's accuracies need a right choice, and the margin needs a wrong choice too. If a task
        has its own `process_results`, its own metrics need no right choice.

        Raises:
            UserError: The metric is defined for no item.
        """

        def defined(item: Item) -> bool:
            """Return whether the metric is defined for an item."""
            if metric == "margin":
                return 0 < len(set(item.gold)) < item.choices
            return bool(item.gold) or (metric != "loss" and scores_itself(self.leaves[item.leaf]))

        scorable = [index for index, item in enumerate(self.items) if defined(item)]
        if not scorable:
            lacking, advice = "right", ""
            if any(item.gold for item in self.items):
                lacking, advice = "wrong", "; use `--metric loss`"
            raise UserError(f"task {self.name} has no {lacking} choice, which metric {metric} needs{advice}")
        return scorable

    def split(self, seed: int, verdict_share: float, metric: str = "acc") -> tuple[Ints, Ints]:
        """Split the items for which a metric is defined, each leaf in the same proportion."""
        search: list[int] = []
        verdict: list[int] = []
        scorable = self.scorable(metric)
        for number, leaf in enumerate(self.leaves):
            items = [i for i in scorable if self.items[i].leaf == number]
            # crc32 rather than hash(): Python's hashes of strings differ from process to process.
            order = np.random.default_rng([seed, zlib.crc32(leaf.task_name.encode()), len(items)]).permutation(items)
            cut = max(min(max(round(verdict_share * len(items)), 1), len(items) - 1), 0)
            verdict += order[:cut].tolist()
            search += order[cut:].tolist()
        if min(len(search), len(verdict)) < MIN_ITEMS:
            raise UserError(
                f"task {self.name} has {len(scorable)} items, which is too few: {len(search)} would be searched on and "
                f"{len(verdict)} kept for the verdict, and each needs at least {MIN_ITEMS}; "
                "raise `--limit`, change `--verdict-share`, or use a larger task"
            )
        return np.sort(np.array(search, np.int64)), np.sort(np.array(verdict, np.int64))

    def weights(self, indices: Ints, metric: str) -> Floats:
        """Return the weights of items in the score of a metric, (n,), if all of them have a value."""
        if self.weighs_by_size(metric):
            return np.full(len(indices), 1 / len(indices))
        _, places, sizes = np.unique(self.strata_of(indices), return_inverse=True, return_counts=True)
        shares: Floats = 1 / (len(sizes) * sizes[places])
        return shares

    def values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Floats]:
        """Return the per-item values of all metrics, and the log-likelihoods of all choices."""
        with rendering(self.trusted), silenced_logger("lm_eval.api.task"):
            return self._values(indices, answers)

    def _values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Floats]:
        chosen = [self.items[i] for i in indices]
        names = self.defined
        values = {name: np.full(len(chosen), np.nan) for name in (*names, *CONTINUOUS)}
        likelihoods = np.full((len(chosen), max(item.choices for item in chosen)), np.nan)
        start = 0
        for row, item in enumerate(chosen):
            of_item = list(answers[start : (start := start + item.requests.stop - item.requests.start)])
            of_choices = np.array([answer[0] for answer in of_item[: item.choices]])
            if np.isnan(of_choices).any():  # accuracy would hide this: argmax returns the index of nan
                raise NotFiniteError(
                    f"the model's log-likelihoods are not finite (task {self.name}, item {indices[row]})"
                )
            metrics = self._own_metrics(item, of_item)
            for name in names:
                values[name][row] = metrics[name]
            tokens = [len(request[2]) for request in self.requests[item.requests][: item.choices]]
            values["loss"][row], values["margin"][row] = continuous(item, of_choices, tokens)
            likelihoods[row, : item.choices] = of_choices
        return values, likelihoods

    def _own_metrics(self, item: Item, answers: list[Answer]) -> dict[str, float]:
        """Return an item's values of the metrics that its task defines; nan if a value is not a number.

        Args:
            item: The item.
            answers: The answers to the item's requests.

        Raises:
            UndefinedScoreError: The task's code raises an exception.
        """
        leaf = self.leaves[item.leaf]
        try:
            metrics = leaf.process_results(item.document, answers)
            return {name: _number(metrics.get(name)) for name in self.defined}
        except Exception as error:
            fault = f"it cannot be scored ({type(error).__name__}: {one_line(error)})"
            raise UndefinedScoreError(f"task {leaf.task_name}, item {item.number}: {fault}") from error

    def aggregate(self, indices: Ints, values: Floats, metric: str) -> tuple[float, float]:
        """Return the mean and the standard error of per-item values, computed as the harness does.

        For a group, both combine the means and the standard errors of the leaves.
        """
        from lm_eval.api.metrics import pooled_sample_stderr, unweighted_mean_stderr

        leaf = self.strata_of(indices)
        known = ~np.isnan(values)
        pools = (values[(leaf == number) & known] for number in range(len(self.leaves)))
        groups = [pool for pool in pools if len(pool)]
        if not groups:
            return math.nan, math.nan
        sizes = [len(group) for group in groups]
        errors = [float(group.std(ddof=1)) / math.sqrt(len(group)) if len(group) > 1 else math.nan for group in groups]
        if len(groups) == 1:
            return float(groups[0].mean()), errors[0]
        if self.weighs_by_size(metric):
            return float(np.concatenate(groups).mean()), float(pooled_sample_stderr(errors, sizes))
        return float(np.mean([group.mean() for group in groups])), float(unweighted_mean_stderr(errors))

    @property
    def content(self) -> Content:
        """The digest of the prompts, choices and right choices, and of what else the metrics read."""
        # A task's own `process_results` may read any field of a document.
        reads_document = [getattr(leaf.config, "process_results", None) is not None for leaf in self.leaves]
        items = [
            (
                self.leaves[item.leaf].task_name,
                item.gold,
                item.choices,
                self.requests[item.requests],
                _plain(item.document) if reads_document[item.leaf] else None,
            )
            for item in self.items
        ]
        return Content(digest(*items, self.defined, sorted(self.by_size.items())), f"{len(self.items)} items")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def continuous(item: Item, likelihoods: Floats, tokens: Sequence[int]) -> tuple[float, float]:
    """Return the metrics `loss` and `margin` of an item.

    Both are nan if no choice is right. The margin is also nan if all choices are right.

    Args:
        item: The item.
        likelihoods: (choices,), the log-likelihoods of the choices.
        tokens: (choices,), the numbers of tokens of the choices.
    """
    right = list(item.gold)
    wrong = [i for i in range(len(likelihoods)) if i not in right]
    if not right:
        return math.nan, math.nan
    best = max(right, key=lambda i: float(likelihoods[i]))
    # tanh bounds the margin, so that an item on which the model is very sure cannot outweigh all others.
    margin = math.tanh(float(likelihoods[best] - likelihoods[wrong].max()) / 2) if wrong else math.nan
    return float(likelihoods[best]) / tokens[best], margin


def scores_itself(leaf: HarnessTask) -> bool:
    """Return whether a task computes its metrics with its own code instead of the harness's."""
    from lm_eval.api.task import ConfigurableTask

    return callable(leaf.get_config("process_results")) or (
        type(leaf).process_results is not ConfigurableTask.process_results
    )


def _plain(value: Any) -> Any:
    """Return a document in the types of JSON; a value of any other type (a picture) becomes the name of its type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
