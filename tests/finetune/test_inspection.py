"""What `partune data` finds in rows, and rows that are converted: their tokens stay the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune.data import tokenise
from partune.finetune.inspection import convert, inspect
from partune.finetune.materials import Materials, load_resident
from partune.finetune.model import load_settings
from partune.objectives.settings import study_of
from tests.finetune.rows.test_forms import PEOPLES
from tests.finetune.test_data import CHATML
from tests.support.full import files_of_at_most
from tests.support.tiny import LABELS, make_tickets, write_jsonl

ROWS = [
    {"question": "why?", "answer": "rust", "id": 1},
    {"question": "why?", "answer": "oil", "id": 2},
    {"question": "why?", "answer": "rust", "id": 3},
    {"question": " ", "answer": "", "id": 4},
    {"question": "so?", "answer": "x" * 300, "id": 5},
    {"question": "so?", "answer": "", "id": None},
]


def test_lengths_repetitions_and_what_is_cut_are_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = config.Data(path=str(write_jsonl(tmp_path / "r.jsonl", ROWS)), max_length=150)
    found = inspect(data, tokenizer, count=2)
    assert (found.rows, found.empty, found.same_rows, found.same_prompts, found.cut) == (6, 1, 1, 2, 1)
    lengths = np.sort(tokenise(data, tokenizer).lengths)
    assert [found.lengths[0], found.lengths[1], found.lengths[-1]] == [lengths[0], lengths[2], lengths[-1]]
    assert found.lengths == sorted(found.lengths)
    (prompt, answer), _ = found.texts
    assert prompt[0].endswith("### Response:\n")
    assert (prompt[1], answer) == (False, ("rust</s>", True))
    assert found.summary["empty_answers"] == 1
    assert found.summary["unused"] == {"id": 5}


def test_rows_are_cut_where_a_study_cuts_them(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, folders: dict[str, Path], task_file: Path
) -> None:
    rows = [{"instruction": "why?", "output": "oil " * count} for count in (10, 100, 300)]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    study = study_of(folders["llama"], path, task_file, None, 0, run={"device": "cpu"})
    materials = Materials(study, lambda dtype: load_resident(study, dtype))
    assert study.data is not None
    materials.prepare()
    base = materials.base("fp32")
    for max_length in (512, 50):
        data = study.data.model_copy(update={"max_length": max_length})
        settings = load_settings(config.Model(path=str(folders["llama"])))
        found = inspect(data, tokenizer, count=0, settings=settings)
        cut = materials.examples(base, max_length, "answer")
        assert (found.cut, found.summary["tokens"]) == (cut.truncated, len(cut.tokens))
        assert found.cut > 0
        assert found.summary["cut_at"] == min(max_length, base.positions)


def test_labels_are_told_as_a_study_would_find_them(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = make_tickets(40)
    data = config.Data(path=str(write_jsonl(tmp_path / "tickets.jsonl", rows)))
    assert inspect(data, tokenizer, count=0).summary["labels"] == [*LABELS]
    assert "labels" not in inspect(data.model_copy(update={"limit": 15}), tokenizer, count=0).summary


def test_without_a_tokenizer_the_rows_are_shown(tmp_path: Path) -> None:
    found = inspect(config.Data(path=str(write_jsonl(tmp_path / "r.jsonl", ROWS))), None, count=1)
    assert (found.texts, found.lengths) == ((), ())
    assert found.first == [{"instruction": "why?", "input": "", "output": "rust"}]
    assert found.summary["unused"] == {"id": 5}
    assert found.summary["fields"] == {"instruction": "question", "output": "answer"}


MORE: dict[str, list[dict[str, Any]]] = {
    "weights.jsonl": [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "weight": 0},
                {"role": "user", "content": "r"},
                {"role": "assistant", "content": "b"},
            ],
            "system": "Be terse.",
        }
    ],
    "prompted.jsonl": [
        {
            "prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "completion": [{"role": "assistant", "content": "b"}],
        }
    ],
    "history.jsonl": [
        {"instruction": "a", "output": "b", "system": "s", "history": [["c", "d"]]},
        {"output": "", "instruction": ""},
    ],
    "transcripts.jsonl": [{"chosen": "H: why?\n\nA: Rust.", "rejected": "H: why?\n\nA: Oil."}],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PEOPLES, *MORE])
def test_converted_rows_have_the_same_tokens(name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    settings: dict[str, Any] = {}
    if name in MORE:
        write_jsonl(tmp_path / name, MORE[name])
    else:
        write, settings, _, _ = PEOPLES[name]
        write(tmp_path / name)
    data = config.Data(path=str(tmp_path / name), chat_template=CHATML, **settings)
    expected = tokenise(data, tokenizer)
    written = convert(data, str(tmp_path / "converted.jsonl"))
    assert written == {"rows": expected.rows - expected.empty, "empty": expected.empty}
    found = tokenise(config.Data(path=str(tmp_path / "converted.jsonl"), chat_template=CHATML), tokenizer)
    assert found.digest == expected.digest
    assert found.form == expected.form
    assert "unused" not in found.summary
    assert found.summary.get("untrained") == expected.summary.get("untrained")


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", ROWS)
    with pytest.raises(UserError, match="exists already and is never overwritten"):
        convert(config.Data(path=str(path)), str(path))
    with pytest.raises(UserError, match="cannot write"):
        convert(config.Data(path=str(path)), str(tmp_path / "none" / "rows.jsonl"))
    assert json.loads(path.read_text().splitlines()[0]) == ROWS[0]


def test_a_disk_that_fills_up_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"instruction": "Go on.", "output": "word " * 2000}] * 20)
    with files_of_at_most(100_000), pytest.raises(UserError, match=r"cannot write .*converted\.jsonl: "):
        convert(config.Data(path=str(path)), str(tmp_path / "converted.jsonl"))
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]
    convert(config.Data(path=str(path)), str(tmp_path / "converted.jsonl"))
    assert len((tmp_path / "converted.jsonl").read_text().splitlines()) == 20
