"""Tables: a cell is the text that stands there, and a damaged table is one line that names the place."""

from __future__ import annotations

import csv
import datetime
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from partune import config
from partune.errors import UserError
from partune.finetune.rows.files import read, read_rows
from partune.finetune.rows.forms import normalise
from partune.finetune.rows.tables import read_text_table


def rows_of(path: Path, content: bytes, **fields: Any) -> list[dict[str, Any]]:
    path.write_bytes(content)
    return read_rows(config.Data(path=str(path), **fields))


# Cells that pandas or `datasets` would read as something else.
CELLS = ["007", "NA", "NaN", "null", "None", "1e5", "1,000", "TRUE", "2024-01-02", "", " kept ", "#N/A", "-", "1_000"]


def test_cells_stay_the_text_that_stands_there(tmp_path: Path) -> None:
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows([["question", "answer"], *([f"q{i}", cell] for i, cell in enumerate(CELLS))])
    rows = rows_of(tmp_path / "rows.csv", lines.getvalue().encode())
    assert [row["answer"] for row in rows] == CELLS


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, ...]], separator: str, ends: str) -> None:
    """Oracle: Python's csv module. All fields are quoted, so that no text can be taken for a separator."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator=ends)
    writer.writerows([("question", "context", "answer"), *rows])
    found, used = read_text_table(lines.getvalue(), Path("rows.csv"), ",")
    assert [tuple(row.values()) for row in found] == rows
    assert used == separator


@pytest.mark.parametrize(
    ("text", "separator", "rows"),
    [
        ("a,b\n1;2,3\n", ",", [{"a": "1;2", "b": "3"}]),
        ("a;b\n1,5;2\n", ";", [{"a": "1,5", "b": "2"}]),
        ("text\none, two\n" * 1, ",", None),  # one column, and a comma that is not in quotes
        ('text\n"one, two"\n', ",", [{"text": "one, two"}]),
        ("text\none; two\nthree; four\n", ",", [{"text": "one; two"}, {"text": "three; four"}]),
        ("sep=;\r\na;b\r\n1;2\r\n", ";", [{"a": "1", "b": "2"}]),
        ("a,b\n\n1,2\n\n\n3,4", ",", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        ('a,b\n"x\r\ny\n\nz",2\n', ",", [{"a": "x\r\ny\n\nz", "b": "2"}]),
        (",a\n0,x\n1,y\n", ",", [{"Unnamed: 0": "0", "a": "x"}, {"Unnamed: 0": "1", "a": "y"}]),
        (' a , "b"\n1,2\n', ",", [{"a": "1", '"b"': "2"}]),
        ("a,b\n", ",", []),
    ],
)
def test_the_separator_is_that_with_which_all_lines_have_as_many_fields(
    text: str, separator: str, rows: list[dict[str, str]] | None
) -> None:
    if rows is None:
        with pytest.raises(UserError, match=r"line 2, has 2 fields, but the first line names 1 columns"):
            read_text_table(text, Path("rows.csv"), ",")
    else:
        assert read_text_table(text, Path("rows.csv"), ",") == (rows, separator)


HOSTILE = {
    "short.csv": (b"a,b\n1,2\n3\n", "short.csv, line 3, has 1 field, but the first line names 2 columns"),
    "long.csv": (b'a,b\n"1\n2",2\n3,4,5\n', "line 4, has 3 fields, but the first line names 2 columns; put texts that"),
    "open.csv": (b'a,b\n1,2\n"3,4\n5,6\n', "open.csv, line 3, is not valid CSV: a quote is opened there and never"),
    "after.csv": (b'a,b\n"1" x,2\n', "after.csv, line 2, is not valid CSV: ',' expected after '\"'"),
    "twice.csv": (b"a,b,a\n1,2,3\n", 'twice.csv has several columns with the name "a": give each its own name'),
    "latin.csv": ("a,b\nx,Größe\n".encode("latin-1"), "latin.csv, line 2, is not UTF-8: byte 8 of the file (if it is"),
    "excel.csv": ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8: byte 0 of the file (it begins like UTF-16: save it"),
    "nothing.csv": (b"", "nothing.csv has no rows"),
    "header.tsv": (b"text\tlabel\n", "header.tsv has no rows"),
    "nul.csv": (b"text,label\nx\0,1\n", 'nul.csv, row 1: "text" has a broken character'),
    "no.parquet": (b"PAR1 and nothing else", "cannot read"),
    "rows.xlsx": (b"PK", "rows.xlsx is a spreadsheet: save it as a CSV file in UTF-8"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_table_is_one_line_that_names_the_place(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    data = config.Data(path=str(tmp_path / name))
    with pytest.raises(UserError) as caught:
        normalise(data, read_rows(data))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "r.csv", b"\xef\xbb\xbfquestion,answer\na,b\n") == [{"question": "a", "answer": "b"}]


def test_long_cells_are_read_and_the_limit_of_other_readers_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    assert rows_of(tmp_path / "r.csv", f"text,b\n{long},1\n".encode())[0]["text"] == long
    assert csv.field_size_limit() == before


def test_a_separator_that_the_name_does_not_promise_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;label\nx;1\n")
    (tmp_path / "b.csv").write_text("text,label\ny,2\n")
    source = read(config.Data(path=f"{tmp_path}/a.csv,{tmp_path}/b.csv"))
    assert source.rows == [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]
    assert (source.files, source.separators) == (2, ("semicolons",))


# ----- Parquet


def test_parquet_holds_messages_nulls_and_other_types(tmp_path: Path) -> None:
    """Lists of structures have the fields of all messages, filled with nulls; a time is no text and is not used."""
    call = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [
        [
            {"role": "user", "content": "q", "tool_calls": None},
            {"role": "assistant", "content": "a", "tool_calls": None},
        ],
        [
            {"role": "user", "content": "r", "tool_calls": None},
            {"role": "assistant", "content": None, "tool_calls": call},
        ],
    ]
    times = [datetime.datetime(2026, 1, 2), None]
    pq.write_table(pa.table({"messages": messages, "time": times, "id": [1, 2]}), tmp_path / "r.parquet")
    data = config.Data(path=str(tmp_path / "r.parquet"))
    rows = normalise(data, read_rows(data))
    assert rows.rows[0][1]["messages"] == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert rows.rows[1][1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {}
    assert rows.unused == {1: ["time", "id"], 2: ["id"]}


def test_names_of_columns_in_parquet_are_unique(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "r.parquet"
    )
    with pytest.raises(UserError, match='several columns with the name "text"'):
        read_rows(config.Data(path=str(tmp_path / "r.parquet")))


def test_numbers_of_labels_become_their_names(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"])})
    Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features).to_parquet(str(tmp_path / "r.parquet"))
    rows = read_rows(config.Data(path=str(tmp_path / "r.parquet")))
    assert [row["label"] for row in rows] == ["spam", "ham", None]


@pytest.mark.parametrize("text", ['{"a": "b"}\n{"a": "c"}\n', '[{"a": "b"}]', ' [\n {"a": "b"}\n]', '{\n"a": "b"}'])
def test_json_in_a_table_is_refused(tmp_path: Path, text: str) -> None:
    """Its first row would become the names of the columns."""
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(UserError, match=r"rows\.csv contains JSON, not a table: rename it to rows\.jsonl"):
        read_rows(config.Data(path=str(tmp_path / "rows.csv")))
