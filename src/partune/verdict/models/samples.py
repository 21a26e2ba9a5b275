"""Read the scores of a model's answers that lm-evaluation-harness ("the harness") writes with `--log_samples`.

One run of the harness writes two kinds of files with the same date into a folder of the model:

    samples_TASK_DATE.jsonl    for each filter and each document of a task, one line with the answer and its scores
    results_DATE.json          the aggregated scores, and how the tasks were run

With `--output_path NAME.json`, the second file is called NAME_DATE.json. The harness itself is not needed to read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from partune.errors import UserError, reason, shown
from partune.runtime.paths import as_path, suggestion_beside

DATE = r"(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)"
SAMPLES = re.compile(rf"samples_(?P<task>.+)_{DATE}\.jsonl")
RESULTS = re.compile(rf".+_{DATE}\.json")
UNNAMED = "samples"  # the task's name for a renamed file, whose name does not contain the task
OWN_KEYS = {  # the keys of a sample that are not scores, for old files that do not list the scores
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash",
}  # fmt: skip
COMMAND = "`lm_eval --log_samples --output_path FOLDER`"
ADVICE = f"score the model again with {COMMAND}"


@dataclass(frozen=True)
class Sample:
    """A model's answer to one document.

    Attributes:
        number: The index of the document in the task.
        document: The hash of the document.
        prompt: The hash of the text that the model was shown.
        target: The hash of the right answer.
        scores: The value of each metric, as it is in the file.
    """

    number: int
    document: str
    prompt: str
    target: str
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class TaskSamples:
    """A model's answers to one task.

    Attributes:
        task: The name of the task.
        path: The file.
        filters: For each of the task's filters, the samples with its answers.
        results: The contents of the results file of the same run; empty if there is none.
    """

    task: str
    path: Path
    filters: Mapping[str, Sequence[Sample]]
    results: Mapping[str, Any] = field(default_factory=dict)

    def setting(self, *keys: str) -> Any:
        """Return an entry of the results file, by the keys that lead to it; None if it is not there."""
        return entry(self.results, *keys)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics that some sample has, in the order of the file."""
        return tuple(dict.fromkeys(name for kept in self.filters.values() for each in kept for name in each.scores))


@dataclass(frozen=True)
class ModelSamples:
    """One model's answers to its tasks.

    Attributes:
        path: The folder or file that the user named.
        tasks: The answers by the name of the task.
    """

    path: Path
    tasks: Mapping[str, TaskSamples]

    @property
    def model(self) -> str | None:
        """The name of the model in the results file; None if it is not there."""
        names = {str(name) for task in self.tasks.values() if (name := task.setting("model_name"))}
        return names.pop() if len(names) == 1 else None

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The tasks (leaves) of each group with a score in the results file and with samples of all leaves."""
        found: dict[str, tuple[str, ...]] = {}
        for task in self.tasks.values():
            members, scored = task.setting("group_subtasks"), task.setting("groups")
            if isinstance(members, Mapping) and isinstance(scored, Mapping):
                for name in scored:
                    leaves = tuple(dict.fromkeys(_leaves(name, members, ())))
                    if leaves and all(leaf in self.tasks for leaf in leaves):
                        found[name] = leaves
        return found


def entry(data: Any, *keys: str) -> Any:
    """Return an entry of nested mappings, by the keys that lead to it; None if it is not there.

    Args:
        data: The mappings.
        *keys: The keys.
    """
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _leaves(name: str, members: Mapping[str, Any], within: tuple[str, ...]) -> Iterator[str]:
    """Yield the tasks of a group and of the groups in it."""
    inner = members.get(name)
    if not isinstance(inner, list) or not inner:
        yield name
        return
    for each in inner:
        if isinstance(each, str) and each not in within:
            yield from _leaves(each, members, (*within, name))


def read(place: str | Path) -> ModelSamples:
    """Read the answers of one run of a model.

    Args:
        place: The folder that the harness wrote to, a samples file, or a results file, which names the samples with the
            same date.

    Raises:
        UserError: There are no samples, the samples are those of several runs or models, or a file is damaged.
    """
    path = as_path(place)
    files = _files(path)
    tasks: dict[str, TaskSamples] = {}
    headers: dict[Path, Mapping[str, Any]] = {}
    for file in files:
        named = SAMPLES.fullmatch(file.name)
        task = named["task"] if named else UNNAMED
        if task in tasks:
            both = f"{tasks[task].path.name} and {file.name}"
            raise UserError(
                f"{path} has two runs of task {task}: {both}; name the results_*.json of one of them instead"
            )
        header = _header(file, named["date"]) if named else None
        if header is not None and header not in headers:
            headers[header] = _json(header)
        tasks[task] = TaskSamples(task, file, _samples(file), headers[header] if header else {})
    return ModelSamples(path, tasks)


def _files(path: Path) -> list[Path]:
    """Return the samples files that a path names."""
    if path.is_file():
        if path.suffix != ".json":
            return [path]
        dated = RESULTS.fullmatch(path.name)
        files = [] if dated is None else sorted(path.parent.glob(f"samples_*_{dated['date']}.jsonl"))
        if not files:
            raise UserError(f"beside {path} there are no samples_*.jsonl with the same date; {ADVICE}")
        return files
    if not path.is_dir():
        raise UserError(f"{path} does not exist{suggestion_beside(path)}")
    files = sorted(file for file in path.rglob("samples_*.jsonl") if SAMPLES.fullmatch(file.name) and file.is_file())
    if not files:
        raise UserError(f"{path} has no samples_*.jsonl of lm-evaluation-harness; score the model with {COMMAND}")
    folders = sorted({file.parent for file in files})
    if len(folders) > 1:
        several = ", ".join(str(folder.relative_to(path)) for folder in folders[:4])
        raise UserError(f"{path} has the samples of several models ({several}): name the folder of one of them")
    return files


def _header(file: Path, date: str) -> Path | None:
    """Return the results file of the run that wrote a samples file; None if there is none."""
    files = sorted(file.parent.glob(f"*_{date}.json"))
    return next((each for each in files if each.name.startswith("results_")), files[0] if files else None)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({reason(error)}); {ADVICE}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a results file of lm-evaluation-harness: it holds no mapping")
    return data


def _samples(path: Path) -> dict[str, list[Sample]]:
    """Read a samples file.

    Raises:
        UserError: The file cannot be read, a line is not a sample, or a document occurs twice.
    """
    filters: dict[str, list[Sample]] = {}
    seen: set[tuple[str, int]] = set()
    for number, data in _lines(path):
        name, sample = str(data.get("filter", "none")), _sample(data, f"{path}, line {number}")
        if (name, sample.number) in seen:
            raise UserError(
                f"{path}, line {number}: doc_id {sample.number} is there twice (filter {name}), as if two runs had "
                f"written to this file; {ADVICE}"
            )
        seen.add((name, sample.number))
        filters.setdefault(name, []).append(sample)
    if not filters:
        raise UserError(f"{path} is empty; {ADVICE}")
    return filters


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the data of each line that is not blank."""
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parsed(line, f"{path}, line {number}")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason} after line {number})") from None


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        detail = error.msg if isinstance(error, json.JSONDecodeError) else reason(error)
        raise UserError(f"{place}: broken JSON ({detail}); the file may be cut off: {ADVICE}") from None
    if not isinstance(data, dict):
        raise UserError(f"{place}: not a sample of lm-evaluation-harness, got {shown(data)}")
    return data


def _sample(data: Mapping[str, Any], place: str) -> Sample:
    hashes = [data.get(key) for key in ("doc_hash", "prompt_hash", "target_hash")]
    number = data.get("doc_id")
    if not isinstance(number, int) or not all(isinstance(text, str) for text in hashes):
        lacking = "doc_id" if not isinstance(number, int) else "doc_hash, prompt_hash and target_hash"
        raise UserError(f"{place}: no {lacking}, which pair the items of two models; {ADVICE}")
    listed = data.get("metrics")
    names = listed if isinstance(listed, list) else [key for key in data if key not in OWN_KEYS]
    document, prompt, target = map(str, hashes)
    return Sample(
        number, document, prompt, target, {name: data[name] for name in names if isinstance(name, str) and name in data}
    )
