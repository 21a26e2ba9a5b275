"""Score tasks of lm-evaluation-harness ("the harness"): choices, likelihoods of texts, and generated answers.

A task scores with its own code: its filters turn a model's answers into what is scored, and its `process_results` turns
that into the values of metrics. `partune.finetune.scoring.metrics` defines these values.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from partune.errors import UserError, reason
from partune.finetune.scoring.base import (
    MIN_ITEMS,
    Answer,
    Arrays,
    Floats,
    Ints,
    NotFiniteError,
    Prompt,
    Request,
    Task,
    UndefinedScoreError,
    weighted_mean,
)
from partune.finetune.scoring.definitions import rendering
from partune.finetune.scoring.metrics import ACCURACIES, CONTINUOUS, Metric, continuous
from partune.runtime.failures import OF_USERS
from partune.runtime.isolation import silenced_logger
from partune.trial.contents import Content, digest
from partune.trial.goals import text_loss
from partune.trial.names import LIKELIHOODS, TEXTS

if TYPE_CHECKING:
    from lm_eval.api.task import Task as Leaf

Kind = Literal["loglikelihood", "loglikelihood_rolling", "generate_until"]  # the harness's types of requests


class Query(NamedTuple):
    """What a task asks a model for.

    Attributes:
        kind: The type of the request: the likelihood of a continuation, that of a whole text, or an answer.
        requests: The number of partune's requests: windows of a whole text, or samples of an answer.
    """

    kind: Kind
    requests: int = 1


@dataclass(frozen=True)
class Item:
    """One document of a task and its requests: first one for each choice, then any others.

    Attributes:
        leaf: The index of the document's subtask.
        number: The index of the document in its subtask.
        document: The document, as the harness holds it.
        gold: The indices of the right choices.
        choices: The number of choices; 0 if the task is not multiple-choice.
        requests: The slice of the document's requests in `Task.requests`.
        queries: What the task asks for, in the order of the requests; empty if only likelihoods of continuations.
    """

    leaf: int
    number: int
    document: Mapping[str, Any]
    gold: tuple[int, ...]
    choices: int
    requests: slice
    queries: tuple[Query, ...] = ()


@dataclass(frozen=True)
class HarnessTask(Task):
    """A task of the harness, or a group of subtasks (leaves) pooled into one task.

    Attributes:
        name: The name of the task or group.
        leaves: The harness's task objects: the task itself, or the subtasks of the group.
        items: The items of all leaves, leaf by leaf.
        requests: The requests of all items, in the same order.
        defined: For each leaf, the metrics that it defines, by name.
        by_size: For each metric that the group's file names, whether subtasks are weighted by their number of items
            (True) or equally (False).
        trusted: Whether the task's templates are rendered outside the sandbox.
    """

    name: str
    leaves: tuple[Leaf, ...]
    items: tuple[Item, ...]
    requests: tuple[Request, ...]
    defined: tuple[Mapping[str, Metric], ...]
    by_size: Mapping[str, bool] = field(default_factory=dict)
    trusted: bool = False

    def __len__(self) -> int:
        return len(self.items)

    def span(self, item: int) -> slice:
        """Return the slice of an item's requests in `requests`."""
        return self.items[item].requests

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that all leaves define, and the continuous ones if all are multiple-choice."""
        common = tuple(name for name in self.defined[0] if all(name in names for names in self.defined))
        return (*common, *(CONTINUOUS if all(item.choices for item in self.items) else ()))

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """The harness's accuracies, and then the metrics in the order of the task's file."""
        return (*ACCURACIES, *(metric for metric in self.metrics if metric not in CONTINUOUS))

    def described(self, metric: str) -> Mapping[str, Any]:
        """Return the entry that makes reports show the score of a perplexity as a loss."""
        goal = text_loss(metric)
        return {} if goal is None else {"shown_as": goal.name}

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

        A metric that the group's file does not name is weighted by size, unless the file weights all others equally.
        """
        return self.by_size.get(metric, not self.by_size or any(self.by_size.values()))

    def texts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the prompt of each item, without solved examples, and the texts of its document."""
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
            if not item.choices:
                return True
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
                f"task {self.name} has {len(scorable)} items, which is too few: {len(search)} would score trials and "
                f"{len(verdict)} be kept for the verdict, and each needs at least {MIN_ITEMS}; "
                "raise `--limit`, change `--verdict-share`, or use a larger task"
            )
        return np.sort(np.array(search, np.int64)), np.sort(np.array(verdict, np.int64))

    def weights(self, indices: Ints, metric: str) -> Floats:
        """Return the weights of items in the score of a metric, (n,), if all of them have a value."""
        units = self._units(indices, metric)
        if self.weighs_by_size(metric) and units is None:
            return np.full(len(indices), 1 / len(indices))
        _, places, sizes = np.unique(self.strata_of(indices), return_inverse=True, return_counts=True)
        shares = sizes / len(indices) if self.weighs_by_size(metric) else np.full(len(sizes), 1 / len(sizes))
        own = 1 / sizes[places] if units is None else units / np.bincount(places, units)[places]
        whole: Floats = shares[places] * own
        return whole

    def _units(self, indices: Ints, metric: str) -> Floats | None:
        """Return how many words or bytes each item's value averages, (n,); None for other metrics."""
        if not self.defined[0].get(metric, _MEAN).weighted:
            return None
        return np.array([self._unit(int(index), metric) for index in indices])

    def _unit(self, index: int, metric: str) -> float:
        if (index, metric) not in self._known_units:
            item = self.items[index]
            with rendering(self.trusted):
                found = self.leaves[item.leaf].process_results(item.document, [0.0])
            self._known_units[index, metric] = float(found[self.defined[item.leaf][metric].key][1])
        return self._known_units[index, metric]

    @cached_property
    def _known_units(self) -> dict[tuple[int, str], float]:
        return {}

    def values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Arrays]:
        """Return the per-item values of all metrics, the likelihoods and the generated answers."""
        with rendering(self.trusted), silenced_logger("lm_eval.api.task"):
            return self._values(indices, answers)

    def _values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Arrays]:
        chosen = [self.items[i] for i in indices]
        values = {name: np.full(len(chosen), np.nan) for name in self.metrics}
        replies: list[list[list[Any]]] = []
        start = 0
        for item in chosen:
            count = item.requests.stop - item.requests.start
            replies.append(_replies(item, answers[start : start + count]))
            start += count
        likelihoods = _table([_likelihoods(item, of_item) for item, of_item in zip(chosen, replies, strict=True)])
        for row, item in enumerate(chosen):
            # Accuracy would hide a nan, because argmax returns its index.
            if np.isnan(_likelihoods(item, replies[row])).any():
                raise NotFiniteError(f"the model's log-likelihoods are not finite ({self.label(indices[row])})")
        for number in sorted({item.leaf for item in chosen}):
            rows = [row for row, item in enumerate(chosen) if item.leaf == number]
            found = self._own_metrics(number, [chosen[row] for row in rows], [replies[row] for row in rows])
            for name in values.keys() & found.keys():
                values[name][rows] = found[name]
        if "loss" in values:
            for row, item in enumerate(chosen):
                tokens = [len(request[2]) for request in self.requests[item.requests][: item.choices]]
                of_choices = likelihoods[row, : item.choices]
                values["loss"][row], values["margin"][row] = continuous(item.gold, of_choices, tokens)
        texts = [[str(text) for reply in of_item for text in reply if isinstance(text, str)] for of_item in replies]
        most = max(map(len, texts))
        arrays: Arrays = {LIKELIHOODS: likelihoods} if likelihoods.shape[1] else {}
        if most:
            arrays[TEXTS] = np.array([[*of_item, *[""] * (most - len(of_item))] for of_item in texts], np.str_)
        return values, arrays

    def _own_metrics(
        self, number: int, items: Sequence[Item], replies: Sequence[Sequence[list[Any]]]
    ) -> dict[str, Floats]:
        """Return the items' values of their leaf's metrics, each (n,).

        Args:
            number: The index of the leaf.
            items: The items.
            replies: What the model answered to each query of each item.

        Raises:
            UndefinedScoreError: The task's code raises an exception.
        """
        leaf = self.leaves[number]
        found = {name: np.full(len(items), np.nan) for name in self.defined[number]}
        try:
            by_filter = apply_filters(leaf, items, replies)
        except OF_USERS as error:
            fault = f"its answers cannot be filtered ({reason(error)})"
            raise UndefinedScoreError(f"task {leaf.task_name}: {fault}") from error
        for filter_name, of_items in by_filter.items():
            metrics = [metric for metric in self.defined[number].values() if metric.filter == filter_name]
            for row, (item, of_item) in enumerate(zip(items, of_items, strict=True)):
                try:
                    raw = leaf.process_results(item.document, of_item)
                    for metric in metrics:
                        found[metric.name][row] = metric.value(raw.get(metric.key))
                except OF_USERS as error:
                    fault = f"it cannot be scored ({reason(error)})"
                    raise UndefinedScoreError(f"task {leaf.task_name}, item {item.number}: {fault}") from error
        return found

    def aggregate(self, indices: Ints, values: Floats, metric: str) -> tuple[float, float]:
        """Return the mean and the standard error of per-item values, computed as the harness does.

        For a group, both combine the means and the standard errors of the leaves.
        """
        from lm_eval.api.metrics import pooled_sample_stderr, unweighted_mean_stderr

        leaf, known, units = self.strata_of(indices), ~np.isnan(values), self._units(indices, metric)
        pairs, sizes = [], []
        for number in range(len(self.leaves)):
            own = (leaf == number) & known
            if own.any():
                pairs.append(_mean(values[own], None if units is None else units[own]))
                sizes.append(int(own.sum()))
        if not pairs:
            return math.nan, math.nan
        means, errors = [mean for mean, _ in pairs], [error for _, error in pairs]
        if len(pairs) == 1:
            return pairs[0]
        if min(sizes) < 2:  # a leaf with one item has no standard error, so use that of all items together
            shares = self.weights(indices, metric)[known]
            error = weighted_mean(values[known], shares / shares.sum())[1]
            return (float(np.average(means, weights=sizes if self.weighs_by_size(metric) else None)), error)
        if self.weighs_by_size(metric):
            mean = float(values[known].mean()) if units is None else float(np.average(means, weights=sizes))
            return mean, float(pooled_sample_stderr(errors, sizes))
        return float(np.mean(means)), float(unweighted_mean_stderr(errors))

    def sample(self, item: int) -> tuple[str, str] | None:
        """Return the prompt and the target of an item that is answered by generation; None for others."""
        asked = self.items[item]
        prompt = next((request for request in self.requests[asked.requests] if isinstance(request, Prompt)), None)
        if prompt is None:
            return None
        leaf = self.leaves[asked.leaf]
        with rendering(self.trusted):
            target = leaf.doc_to_target(asked.document)
            if leaf.get_config("doc_to_choice") is not None and isinstance(target, int):
                target = leaf.doc_to_choice(asked.document)[target]
        return prompt.text, " | ".join(map(str, target)) if isinstance(target, (list, tuple)) else str(target)

    @property
    def content(self) -> Content:
        """The digest of the requests and right choices, and of the documents and settings that other metrics read."""
        # A task's own `process_results` may read any field of a document, and so may `doc_to_target`.
        reads_document = [
            getattr(leaf.config, "process_results", None) is not None or output_type(leaf) != "multiple_choice"
            for leaf in self.leaves
        ]
        items = [
            (
                self.leaves[item.leaf].task_name,
                item.gold,
                item.choices,
                [_digestible(request) for request in self.requests[item.requests]],
                _plain(item.document) if reads_document[item.leaf] else None,
            )
            for item in self.items
        ]
        names = [name for name in self.metrics if name not in CONTINUOUS]
        rules = [
            _plain([leaf.get_config("filter_list"), leaf.get_config("metric_list")])
            for leaf in self.leaves
            if output_type(leaf) != "multiple_choice"
        ]
        parts = [*items, names, sorted(self.by_size.items()), *([rules] if rules else [])]
        return Content(digest(*parts), f"{len(self.items)} items")

    def is_share(self, metric: str) -> bool:
        """Return whether the values of a metric are shares, as far as the kind of metric shows it."""
        return all(metric in known and known[metric].is_mean for known in self.defined)


_MEAN = Metric("", "", "", lambda values: sum(values) / len(values))


def _mean(values: Floats, units: Floats | None) -> tuple[float, float]:
    """Return the mean of values and its standard error, weighted by `units` if there are any."""
    if units is not None:
        return weighted_mean(values, units / units.sum())
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def output_type(leaf: Leaf) -> str:
    """Return what a task asks for: choices ("multiple_choice"), likelihoods or generated answers."""
    return str(leaf.get_config("output_type") or leaf.OUTPUT_TYPE)


def _replies(item: Item, answers: Sequence[Answer]) -> list[list[Any]]:
    """Return what the model answered to each query of an item, once for each sample.

    Args:
        item: The item.
        answers: The answers to the item's requests.
    """
    found: list[list[Any]] = []
    start = 0
    for kind, count in item.queries or [Query("loglikelihood")] * len(answers):
        own = answers[start : (start := start + count)]
        found.append([math.fsum(answer[0] for answer in own)] if kind == "loglikelihood_rolling" else list(own))  # type: ignore[misc]
    return found


def _likelihoods(item: Item, replies: Sequence[list[Any]]) -> list[float]:
    """Return the log-likelihoods of an item's choices, or of all its continuations if it has no choices."""
    first = [reply[0] for reply in replies if not isinstance(reply[0], str)]
    known = [float(answer[0]) if isinstance(answer, tuple) else float(answer) for answer in first]
    return known[: item.choices] if item.choices else known


def _table(rows: Sequence[Sequence[float]]) -> Floats:
    """Return rows of different lengths as an array, padded with nan."""
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return table


def apply_filters(
    leaf: Leaf, items: Sequence[Item], replies: Sequence[Sequence[list[Any]]]
) -> dict[str, list[list[Any]]]:
    """Return what each of a task's filters makes of the answers to items, by the filters' names.

    Args:
        leaf: The task.
        items: The items.
        replies: What the model answered to each query of each item.
    """
    from lm_eval.api.instance import Instance

    instances = [
        [Instance("generate_until", item.document, (), place, resps=reply) for place, reply in enumerate(of_item)]
        for item, of_item in zip(items, replies, strict=True)
    ]
    for ensemble in leaf._filters:
        ensemble.apply([instance for of_item in instances for instance in of_item])
    return {
        ensemble.name: [[instance.filtered_resps[ensemble.name] for instance in of_item] for of_item in instances]
        for ensemble in leaf._filters
    }


def scores_itself(leaf: Leaf) -> bool:
    """Return whether a task computes its metrics with its own code instead of the harness's."""
    from lm_eval.api.task import ConfigurableTask

    return callable(leaf.get_config("process_results")) or (
        type(leaf).process_results is not ConfigurableTask.process_results
    )


def _digestible(request: Request) -> Any:
    """Return a request as data that JSON can represent."""
    if isinstance(request, Prompt):
        return [request.text, list(request.tokens), dataclasses.astuple(request.settings)]
    return request


def _plain(value: Any) -> Any:
    """Return a document as data that JSON can represent; any other value (a picture) becomes its type's name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
