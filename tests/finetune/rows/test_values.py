"""Broken characters are named with their row and field."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from partune import config
from partune.finetune.rows.files import read_rows
from partune.finetune.rows.forms import normalise
from partune.finetune.rows.values import Places
from tests.finetune.rows.test_forms import ANSWER, ROW, USER, refusal


def test_rows_are_counted_within_their_file() -> None:
    """As many files as one likes: each row is in the file that its number among all rows falls into."""
    places = Places("a.csv,b.csv,c.csv", (("a.csv", 2), ("b.csv", 0), ("c.csv", 3)))
    expected = ["a.csv, row 1", "a.csv, row 2", "c.csv, row 1", "c.csv, row 2", "c.csv, row 3"]
    assert [places.of(number) for number in range(1, 6)] == expected
    assert [places.file(number) for number in (2, 3)] == ["a.csv", "c.csv"]
    assert Places("a.csv", (("/data/a.csv", 9),)).of(7) == "a.csv, row 7"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (r'{"instruction": "a", "output": "x\ud800y"}', r"""row 2: "output" has a broken character, '\ud800'"""),
        (r'{"instruction": "a\udfff", "output": "x"}', r"""row 2: "instruction" has a broken character, '\udfff'"""),
        (r'{"instruction": "a", "output": "x\u0000"}', r"""row 2: "output" has a broken character, '\x00' (NUL)"""),
        (r'{"instruction": "a", "output": "b", "history": [["\ud800", "d"]]}', 'row 2: "history" has a broken'),
    ],
)
def test_broken_characters_are_named_with_their_row(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(ROW)}\n{row}\n")
    assert message in refusal(tmp_path / "rows.jsonl")


def test_broken_characters_are_found_however_deep(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": ["\ud800"]}}}
    messages = [USER, {**ANSWER, "tool_calls": [call]}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}))
    assert 'row 1: "message 2" has a broken character' in refusal(tmp_path / "rows.jsonl")


def test_whole_pairs_and_separators_are_texts_as_any(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(r'{"instruction": "\ud83d\ude42", "output": "a\u2028b\ufeff"}')
    data = config.Data(path=str(tmp_path / "rows.jsonl"))
    ((_, row),) = normalise(data, read_rows(data)).rows
    assert (row["instruction"], row["output"]) == ("🙂", "a\u2028b\ufeff")


def test_a_broken_name_of_a_file_or_field_is_written_as_an_escape(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jsonl"))
    path.write_text(r'{"instr\ud800": "x"}')
    assert r"bad\udcff.jsonl has the columns instr\ud800: say which is which" in refusal(path)
