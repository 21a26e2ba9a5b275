"""Look for the items that models are scored on among the rows that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from partune import config
from partune.errors import UserError
from partune.finetune.contamination import Item, Seen, TrainingTexts, item_of
from partune.finetune.rows.files import read
from partune.finetune.rows.forms import normalise
from partune.finetune.scoring.base import Task
from partune.finetune.scoring.harness_task import HarnessTask

Found = Sequence[Seen] | str  # what was found in training data, or why these cannot be read


def find_seen(training: Sequence[config.Data], tasks: Sequence[Task], rows: config.Data | None) -> list[Found]:
    """Return for each of several training data which scored items occur in it.

    Args:
        training: The training data of the models, each section `data` of a study.
        tasks: The tasks that models are scored on.
        rows: The rows that models are scored on; None for tasks.
    """
    if not training:
        return []
    scored = _items(tasks, rows)
    return [_find(data, scored, whole=rows is not None) for data in training]


def _items(tasks: Sequence[Task], rows: config.Data | None) -> dict[str, list[Item]]:
    """Return the texts of the items by the name of the task, or of the file of rows."""
    if rows is None:
        return {task.name: [Item(*pair) for pair in task.texts()] for task in tasks if isinstance(task, HarnessTask)}
    read_rows = normalise(rows, read(rows).rows)
    name = Path(rows.path).name if Path(rows.path).exists() else rows.path
    return {name: [item_of(row, read_rows.form) for _, row in read_rows.rows]}


def _find(data: config.Data, scored: dict[str, list[Item]], whole: bool) -> Found:
    """Return which items occur in training data, or why it cannot be read."""
    try:
        trained = normalise(data, read(data).rows)
    except UserError as error:
        return str(error)
    texts = TrainingTexts(trained.rows, trained.form)
    return [texts.find(name, items, whole) for name, items in scored.items()]
