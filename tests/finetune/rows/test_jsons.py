"""Files of JSON that are damaged in some way are one line that names the place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from partune import config
from partune.finetune.rows.files import read_rows
from tests.finetune.rows.test_forms import ROW, refusal

HOSTILE = {
    "comma.json": (b'[{"instruction": "a", "output": "b"},]', "comma.json is not valid JSON: "),
    "comma.jsonl": (b'{"instruction": "a", "output": "b",}', "comma.jsonl, line 1 is not valid JSON: "),
    "quotes.jsonl": (b"{'instruction': 'a'}", "quotes.jsonl, line 1 is not valid JSON: "),
    "python.jsonl": (b'{"instruction": "a", "output": None}', "python.jsonl, line 1 is not valid JSON: "),
    "two.jsonl": (
        b'{"instruction": "a"}{"output": "b"}',
        "two.jsonl, line 1 is not valid JSON: Extra data at column 21",
    ),
    "one.json": (
        b'{\n"instruction": "a",\n"output": "b"}',
        "one.json is one mapping, not rows: write one row per line",
    ),
    "within.json": (
        b'{\n"data": [{"output": "b"}]}',
        'within.json is one mapping, not rows (its "data" is a list of 1)',
    ),
    "line.json": (
        b'{"data": [{"output": "b"}]}',
        'line.json has the columns data (its "data" is a list of 1): write one row per line',
    ),
    "twice.jsonl": (b'{"output": "a", "output": "b"}', 'line 1 is not valid JSON: the key "output" is given twice'),
    "huge.jsonl": (b'{"output": ' + b"9" * 6000 + b"}", "huge.jsonl, line 1 is not valid JSON: Exceeds the limit"),
    "deep.jsonl": (b'{"a": 1}\n' + b"[" * 100_000, "deep.jsonl, line 2 nests too deeply to be read"),
    "nested.jsonl": (
        b'{"instruction": "a", "output": ' + b"[" * 500 + b"]" * 500 + b"}",
        'row 1: "output" must be text, got [[[',
    ),
    "infinite.jsonl": (b'{"instruction": "a", "output": Infinity}', 'row 1: "output" must be text, got inf'),
    "empty.jsonl": (b"", "empty.jsonl has no rows"),
    "blank.json": (b" \n\n", "blank.json has no rows"),
    "null.json": (b"null", "row 1: a row is a mapping, got NoneType"),
    "lists.json": (b"[[1], [2]]", "row 1: a row is a mapping, got list"),
    "mixed.json": (b'[{"instruction": "a", "output": "b"}, 5]', "row 2: a row is a mapping, got int"),
    "wide.json": ("[]".encode("utf-16"), "line 1, is not UTF-8: byte 0 of the file (it begins like UTF-16"),
    "latin.jsonl": (b'{"output": "a"}\n{"output": "\xe4"}', "latin.jsonl, line 2, is not UTF-8: byte 28 of the file"),
    "marked.jsonl": (b"\xef\xbb\xbf{}\n\xff", "marked.jsonl, line 2, is not UTF-8: byte 6 of the file"),
    "cut.jsonl.gz": (gzip.compress(b'{"output": "b"}')[:-9], "Compressed file ended"),
    "corrupt.json.gz": (gzip.compress(b"{}" * 99)[:12] + b"\xff\x13garbage" * 9, "Error -3 while decompressing"),
    "history.jsonl": (
        b'{"instruction": "a", "output": "b", "history": ["c", "d"]}',
        '"history" must be a list of pairs',
    ),
    "tools.jsonl": (b'{"messages": [], "tools": "weather"}', '"tools" must be a list of mappings, or JSON of one'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_that_names_the_place(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_marks_at_the_beginning_of_joined_files_are_no_part_of_the_data(tmp_path: Path) -> None:
    line = json.dumps(ROW).encode()
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\xef\xbb\xbf" + line + b"\r\n")
    assert read_rows(config.Data(path=str(tmp_path / "rows.jsonl"))) == [ROW, ROW]
