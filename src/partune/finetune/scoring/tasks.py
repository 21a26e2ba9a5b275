"""Build tasks: load their documents, tokenise their requests, and split their items into search and verdict items.

The user names a task of lm-evaluation-harness ("the harness") or a local YAML file. If it is the name of a group, its
subtasks (leaves) are pooled into one task, with the weights that the group's file sets.
"""

from __future__ import annotations

import difflib
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from partune.errors import UserError, suggestion
from partune.finetune.scoring.base import Request
from partune.finetune.scoring.definitions import check_file, find_own, load_file, reason, rendering, ships_with_harness
from partune.finetune.scoring.harness_task import (
    HarnessTask,
    Item,
    Kind,
    Query,
    apply_filters,
    output_type,
    scores_itself,
)
from partune.finetune.scoring.metrics import Metric, metrics_of
from partune.runtime.failures import OF_USERS
from partune.runtime.isolation import quiet

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task as Leaf
    from lm_eval.tasks import TaskManager

# A function that tokenises the harness's requests: each becomes one or more requests of partune.
Encode = Callable[["list[Instance]"], list[list[Request]]]

TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
FEWSHOT_SEED = 1234  # the harness's default, so that prompts equal those behind published numbers


class ItemError(Exception):
    """A document is not a question with a right answer among its choices."""


class Loader:
    """Find and build tasks; build the harness's index, which is slow, only for a task that is not found otherwise."""

    def __init__(self) -> None:
        self._task_manager: TaskManager | None = None

    def load(
        self,
        name: str,
        encode: Encode,
        limit: int | None = None,
        fewshot: int | None = None,
        trusted: bool = False,
        unsafe: bool = False,
    ) -> HarnessTask:
        """Build a task.

        Args:
            name: The name of a harness task, group or tag, or the path of a YAML file.
            encode: A function that tokenises the harness's requests.
            limit: The number of documents to use from the start of each leaf; None uses all of them.
            fewshot: The number of examples shown before each question.
            trusted: Whether local files may run code.
            unsafe: Whether tasks may run the code that a model writes.

        Raises:
            UserError: There is no such task, it cannot be scored, or a question has no right answer.
        """
        path = check_file(name)
        trusted = trusted or path is None
        with quiet(), rendering(trusted):
            label, leaves, weights = self._build(name, path, trusted)
            for leaf in leaves:
                _check(name, leaf, unsafe)
                _set_fewshot(leaf, fewshot)
            for leaf in leaves:
                _build_requests(name, leaf, limit)
            try:
                items, requests = _items(leaves, encode, shipped=path is None)
            except UserError:
                raise
            except OF_USERS as error:
                raise UserError(f"task {name}: its requests cannot be built: {reason(error)}") from None
            defined = tuple(_metrics(leaf, [item for item in items if item.leaf == i]) for i, leaf in enumerate(leaves))
        task = HarnessTask(label, tuple(leaves), tuple(items), tuple(requests), defined, weights, trusted)
        if not task.metrics:
            raise UserError(
                f"task {name} has no metric {'in all subtasks ' if len(leaves) > 1 else ''}that gives each item "
                "a value and is better if higher, so models cannot be compared on it"
            )
        return task

    def _build(self, name: str, path: Path | None, trusted: bool) -> tuple[str, list[Leaf], dict[str, bool]]:
        """Return a task's name, its leaves, and for each metric of a group whether leaves are weighted by size."""
        file = path or find_own(name)
        try:
            if file is not None:
                label, loaded = load_file(file, trusted, lambda: self._harness.task_index)
            else:
                label, loaded = name, self._manager(name).load([name])
        except UserError:
            raise
        except OF_USERS as error:
            raise UserError(_why_not_loaded(name, error)) from None
        group = loaded.get("groups", {}).get(label)
        if group is None:
            return label, list(loaded["tasks"].values()), {}
        leaves = group.get_all_tasks()
        for leaf, count in Counter(leaf.task_name for leaf in leaves).items():
            if count > 1:
                raise UserError(f"group {label} has the task {leaf} {count} times; its items would count {count} times")
        return label, leaves, {rule.metric: rule.weight_by_size for rule in group.aggregate_metric_list or ()}

    @property
    def _harness(self) -> TaskManager:
        from lm_eval.tasks import TaskManager

        if self._task_manager is None:
            self._task_manager = TaskManager()
        return self._task_manager

    def _manager(self, name: str) -> TaskManager:
        """Return the harness's task manager; raise UserError if it does not know the name."""
        known = self._harness.all_tasks
        if name not in known:
            offer = suggestion(name, difflib.get_close_matches(name, known, n=1))
            raise UserError(f'no task "{name}"{offer or "; name a task of lm-evaluation-harness or a YAML file"}')
        return self._harness


def _why_not_loaded(name: str, error: BaseException) -> str:
    """Return the message for an error that the harness raised while it built a task.

    The harness reads a task's first document when it builds the task, so the error may be in that document.
    """
    from lm_eval.api.task import Task as Leaf

    # The error does not name the task that was being built, so look for it in the frames of the traceback.
    selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    failed = next((value for value in reversed(selves) if isinstance(value, Leaf)), None)
    if failed is None:
        return f"task {name} cannot be loaded: {reason(error)}"
    documents: Any = getattr(failed, "task_docs", ())
    if len(documents) and (fault := _fault(failed, documents[0])):
        return f"task {failed.task_name}, item 0: {fault}"
    subtask = "" if failed.task_name == name else f"{failed.task_name}: "
    return f"task {name} cannot be loaded: {subtask}{reason(error)}"


def _build_requests(name: str, leaf: Leaf, limit: int | None) -> None:
    """Build a leaf's requests; if that fails, raise a UserError, which names the faulty item if one is found."""
    try:
        leaf.build_all_requests(limit=limit, rank=0, world_size=1)
    except OF_USERS as error:
        for number, document in leaf.doc_iterator(rank=0, limit=limit, world_size=1):
            if fault := _fault(leaf, document):
                raise UserError(f"task {leaf.task_name}, item {number}: {fault}") from None
        raise UserError(f"task {name}: its requests cannot be built: {reason(error)}") from None


def _check(name: str, leaf: Leaf, unsafe: bool) -> None:
    """Raise UserError if a task cannot be scored: by its type, or because it runs code that a model writes."""
    kind = output_type(leaf)
    if kind not in TYPES:
        raise UserError(f"task {name}: {leaf.task_name} is of type {kind}; only {', '.join(TYPES)} can be scored")
    if getattr(leaf, "MULTIMODAL", False):
        raise UserError(f"task {name}: {leaf.task_name} shows the model pictures or sounds; only texts can be scored")
    if getattr(leaf, "UNSAFE_CODE", False) and not unsafe:
        raise UserError(
            f"task {name}: {leaf.task_name} runs the code that the model writes, on this machine; "
            "if you accept that, add `--confirm-run-unsafe-code`"
        )


def _metrics(leaf: Leaf, items: Sequence[Item]) -> dict[str, Metric]:
    """Return the metrics that a leaf defines, by name.

    The first item is scored with empty answers to find the names that only the task's code knows.
    """
    if output_type(leaf) == "multiple_choice":
        return {name: metric for name, metric in metrics_of(leaf, {}).items() if metric.is_mean}
    found: Mapping[str, Any] = {}
    if items:
        empty = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0, "generate_until": ""}
        outputs = [[empty[kind]] * (count if kind == "generate_until" else 1) for kind, count in items[0].queries]
        with suppress(Exception):  # the task's code may reject an empty answer
            (answers,) = next(iter(apply_filters(leaf, items[:1], [outputs]).values()))
            found = leaf.process_results(items[0].document, answers)
    return metrics_of(leaf, found)


def _set_fewshot(leaf: Leaf, fewshot: int | None) -> None:
    """Set the number of examples shown before a question; as in the harness, a task whose file sets 0 keeps 0."""
    configured = leaf.get_config("num_fewshot")
    if configured is None or (fewshot is not None and configured != 0):
        leaf.set_config("num_fewshot", fewshot or 0)
    leaf.set_fewshot_seed(FEWSHOT_SEED)


def _items(leaves: Sequence[Leaf], encode: Encode, shipped: bool) -> tuple[list[Item], list[Request]]:
    """Return the items and the tokenised requests of all leaves.

    An item whose answer names none of its choices is an error in the user's task file. Items of two kinds of task are
    kept without a right choice instead: those of harness tasks, which the user cannot correct, and those of tasks with
    their own `process_results`, which need no right choice.
    """
    items: list[Item] = []
    requests: list[Request] = []
    for leaf_index, leaf in enumerate(leaves):
        by_document: dict[int, list[tuple[Instance, list[Request]]]] = {}
        for instance, encoded in zip(leaf.instances, encode(leaf.instances), strict=True):
            by_document.setdefault(cast(int, instance.doc_id), []).append((instance, encoded))
        faults: list[str] = []
        chooses = output_type(leaf) == "multiple_choice"
        for number, pairs in sorted(by_document.items()):
            pairs.sort(key=lambda pair: pair[0].idx)
            document = pairs[0][0].doc
            begin = len(requests)
            requests += [request for _, encoded in pairs for request in encoded]
            of_item = slice(begin, len(requests))
            if not chooses:
                outputs = tuple(Query(cast(Kind, instance.request_type), len(encoded)) for instance, encoded in pairs)
                items.append(Item(leaf_index, number, document, (), 0, of_item, outputs))
                continue
            try:
                gold = _gold(leaf, document)
            except ItemError as fault:
                gold = ()
                faults.append(f"task {leaf.task_name}, item {number}: {fault}")
            items.append(Item(leaf_index, number, document, gold, len(leaf.doc_to_choice(document)), of_item))
        if faults and not (shipped or _ships(leaf) or scores_itself(leaf)):
            others = f"; {len(faults)} of its {len(by_document)} items have this fault" if len(faults) > 1 else ""
            raise UserError(f"{faults[0]}{others}")
        leaf._instances = None  # `requests` holds all that is needed, in a fraction of the memory
        remember(leaf)
    return items, requests


def _ships(leaf: Leaf) -> bool:
    """Return whether a leaf was built from a file that comes with the harness."""
    source = (leaf.get_config("metadata") or {}).get("config_source", "inline")
    return source != "inline" and ships_with_harness(source)


def _fault(leaf: Leaf, document: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a document for which the harness raised an error; None if that is unknown."""
    if output_type(leaf) != "multiple_choice":
        return None
    try:
        _gold(leaf, document)
        empty = [number for number, choice in enumerate(leaf.doc_to_choice(document)) if not choice]
    except ItemError as fault:
        return str(fault)
    except Exception:
        return None
    return f"choice {empty[0]} is empty" if empty else None


def _gold(leaf: Leaf, document: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the indices of the right choices, as the harness reads them; raise ItemError if the answer names none."""
    choices = leaf.doc_to_choice(document)
    if not isinstance(choices, (list, tuple)) or not all(isinstance(choice, str) for choice in choices):
        raise ItemError(f"its choices are not a list of texts: {_shortened(choices)}")
    answer = leaf.doc_to_text(document) if getattr(leaf, "multiple_input", 0) else leaf.doc_to_target(document)
    if not isinstance(answer, list):
        return (_choice_index(choices, answer),)
    if not answer:
        raise ItemError("it has no right answer")
    return tuple(_choice_index(choices, alternative) for alternative in answer)


def _choice_index(choices: Sequence[str], answer: Any) -> int:
    """Return the index of the choice that an answer names, either by its text or by its index."""
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    is_integer = isinstance(answer, (int, np.integer))
    if is_integer and 0 <= answer < len(choices):
        return int(answer)
    hint = "; labels count from 0" if is_integer else "; write the choice's text, or its number counted from 0"
    raise ItemError(f"the right answer {_shortened(answer)} is none of the {len(choices)} choices{hint}")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def remember(leaf: Leaf) -> None:
    """Make a task render each document once and reuse the texts for every model that is scored.

    The cache is keyed by `id(document)`. The documents must stay in memory: Python can reuse the id of a freed object.
    """

    def cached(render: Callable[..., Any]) -> Callable[..., Any]:
        texts: dict[int, Any] = {}

        def render_once(document: Any, *arguments: Any) -> Any:
            if arguments:
                return render(document, *arguments)
            if id(document) not in texts:
                texts[id(document)] = render(document)
            return texts[id(document)]

        return render_once

    for name in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        setattr(leaf, name, cached(getattr(leaf, name)))
