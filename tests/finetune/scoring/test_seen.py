"""Scored items are found in training data, whatever the form of the rows and the names of the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partune import config
from partune.finetune.contamination import Seen
from partune.finetune.scoring.seen import find_seen
from tests.support.tiny import make_rows, write_jsonl


@pytest.fixture
def training(tmp_path: Path) -> config.Data:
    return config.Data(path=str(write_jsonl(tmp_path / "trained.jsonl", make_rows(20))))


def test_rows_of_the_training_file_are_seen(training: config.Data, tmp_path: Path) -> None:
    (found,) = find_seen([training], [], training)
    assert not isinstance(found, str)
    ((seen),) = found
    assert (seen.what, seen.items, seen.same) == ("trained.jsonl", 20, 20)
    fresh = [{"instruction": f"What is {n}?", "output": "Nothing."} for n in range(3)]
    copied = write_jsonl(tmp_path / "other.jsonl", [*fresh, *make_rows(20)[:2]])
    (found,) = find_seen([training], [], config.Data(path=str(copied)))
    assert [(seen.items, seen.same) for seen in found if isinstance(seen, Seen)] == [(5, 2)]


def test_other_forms_of_the_same_rows_are_seen(training: config.Data, tmp_path: Path) -> None:
    pairs = [{"prompt": row["instruction"], "completion": row["output"]} for row in make_rows(20) if not row["input"]]
    found = find_seen([training], [], config.Data(path=str(write_jsonl(tmp_path / "pairs.jsonl", pairs))))
    assert [seen.same for seen in found[0] if isinstance(seen, Seen)] == [len(pairs)]


def test_training_data_that_are_gone_are_said(tmp_path: Path, training: config.Data) -> None:
    gone = config.Data(path=str(tmp_path / "gone.json"))
    first, second = find_seen([gone, training], [], training)
    assert isinstance(first, str)
    assert "gone.json" in first
    assert not isinstance(second, str)
    assert find_seen([], [], training) == []
    (tmp_path / "gone.json").write_text(json.dumps([{"nothing": 1}]))
    assert isinstance(find_seen([gone], [], training)[0], str)
