"""Which rows of a study are trained on and which score it, by loss or by labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.finetune.scoring.row_losses import RowLosses
from partune.trial import Trial
from partune.trial.names import ROWS
from tests.support.tiny import make_rows, make_tickets, write_jsonl


@pytest.mark.slow
def test_a_study_without_a_task_trains_on_the_other_rows(make: Any, data_file: Path) -> None:
    tuner = make(task=None, validation={"split": 0.25})
    tuner.prepare()
    materials = tuner.engine.materials
    trained, task = materials.loaded.examples, materials.scorer.tasks[0]
    assert isinstance(task, RowLosses)
    assert sorted([*trained.numbers, *task.examples.numbers]) == list(range(1, 41))
    assert 8 <= len(task) <= 12
    found = tuner.evaluate(Trial(0, {"learning_rate": 0.05}))
    assert found.cost["examples"] == len(trained)
    assert (tuner.summary["scoring"]["shown_as"], tuner.summary["scoring"]["metric"]) == ("loss", "loss")
    assert tuner.summary["data"]["validation_rows"] == len(task)
    # The digest is of all rows: the seed of a study decides which of them are held out.
    other = make(task=None, validation={"split": 0.25}, seed=1)
    assert {**tuner.contents} == {**other.contents}
    assert other.engine.materials.loaded.examples.numbers.tolist() != trained.numbers.tolist()


@pytest.mark.slow
def test_validation_rows_may_be_in_a_file_of_their_own(make: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "validation.jsonl", make_rows(12, seed=5))
    tuner = make(task=None, validation={"data": str(path), "limit": 10})
    tuner.prepare()
    materials = tuner.engine.materials
    assert len(materials.loaded.examples) == 40
    assert len(materials.scorer.tasks[0]) == 10
    assert f"the items of task {ROWS}" in tuner.contents
    data = tuner.summary["data"]
    assert not {"validation_twins", "validation_prompts"} & set(data)
    file = data["validation_file"]
    assert (file["name"], file["rows"], file["format"]) == ("validation.jsonl", 10, "alpaca")
    base, zero = tuner.score_base(), tuner.score_zero(Trial(0, tuner.defaults))
    assert tuner.disagreement(base, zero) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (make_rows(1), {}),
        (make_rows(4), {}),  # a tenth of four rows is none
        ([make_rows(1)[0]] * 60, {"validation": {"split": 0.3}}),  # twins stay together
        (make_rows(60), {"validation": {"split": 0.3}, "max_length": 4}),  # no answer within the length
    ],
    ids=["one", "few", "twins", "short"],
)
def test_no_rows_to_score_are_one_line(make: Any, tmp_path: Path, rows: Any, changes: dict[str, Any]) -> None:
    data = {"path": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "max_length": changes.get("max_length", 512)}
    with pytest.raises(UserError, match=r"validation rows are too few \(0\)") as caught:
        make(data=data, task=None, validation=changes.get("validation")).prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_validation_rows_that_are_cut_are_counted(make: Any, data_file: Path) -> None:
    whole = make(task=None, validation={"split": 0.5})
    whole.prepare()
    middle = int(np.median(whole.engine.materials.loaded.held.validation.lengths))
    tuner = make(data={"path": str(data_file), "max_length": middle}, task=None, validation={"split": 0.5})
    data, scored = tuner.summary["data"], tuner.engine.materials
    held = scored.loaded.held.validation
    assert data["validation_cut"] == (held.lengths > middle).sum() > 0
    assert data.get("validation_untrainable", 0) == len(held) - len(scored.scorer.tasks[0])


def test_the_file_of_validation_rows_is_described_as_the_data_are(make: Any, tmp_path: Path) -> None:
    """What is counted in a file does not depend on whether its rows are trained on or scored."""
    rows = [
        *({**row, "topic": "oil"} for row in make_rows(8, seed=5)),
        {"instruction": "Empty?", "output": ""},
        {"instruction": "", "output": ""},
        {"instruction": "Long?", "output": "oil " * 300},
    ]
    path = write_jsonl(tmp_path / "other.jsonl", rows)
    file = make(task=None, validation={"data": str(path)}).summary["data"]["validation_file"]
    trained = make(data=path).summary["data"]
    assert {name: entry for name, entry in file.items() if name != "name"} == trained
    assert (file["empty"], file["truncated"], file["empty_answers"], file["unused"]) == (1, 1, 1, {"topic": 8})


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"split": 0.05}, "the validation rows are too few"),
        ({"limit": 2}, "the validation rows are too few"),
        ({"data": "nowhere.jsonl"}, "no data file nowhere.jsonl"),
    ],
)
def test_bad_validation_rows_are_one_line(make: Any, validation: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(task=None, validation=validation).prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_splits_are_balanced_and_the_loss_may_be_asked_for(make: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "tickets.jsonl", make_tickets(200))
    tuner = make(data=path, task=None, validation={"split": 0.3})
    tuner.prepare()
    search, verdict = tuner.engine.materials.scorer.parts
    counts = [np.bincount(search.task.labels.of_rows[part.indices], minlength=3) for part in (search, verdict)]
    assert (np.abs(counts[0] - counts[1]) <= 2).all()
    other = make(data=path, task=None, validation={"split": 0.3, "metric": "loss"})
    assert other.summary["scoring"]["shown_as"] == "loss"
    own = write_jsonl(tmp_path / "own.jsonl", make_tickets(20, seed=4))
    apart = make(data=path, task=None, validation={"data": str(own)})
    apart.prepare()
    assert len(apart.engine.materials.loaded.examples) == 200
    wrong = write_jsonl(tmp_path / "wrong.jsonl", [*make_tickets(20, seed=4), {"instruction": "a", "output": "water"}])
    with pytest.raises(UserError, match=r"needs rows with the labels of .*tickets.jsonl"):
        make(data=path, task=None, validation={"data": str(wrong), "metric": "acc"}).prepare()
    assert make(data=path, task=None, validation={"data": str(wrong)}).summary["scoring"]["shown_as"] == "loss"


@pytest.mark.slow
def test_each_file_of_rows_is_read_once(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function is given the rows that were tokenised, even if the file changes in between."""
    (tmp_path / "judge_once.py").write_text("def good(row, answer):\n    return len(row['output'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    opened: list[str] = []
    read = Path.read_bytes

    def counted(path: Path) -> bytes:
        opened.append(path.name)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    rows = write_jsonl(tmp_path / "training.jsonl", make_rows(24))
    own = write_jsonl(tmp_path / "own.jsonl", make_rows(12, seed=5))
    for validation, names in (
        ({"data": str(own), "metric": "judge_once:good"}, ["own.jsonl", "training.jsonl"]),
        ({"split": 0.5, "metric": "judge_once:good"}, ["training.jsonl"]),
    ):
        opened.clear()
        make(data=str(rows), task=None, validation=validation).prepare()
        assert sorted(name for name in opened if name.endswith(".jsonl")) == names
