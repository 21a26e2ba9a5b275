"""Show how training data are read, without a study: their format, examples, lengths, duplicates; and convert them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from partune import config
from partune.errors import UserError
from partune.finetune.contamination import Item, Seen, TrainingTexts, item_of
from partune.finetune.data import Examples, cut_entries, tokenise
from partune.finetune.model import UNLIMITED, context_of, positions_of
from partune.finetune.reading import is_empty, reading_of
from partune.finetune.rows.files import find_files, read
from partune.finetune.rows.forms import Rows, normalise
from partune.finetune.rows.values import Row
from partune.runtime.disk import write_whole
from partune.runtime.paths import as_path

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from partune.finetune.scoring.base import Request

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Inspection:
    """A description of training data.

    Attributes:
        summary: The format, the counts and the use of the columns, as a study records them.
        rows: The number of rows.
        empty: The number of rows without any text.
        same_rows: The number of rows that repeat an earlier row.
        same_prompts: The number of rows that repeat the prompt of an earlier row, with another answer.
        first: The first rows, in the form in which they are trained on.
        texts: The first examples as the model reads them, each in parts: a text, and whether it is trained on. Empty
            without a tokenizer.
        lengths: The quantiles of the numbers of tokens: the shortest, the median, 90 %, 99 %, the longest.
        cut: The number of examples that are cut, because they are longer than `max_length` or the model's context.
        counts: The number of examples by their number of tokens.
        seen: For the validation rows and for each task, how many of the items also occur among the rows.
        validation: The same description of the file with validation rows; None if there is no such file.
    """

    summary: Mapping[str, Any]
    rows: int
    empty: int
    same_rows: int
    same_prompts: int
    first: Sequence[Row]
    texts: Sequence[Sequence[tuple[str, bool]]] = ()
    lengths: Sequence[int] = ()
    cut: int = 0
    counts: Mapping[int, int] = field(default_factory=dict)
    seen: Sequence[Seen] = ()
    validation: Inspection | None = None


def inspect(
    data: config.Data,
    tokenizer: PreTrainedTokenizerBase | None,
    count: int,
    validation: config.Validation | None = None,
    test: config.Test | None = None,
    settings: PretrainedConfig | None = None,
) -> Inspection:
    """Read data and describe them.

    Args:
        data: Section `data` of a study.
        tokenizer: The base model's tokenizer; None to describe the rows only.
        count: The number of rows to show.
        validation: Section `validation`, with rows or tasks to look for in the data; None for none.
        test: Section `test`, with tasks to look for in the data; None for none.
        settings: The base model's configuration, which says how many tokens it can read; None for no limit.

    Raises:
        UserError: The data, the validation rows or a task cannot be read.
    """
    from partune.finetune.scoring.definitions import check_file

    validation, test = validation or config.Validation(), test or config.Test()
    for name in (*validation.tasks, *test.tasks):
        check_file(name)
    more = None if validation.data is None else data.model_copy(update={"path": validation.data, "limit": None})
    if more is not None:
        find_files(more)
    rows, examples, found = _read(data, tokenizer, count)
    held, others, scored = (None, None, None) if more is None else _read(more, tokenizer, 0)
    found = dataclasses.replace(found, seen=list(_find_seen(rows, held, validation, test)))
    if tokenizer is not None and examples is not None:
        from partune.finetune.scoring.row_labels import evident_labels

        labels = evident_labels(examples, tokenizer)
        positions = UNLIMITED if settings is None else positions_of(settings)
        limit = cut_entries(data.max_length, positions)
        cut = examples.cut(limit["cut_at"], data.loss_on)
        named = {} if labels is None else {"labels": labels.named(tokenizer)}
        texts = [list(_parts(cut, i, tokenizer)) for i in range(min(count, len(cut)))]
        found = dataclasses.replace(_measured(found, examples, cut, {**limit, **named}), texts=texts)
        if others is not None and scored is not None:
            readable = positions if settings is None else min(positions, context_of(settings, tokenizer))
            limit = cut_entries(data.max_length, readable)
            if labels is None or labels.among(others) is None:
                entries = limit if labels is None else {**limit, "other_answers": True}
                scored = _measured(scored, others, others.cut(limit["cut_at"], data.loss_on), entries)
            else:  # labels are scored after the whole prompt
                scored = _measured(scored, others, others, {})
    return dataclasses.replace(found, validation=scored)


def _read(
    data: config.Data, tokenizer: PreTrainedTokenizerBase | None, count: int
) -> tuple[Rows, Examples | None, Inspection]:
    """Return the rows of data, their examples if there is a tokenizer, and a description without lengths."""
    source = read(data)
    rows = normalise(data, source.rows, source.places)
    plain = [row for _, row in rows.rows]
    distinct = {_key(row) for row in plain}
    prompts = Counter(key for key in ((_prompt_key(row, rows.form), _key(row)) for row in plain) if key[0] is not None)
    repeated = len(prompts) - len({prompt for prompt, _ in prompts})
    examples = None if tokenizer is None else tokenise(data, tokenizer, source)
    found = Inspection(
        summary={"format": rows.form, **(reading_of(rows, source) if examples is None else examples.summary)},
        rows=len(plain),
        empty=sum(is_empty(row, rows.form) for row in plain),
        same_rows=len(plain) - len(distinct),
        same_prompts=repeated,
        first=[_written(row) for row in plain[:count]],
    )
    return rows, examples, found


def _measured(found: Inspection, examples: Examples, cut: Examples, entries: Mapping[str, Any]) -> Inspection:
    """Return a description with the lengths of the examples, and with what a study would cut.

    Args:
        found: The description.
        examples: The examples at full length.
        cut: The examples as a study would read them.
        entries: Further entries of the summary.
    """
    return dataclasses.replace(
        found,
        summary={**cut.summary, **entries},
        lengths=[int(value) for value in np.quantile(examples.lengths, QUANTILES, method="inverted_cdf")],
        cut=cut.truncated,
        counts=dict(sorted(Counter(examples.lengths.tolist()).items())),
    )


def _find_seen(rows: Rows, held: Rows | None, validation: config.Validation, test: config.Test) -> Iterator[Seen]:
    """Look for validation rows and the items of tasks among the rows of the data.

    Args:
        rows: The rows of the data.
        held: The rows of the validation file; None if there is no such file.
        validation: Section `validation` of a study.
        test: Section `test` of a study.
    """
    tasks = (*validation.tasks, *test.tasks)
    if not tasks and held is None:
        return
    texts = TrainingTexts(rows.rows, rows.form)
    if held is not None:
        yield texts.find("validation rows", [item_of(row, held.form) for _, row in held.rows], whole=True)
    if tasks:
        from partune.finetune.scoring.tasks import Loader

        loader = Loader()
        for name in tasks:
            task = loader.load(name, _without_tokens, trusted=validation.trust_task_code, unsafe=True)
            yield texts.find(task.name, [Item(prompt, fields) for prompt, fields in task.texts()])


def _without_tokens(instances: Sequence[Any]) -> list[list[Request]]:
    """Return a task's requests as texts, without their tokens."""
    return [[((str(instance.args[0]), ""), [], [])] for instance in instances]


def convert(data: config.Data, out: str) -> Mapping[str, int]:
    """Write the rows that are trained on as JSON Lines, with the usual names of the fields.

    Args:
        data: Section `data` of a study.
        out: The path of the file, which must not exist.

    Returns:
        The number of rows written, and the number of empty rows left out.

    Raises:
        UserError: The data cannot be read, or the file cannot be written.
    """
    source = read(data)
    rows = normalise(data, source.rows, source.places)
    kept = [_written(row) for _, row in rows.rows if not is_empty(row, rows.form)]
    path = as_path(out)
    if os.path.lexists(path):
        raise UserError(f"{path} exists already and is never overwritten: choose another name with `--write`")
    write_whole(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in kept))
    return {"rows": len(kept), "empty": len(rows.rows) - len(kept)}


def _written(row: Row) -> Row:
    """Return a row with the usual names of its form; messages that are not trained on have the weight 0."""
    if "messages" not in row:
        always = ("instruction", "input", "output", "prompt", "completion", "text")
        return {name: value for name, value in row.items() if value or name in always}
    messages = [
        {**message, "weight": 0} if index in row["untrained"] else message
        for index, message in enumerate(row["messages"])
    ]
    return {**{name: value for name, value in row.items() if name != "untrained"}, "messages": messages}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _prompt_key(row: Row, form: str) -> str | None:
    """Return a key that is equal for rows with the same prompt; None if there is no prompt."""
    match form:
        case "alpaca":
            return _key({name: value for name, value in row.items() if name != "output"})
        case "completion":
            return _key(row["prompt"])
        case "chat":
            answers = [i for i, message in enumerate(row["messages"]) if message["role"] == "assistant"]
            return _key(row["messages"][: answers[-1]]) if answers else None
    return None


def _parts(examples: Examples, i: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """Yield the text of an example in parts that are trained on or not."""
    tokens, trained = examples.example(i)
    borders = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(tokens)]
    for start, end in itertools.pairwise(borders):
        yield tokenizer.decode(tokens[start:end]), bool(trained[start])
