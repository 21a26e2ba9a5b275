"""Harness tasks, built once: documents, tokenised requests, and the split of the items.

A task is a name that lm-evaluation-harness knows, or a local YAML file. A group's subtasks (leaves) are pooled into one
task, with the weights that the group asks for.
"""

from __future__ import annotations

import difflib
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from partune.errors import UserError, suggestion
from partune.finetune.scoring.definitions import check_file, find_own, load_file, reason, rendering, ships_with_harness
from partune.runtime.isolation import quiet

if TYPE_CHECKING:
    from lm_eval.api.task import Task as HarnessTask
    from lm_eval.tasks import TaskManager

# The harness's tokenised request: (context, continuation) as text, then their tokens.
Request = tuple[tuple[str, str], list[int], list[int]]
# A request's log-likelihood, and whether it is the greedy continuation.
Answer = tuple[float, bool]
Encode = Callable[[list[Any]], list[Request]]

FEWSHOT_SEED = 1234  # the harness's own default, so that prompts are those of published numbers
ACCURACIES = ("acc_norm", "acc")
MIN_ITEMS = 2  # items that a paired test and a standard error need

# What scores requests: log-likelihood of each continuation, and whether it is the greedy one.
LogLikelihoods = Callable[[Sequence[Request]], list[Answer]]
# The same for several models at once, of a part by its name: the answers of each.
PackAnswers = Callable[[str, Sequence[Request]], list[list[Answer]]]


class ItemError(Exception):
    """A document is no question with a right answer among its choices."""


@dataclass(frozen=True)
class Item:
    """One document of a task with its requests: first the choices' continuations, then what else the task asks for.

    Attributes:
        leaf: Index of its subtask.
        number: Its place there.
        document: As the harness has it.
        gold: The right choices.
        choices: How many there are.
        requests: Slice of the task's.
    """

    leaf: int
    number: int
    document: Mapping[str, Any]
    gold: tuple[int, ...]
    choices: int
    requests: slice


@dataclass(frozen=True)
class Task:
    """A task as the user names it.

    Attributes:
        name: The user's.
        leaves: The harness's task objects.
        items: Of all leaves, in their order.
        requests: Of all leaves, in their order.
        weights: By metric, whether subtasks weigh by their number of items (True) or equally, as a group's file says.
        trusted: Whether its templates are rendered outside the sandbox.
    """

    name: str
    leaves: tuple[HarnessTask, ...]
    items: tuple[Item, ...]
    requests: tuple[Request, ...]
    weights: Mapping[str, bool] = field(default_factory=dict)
    trusted: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the task's own metrics that are means over items and that all leaves have."""
        from lm_eval.api.metrics import mean

        means = [[name for name, how in leaf.aggregation().items() if how is mean] for leaf in self.leaves]
        return tuple(name for name in means[0] if all(name in names for names in means))

    def weighs_by_size(self, metric: str) -> bool:
        """Return whether subtasks weigh by their number of items in a metric.

        Where the group does not name the metric they do, unless they do in none that it names.
        """
        return self.weights.get(metric, not self.weights or any(self.weights.values()))

    def scorable(self, metric: str) -> list[int]:
        """Return the indices of the items for which a metric is defined; raises UserError where it is for none.

        The loss needs a right choice, the margin a wrong one too, and the harness's accuracies a right one: no model
        can do well on an item without. A task's own `process_results` knows what is right by itself.
        """

        def defined(item: Item) -> bool:
            """Return whether the metric is defined for an item."""
            if metric == "margin":
                return 0 < len(set(item.gold)) < item.choices
            return bool(item.gold) or (metric != "loss" and _scores_itself(self.leaves[item.leaf]))

        scorable = [index for index, item in enumerate(self.items) if defined(item)]
        if not scorable:
            lacking, advice = "right", ""
            if any(item.gold for item in self.items):
                lacking, advice = "wrong", ": take --metric loss"
            raise UserError(f"task {self.name} has no {lacking} choice, which metric {metric} needs{advice}")
        return scorable

    def split(
        self, seed: int, verdict_share: float, metric: str = "acc"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Split the items for which a metric is defined.

        A function of the seed, the leaves' names and sizes alone; every leaf gives its share of verdict items.

        Args:
            seed: Seed of the study.
            verdict_share: Share of the items that the verdict gets.
            metric: What the task is judged by.

        Returns:
            Indices of the search items and of the verdict items, each in the items' order.

        Raises:
            UserError: There are too few for either.
        """
        search: list[int] = []
        verdict: list[int] = []
        scorable = self.scorable(metric)
        for number, leaf in enumerate(self.leaves):
            items = [i for i in scorable if self.items[i].leaf == number]
            # crc32, not hash(): Python's hashes of texts differ from process to process.
            order = np.random.default_rng([seed, zlib.crc32(leaf.task_name.encode()), len(items)]).permutation(items)
            cut = max(min(max(round(verdict_share * len(items)), 1), len(items) - 1), 0)
            verdict += order[:cut].tolist()
            search += order[cut:].tolist()
        if min(len(search), len(verdict)) < MIN_ITEMS:
            raise UserError(
                f"task {self.name} has {len(scorable)} items: too few, as {len(search)} would be searched on and "
                f"{len(verdict)} kept for the verdict, and each needs {MIN_ITEMS} at least (--limit, --verdict-share)"
            )
        return np.sort(np.array(search, np.int64)), np.sort(np.array(verdict, np.int64))


class Loader:
    """Finds and builds tasks. The harness's own index takes long, and is built only where a group or a tag is named."""

    def __init__(self) -> None:
        self._index: TaskManager | None = None

    def load(
        self, name: str, encode: Encode, limit: int | None = None, fewshot: int | None = None, trusted: bool = False
    ) -> Task:
        """Build the task of a name or a YAML file.

        Args:
            name: of the harness, or of a file.
            encode: tokenises the harness's requests.
            limit: documents of each leaf, its first ones; None takes all.
            fewshot: examples shown before each question.
            trusted: whether code that local files name may run.

        Raises:
            UserError: There is no such task, it is none of choices, or one of its items has no right answer.
        """
        path = check_file(name)
        trusted = trusted or path is None
        with quiet(), rendering(trusted):
            label, leaves, weights = self._build(name, path, trusted)
            for leaf in leaves:
                _check(name, leaf)
                _set_fewshot(leaf, fewshot)
            for leaf in leaves:
                _build_requests(name, leaf, limit)
            try:
                items, requests = _items(leaves, encode, shipped=path is None)
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"task {name}: its requests cannot be built: {reason(error)}") from None
        return Task(label, tuple(leaves), tuple(items), tuple(requests), weights, trusted)

    def _build(self, name: str, path: Path | None, trusted: bool) -> tuple[str, list[HarnessTask], dict[str, bool]]:
        """Return a task's label, its leaves, and the metrics in which they weigh by size, or do not."""
        file = path or find_own(name)
        try:
            if file is not None:
                label, loaded = load_file(file, trusted, lambda: self._harness.task_index)
            else:
                label, loaded = name, self._manager(name).load([name])
        except UserError:
            raise
        except Exception as error:
            raise UserError(_why_not_loaded(name, error)) from None
        group = loaded.get("groups", {}).get(label)
        if group is None:
            return label, list(loaded["tasks"].values()), {}
        leaves = group.get_all_tasks()
        for leaf, count in Counter(leaf.task_name for leaf in leaves).items():
            if count > 1:
                raise UserError(f"group {label} has the task {leaf} {count} times: its items would count {count}-fold")
        return (
            label,
            leaves,
            {aggregation.metric: aggregation.weight_by_size for aggregation in group.aggregate_metric_list or ()},
        )

    @property
    def _harness(self) -> TaskManager:
        from lm_eval.tasks import TaskManager

        if self._index is None:
            self._index = TaskManager()
        return self._index

    def _manager(self, name: str) -> TaskManager:
        known = self._harness.all_tasks
        if name not in known:
            offer = suggestion(name, difflib.get_close_matches(name, known, n=1))
            raise UserError(f'no task "{name}"{offer or "; give a task of lm-evaluation-harness or a YAML file"}')
        return self._harness


def distinct(requests: Sequence[Request]) -> tuple[list[Request], list[int]]:
    """Return requests without those whose tokens came before, and for every request the place of its own among them.

    Computed once, equal choices have equal likelihoods: in a tree or a batch, rounding would tell them apart.
    """
    kept: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    asked: list[Request] = []
    places = []
    for request in requests:
        index = kept.setdefault((tuple(request[1]), tuple(request[2])), len(asked))
        if index == len(asked):
            asked.append(request)
        places.append(index)
    return asked, places


def _why_not_loaded(name: str, error: Exception) -> str:
    """Return what to say of an error of the harness while it built a task, its first document in particular."""
    from lm_eval.api.task import Task as HarnessTask

    # The harness does not say which task it was building: the frames that its error passed through know.
    running = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    failed = next((owner for owner in reversed(running) if isinstance(owner, HarnessTask)), None)
    if failed is None:
        return f"task {name} cannot be loaded: {reason(error)}"
    documents: Any = getattr(failed, "task_docs", ())
    if len(documents) and (fault := _fault(failed, documents[0])):
        return f"task {failed.task_name}, item 0: {fault}"
    subtask = "" if failed.task_name == name else f"{failed.task_name}: "
    return f"task {name} cannot be loaded: {subtask}{reason(error)}"


def _build_requests(name: str, leaf: HarnessTask, limit: int | None) -> None:
    """Build a leaf's requests; raise UserError, which names the item that is at fault, where it can be told."""
    try:
        leaf.build_all_requests(limit=limit, rank=0, world_size=1)
    except Exception as error:
        for number, document in leaf.doc_iterator(rank=0, limit=limit, world_size=1):
            if fault := _fault(leaf, document):
                raise UserError(f"task {leaf.task_name}, item {number}: {fault}") from None
        raise UserError(f"task {name}: its requests cannot be built: {reason(error)}") from None


def _check(name: str, leaf: HarnessTask) -> None:
    """Raise UserError where a task is not one of choices, or would filter the model's answers."""
    kind = leaf.get_config("output_type") or leaf.OUTPUT_TYPE
    if kind != "multiple_choice":
        raise UserError(f"task {name}: {leaf.task_name} is of type {kind}; only multiple_choice can be scored so far")
    if leaf.get_config("filter_list"):
        raise UserError(f"task {name}: {leaf.task_name} has a filter_list, which tasks of choices cannot have here")


def _set_fewshot(leaf: HarnessTask, fewshot: int | None) -> None:
    """Set the number of examples shown, by the harness's rule: a task that sets 0 keeps it."""
    given = leaf.get_config("num_fewshot")
    if given is None or (fewshot is not None and given != 0):
        leaf.set_config("num_fewshot", fewshot or 0)
    leaf.set_fewshot_seed(FEWSHOT_SEED)


def _items(leaves: Sequence[HarnessTask], encode: Encode, shipped: bool) -> tuple[list[Item], list[Request]]:
    """Return the leaves' items and tokenised requests.

    An item of the user's own whose answer names no choice is an error. One that comes with the harness cannot be
    corrected: it stays without a right choice. So does one of a task that knows by itself what is right.
    """
    items: list[Item] = []
    requests: list[Request] = []
    for leaf_index, leaf in enumerate(leaves):
        by_document: dict[int, list[tuple[Any, Request]]] = {}
        for instance, request in zip(leaf.instances, encode(leaf.instances), strict=True):
            by_document.setdefault(instance.doc_id, []).append((instance, request))
        faults: list[str] = []
        for number, pairs in sorted(by_document.items()):
            pairs.sort(key=lambda pair: pair[0].idx)
            document = pairs[0][0].doc
            document_requests = slice(len(requests), len(requests) + len(pairs))
            requests += [request for _, request in pairs]
            try:
                gold = _gold(leaf, document)
            except ItemError as fault:
                gold = ()
                faults.append(f"task {leaf.task_name}, item {number}: {fault}")
            items.append(Item(leaf_index, number, document, gold, len(leaf.doc_to_choice(document)), document_requests))
        if faults and not (shipped or _ships(leaf) or _scores_itself(leaf)):
            others = f"; {len(faults)} of its {len(by_document)} items are so" if len(faults) > 1 else ""
            raise UserError(f"{faults[0]}{others}")
        leaf._instances = None  # what is needed of them is in `requests`, and they take several times the memory
        remember(leaf)
    return items, requests


def _ships(leaf: HarnessTask) -> bool:
    """Return whether a leaf was built from a file of the harness's own."""
    source = (leaf.get_config("metadata") or {}).get("config_source", "inline")
    return source != "inline" and ships_with_harness(source)


def _scores_itself(leaf: HarnessTask) -> bool:
    """Return whether a task's own code, not the harness's, says what an answer is worth."""
    from lm_eval.api.task import ConfigurableTask

    return callable(leaf.get_config("process_results")) or (
        type(leaf).process_results is not ConfigurableTask.process_results
    )


def _fault(leaf: HarnessTask, document: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a document on which the harness stumbled; None where nothing can be told."""
    try:
        _gold(leaf, document)
        empty = [number for number, choice in enumerate(leaf.doc_to_choice(document)) if not choice]
    except ItemError as fault:
        return str(fault)
    except Exception:
        return None
    return f"choice {empty[0]} is empty" if empty else None


def _gold(leaf: HarnessTask, document: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the right choices, as the harness understands the answer; raises ItemError where it names no choice."""
    choices = leaf.doc_to_choice(document)
    if not isinstance(choices, (list, tuple)) or not all(isinstance(choice, str) for choice in choices):
        raise ItemError(f"its choices are no list of texts: {_shown(choices)}")
    answer = leaf.doc_to_text(document) if getattr(leaf, "multiple_input", 0) else leaf.doc_to_target(document)
    if not isinstance(answer, list):
        return (_choice_number(choices, answer),)
    if not answer:
        raise ItemError("it has no right answer")
    return tuple(_choice_number(choices, right) for right in answer)


def _choice_number(choices: Sequence[str], answer: Any) -> int:
    """Return the number of the choice that an answer names by its text or its number."""
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    whole = isinstance(answer, (int, np.integer))
    if whole and 0 <= answer < len(choices):
        return int(answer)
    hint = "; labels count from 0" if whole else "; give its text, or its number from 0"
    raise ItemError(f"the right answer {_shown(answer)} is none of the {len(choices)} choices{hint}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def remember(leaf: HarnessTask) -> None:
    """Make a task render what it says of a document once, not again for every model that is scored on it.

    The documents have to stay in memory: they are known by their identity, which another object could get after them.
    """

    def kept(render: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[int, Any] = {}

        def once(document: Any, *arguments: Any) -> Any:
            if arguments:
                return render(document, *arguments)
            if id(document) not in known:
                known[id(document)] = render(document)
            return known[id(document)]

        return once

    for name in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        setattr(leaf, name, kept(getattr(leaf, name)))
