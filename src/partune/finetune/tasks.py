"""Harness tasks, built once: documents, tokenised requests, and the split of the items.

A task is a name that lm-evaluation-harness knows, or a local YAML file. A group's subtasks (leaves) are pooled into one
task, with the weights that the group asks for.
"""

from __future__ import annotations

import difflib
import functools
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from partune.errors import UserError, suggestion
from partune.finetune.isolation import one_line, quiet
from partune.finetune.model import near

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


@dataclass(frozen=True)
class Item:
    """One document of a task with its requests: first the choices' continuations, then what else the task asks for.

    leaf: index of its subtask; number: its place there; gold: the right choices; requests: slice of the task's.
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

    leaves: the harness's task objects; by_size: whether subtasks weigh by their number of items, or equally.
    """

    name: str
    leaves: tuple[HarnessTask, ...]
    by_size: bool
    items: tuple[Item, ...]
    requests: tuple[Request, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The task's own metrics that are means over items and that all leaves have."""
        from lm_eval.api.metrics import mean

        means = [[name for name, how in leaf.aggregation().items() if how is mean] for leaf in self.leaves]
        return tuple(name for name in means[0] if all(name in names for names in means))

    def split(self, seed: int, verdict_share: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Indices of the search items and of the verdict items, each in the items' order.

        A function of the seed, the leaves' names and sizes alone; every leaf gives its share of verdict items.
        """
        search: list[int] = []
        verdict: list[int] = []
        for place, leaf in enumerate(self.leaves):
            own = [i for i, item in enumerate(self.items) if item.leaf == place]
            order = np.random.default_rng([seed, zlib.crc32(leaf.task_name.encode()), len(own)]).permutation(own)
            cut = min(max(round(verdict_share * len(own)), 1), len(own) - 1)
            verdict += order[:cut].tolist()
            search += order[cut:].tolist()
        if not verdict:
            raise UserError(f"task {self.name} has {len(self.items)} items: too few to keep some for the verdict")
        return np.sort(np.array(search, np.int64)), np.sort(np.array(verdict, np.int64))


class Loader:
    """Finds and builds tasks. The harness's own index takes long, and is built only where a group or a tag is named."""

    def __init__(self) -> None:
        self._own: TaskManager | None = None

    def load(self, name: str, encode: Encode, limit: int | None = None, fewshot: int | None = None) -> Task:
        """The task of a name or a YAML file, its first `limit` documents of each leaf; raises UserError."""
        with quiet(), compiled_once():
            label, leaves, by_size = self._build(name)
            for leaf in leaves:
                _check(name, leaf)
                _set_fewshot(leaf, fewshot)
            try:
                for leaf in leaves:
                    leaf.build_all_requests(limit=limit, rank=0, world_size=1)
                items, requests = _items(leaves, encode)
            except Exception as error:
                raise UserError(f"task {name}: its requests cannot be built: {one_line(error)}") from None
        return Task(label, tuple(leaves), by_size, tuple(items), tuple(requests))

    def _build(self, name: str) -> tuple[str, list[HarnessTask], bool]:
        """A task's label, its leaves, and whether they weigh by size."""
        path = check_file(name) or find_own(name)
        try:
            if path is not None:
                label, loaded = _load_file(path)
            else:
                label, loaded = name, self._manager(name).load([name])
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"task {name} cannot be loaded: {one_line(error)}") from None
        group = loaded.get("groups", {}).get(label)
        weights = {each.weight_by_size for each in group.aggregate_metric_list or ()} if group else set()
        return label, list(loaded["tasks"].values()), weights != {False}

    def _manager(self, name: str) -> TaskManager:
        from lm_eval.tasks import TaskManager

        if self._own is None:
            self._own = TaskManager()
        known = self._own.all_tasks
        if name not in known:
            offer = suggestion(name, difflib.get_close_matches(name, known, n=1))
            raise UserError(f'no task "{name}"{offer or "; give a task of lm-evaluation-harness or a YAML file"}')
        return self._own


def distinct(requests: Sequence[Request]) -> tuple[list[Request], list[int]]:
    """Return requests without those whose tokens came before, and for every request the place of its own among them.

    Computed once, equal choices have equal likelihoods: in a tree or a batch, rounding would tell them apart.
    """
    kept: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    asked: list[Request] = []
    places = []
    for request in requests:
        place = kept.setdefault((tuple(request[1]), tuple(request[2])), len(asked))
        if place == len(asked):
            asked.append(request)
        places.append(place)
    return asked, places


def check_file(name: str) -> Path | None:
    """The file that a task's name means, None for a name of the harness; raises UserError where it is not there."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or path.is_absolute() or name.startswith((".", "~")):
        raise UserError(f"no task file {name}{near(path)}")
    return None


def find_own(name: str) -> Path | None:
    """The file in which the harness defines a plain task, found by its text: parsing all of its files takes long."""
    import lm_eval.tasks

    line = re.compile(rf"""^["']?task["']?:[ \t]*["']?{re.escape(name)}["']?[ \t]*$""", re.MULTILINE)
    root = Path(lm_eval.tasks.__file__).parent
    files = sorted(root.glob("**/*.yaml"), key=Path.as_posix)  # the harness's order: the first one counts
    return next((path for path in files if line.search(path.read_text(encoding="utf-8", errors="replace"))), None)


def _load_file(path: Path) -> tuple[str, Any]:
    """The label and the harness's loaded tasks of a YAML file; a group finds its subtasks in the file's folder."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        settings = load_yaml(path)
    except Exception as error:
        raise UserError(f"task file {path} cannot be read: {one_line(error)}") from None
    label = settings.get("group") or settings.get("task")
    if not isinstance(label, str):
        raise UserError(f"{path} is no task: it has neither task nor group")
    if "group" not in settings:
        return label, TaskManager(include_defaults=False).load([_anchored(settings, path)])
    manager = TaskManager(include_defaults=False, include_path=str(path.parent))
    for entry in manager.task_index.values():
        if entry.yaml_path is not None:
            entry.cfg = _anchored(load_yaml(entry.yaml_path), entry.yaml_path)
            entry.yaml_path = None  # built from `cfg`, then
    return label, manager.load([label])


def _anchored(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """The task's settings with data files relative to its YAML file, where they are there.

    The harness takes them from the working directory.
    """

    def anchor(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: anchor(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [anchor(each) for each in value]
        beside = path.resolve().parent / str(value)
        return str(beside) if beside.exists() else value

    options = settings.get("dataset_kwargs")
    if not isinstance(options, Mapping) or "data_files" not in options:
        return settings
    return {**settings, "dataset_kwargs": {**options, "data_files": anchor(options["data_files"])}}


def _check(name: str, leaf: HarnessTask) -> None:
    """Raises UserError where a task is not one of choices, or would filter the model's answers."""
    kind = leaf.get_config("output_type") or leaf.OUTPUT_TYPE
    if kind != "multiple_choice":
        raise UserError(f"task {name}: {leaf.task_name} is of type {kind}; only multiple_choice can be scored so far")
    if leaf.get_config("filter_list"):
        raise UserError(f"task {name}: {leaf.task_name} has a filter_list, which tasks of choices cannot have here")


def _set_fewshot(leaf: HarnessTask, fewshot: int | None) -> None:
    """The number of examples shown, by the harness's rule: a task that sets 0 keeps it."""
    own = leaf.get_config("num_fewshot")
    if own is None or (fewshot is not None and own != 0):
        leaf.set_config("num_fewshot", fewshot or 0)
    leaf.set_fewshot_seed(FEWSHOT_SEED)


def _items(leaves: Sequence[HarnessTask], encode: Encode) -> tuple[list[Item], list[Request]]:
    items: list[Item] = []
    requests: list[Request] = []
    for place, leaf in enumerate(leaves):
        by_document: dict[int, list[tuple[Any, Request]]] = {}
        for instance, request in zip(leaf.instances, encode(leaf.instances), strict=True):
            by_document.setdefault(instance.doc_id, []).append((instance, request))
        for number, pairs in sorted(by_document.items()):
            pairs.sort(key=lambda pair: pair[0].idx)
            document = pairs[0][0].doc
            place_of = slice(len(requests), len(requests) + len(pairs))
            requests += [request for _, request in pairs]
            items.append(
                Item(place, number, document, _gold(leaf, document), len(leaf.doc_to_choice(document)), place_of)
            )
        leaf._instances = None  # what is needed of them is in `requests`
        remember(leaf)
    return items, requests


def _gold(leaf: HarnessTask, document: Mapping[str, Any]) -> tuple[int, ...]:
    """The right choices; none where the document does not say."""
    choices = leaf.doc_to_choice(document)
    gold = leaf.doc_to_text(document) if getattr(leaf, "multiple_input", 0) else leaf.doc_to_target(document)
    found = [choices.index(each) if each in choices else each for each in (gold if isinstance(gold, list) else [gold])]
    return tuple(each for each in found if isinstance(each, int) and 0 <= each < len(choices))


def remember(leaf: HarnessTask) -> None:
    """Makes a task render what it says of a document once, not again for every model that is scored on it.

    The documents have to stay: they are known by their identity.
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


@contextmanager
def compiled_once() -> Iterator[None]:
    """Within, the harness compiles a template when it first meets it, not once more for every document."""
    from lm_eval.utils import env

    env.from_string = functools.cache(env.from_string)
    try:
        yield
    finally:
        del env.from_string  # the class's own again
