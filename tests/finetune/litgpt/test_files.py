"""Files that LitGPT reads and writes: rows, workplaces of trials, answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partune import config
from partune.errors import UserError
from partune.finetune.litgpt.files import read_answers, read_data, workplace, write_data
from partune.finetune.litgpt.program import StepError


def test_data_are_all_rows_in_alpacas_form(tmp_path: Path) -> None:
    rows = [{"instruction": "é", "output": None, "more": 1}, {"instruction": "b", "input": "c", "output": "d"}] * 2
    folder = write_data(rows, tmp_path / "data")
    train = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    assert (
        train
        == [
            {"instruction": "é", "input": "", "output": ""},
            {"instruction": "b", "input": "c", "output": "d"},
        ]
        * 2
    )
    assert json.loads((folder / "val.json").read_text(encoding="utf-8")) == train[:2]


def test_tables_of_questions_are_alpaca_rows_for_litgpt(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("Question;Answer\nwhy?;007\n;\n")
    rows = read_data(config.Data(path=str(tmp_path / "faq.csv")))
    written = json.loads((write_data(rows, tmp_path / "data") / "train.json").read_text())
    assert written == [{"instruction": "why?", "input": "", "output": "007"}]
    (tmp_path / "texts.csv").write_text("text\nwhy?\n")
    with pytest.raises(UserError, match=r"LitGPT reads Alpaca rows only .*, not text rows"):
        read_data(config.Data(path=str(tmp_path / "texts.csv")))


def test_a_workplace_is_empty_at_first_and_keeps_its_logs(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "left-behind").touch()
    with workplace(tmp_path / "w") as folder:
        assert not list(folder.iterdir())
        (folder / "out").mkdir()
        (folder / "out" / "lit_model.pth").touch()
        (folder / "results-1.json").touch()
        (folder / "evaluate-1.log").write_text("kept")
    assert [path.name for path in folder.iterdir()] == ["evaluate-1.log"]


def test_answers_are_found_by_context_and_continuation(tmp_path: Path) -> None:
    sample = {"arguments": [["a", " b"], ["a", " c"]], "resps": [[[-1.5, True]], [[float("nan"), False]]]}
    (tmp_path / "r.json").write_text(json.dumps({"samples": {"task": [sample]}}))
    found = read_answers(tmp_path / "r.json")
    assert found["a", " b"] == (-1.5, True)
    assert found["a", " c"][0] != found["a", " c"][0]
    for text in ("", "{}", '{"samples": {"task": [{"arguments": [["a"]], "resps": []}]}}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(StepError, match="litgpt evaluate left no samples"):
            read_answers(tmp_path / "r.json")
