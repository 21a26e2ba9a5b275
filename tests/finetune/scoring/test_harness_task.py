"""Tasks of the harness: the mean over items, and answers of every kind against the harness's own evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from partune import config
from partune.finetune.model import Base
from partune.finetune.scoring.harness_task import HarnessTask
from partune.finetune.scoring.scores import Scorer
from tests.support.tiny import make_items, write_task


def test_unequal_groups_and_unknown_items_are_aggregated(base: Base, task_file: Path) -> None:
    part = Scorer(base, config.Validation(tasks=(str(task_file),)), config.Test(), 0).parts[0]
    values = np.arange(15.0)
    values[3] = np.nan
    mean, error = part.task.aggregate(part.indices, values, "acc")
    known = values[~np.isnan(values)]
    assert (mean, error) == pytest.approx((known.mean(), known.std(ddof=1) / math.sqrt(14)))
    assert all(map(math.isnan, part.task.aggregate(part.indices, np.full(15, np.nan), "acc")))


def loaded(base: Base, path: Path) -> HarnessTask:
    (task,) = {
        part.task.name: part.task
        for part in Scorer(base, config.Validation(tasks=(str(path),)), config.Test(), 0).parts
    }.values()
    assert isinstance(task, HarnessTask)
    return task


FREE = """\
generation_kwargs: {max_gen_toks: 5, until: []}
filter_list:
  - {name: words, filter: [{function: regex, regex_pattern: "PATTERN"}, {function: take_first}]}
"""


@pytest.mark.slow
def test_the_digest_covers_how_answers_are_filtered_and_compared(base: Base, tmp_path: Path) -> None:
    digests = set()
    for pattern, ignored in (("(a+)", "true"), ("(b+)", "true"), ("(a+)", "false")):
        path = write_task(tmp_path, "free", make_items(4), metrics=("exact_match",), kind="generate_until")
        text = path.read_text().replace("higher_is_better: true", f"higher_is_better: true, ignore_case: {ignored}")
        path.write_text(text + FREE.replace("PATTERN", pattern))
        digests.add(loaded(base, path).content.digest)
    assert len(digests) == 3


@pytest.mark.slow
def test_a_sample_shows_the_text_of_the_right_answer(base: Base, tmp_path: Path) -> None:
    items = make_items(4)
    path = write_task(tmp_path, "free", items, metrics=("exact_match",), kind="generate_until")
    path.write_text(path.read_text() + FREE.replace("PATTERN", "(a+)"))
    prompt, right = loaded(base, path).sample(1) or ("", "")
    assert prompt == f"Question: {items[1]['question']}\nAnswer:"
    assert right == items[1]["choices"][items[1]["answer"]]
    assert loaded(base, write_task(tmp_path, "plain", items)).sample(1) is None
