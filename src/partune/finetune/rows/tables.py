"""Read rows from tables: text with separators (CSV, TSV), and Parquet.

A cell of a text file keeps its text exactly. pandas and `datasets` would read "NA" as a missing value and "007" as 7.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from partune.errors import UserError
from partune.finetune.rows.values import Row
from partune.runtime.failures import one_line

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
LOOKED_AT = 20  # the number of records from which the separator is inferred

_limit = threading.Lock()


def read_text_table(text: str, path: Path, own: str) -> tuple[list[Row], str]:
    """Return the rows of a table in text, and its separator.

    Args:
        text: The text of the file. Its first line has the names of the columns.
        path: The path of the file, for messages.
        own: The separator that the file's name suggests. It is used if it fits the file.

    Raises:
        UserError: The number of fields in a line is not the number of columns, a quote is not closed, or two columns
            have the same name.
    """
    if re.match(r"\s*(\[\s*)?\{\s*\"", text):
        raise UserError(f"{path} contains JSON, not a table: rename it to {path.name.split('.')[0]}.jsonl")
    separator = own
    if text[:4].lower() == "sep=" and text[5:6] in ("\n", "\r"):  # Excel's own way to state it
        separator, text = text[4], text[5:].lstrip("\r\n")
    else:
        separator = _find_separator(text, own)
    records = _records(text, path, separator)
    header = next(records, (0, []))[1]
    names = [name.strip() or f"Unnamed: {index}" for index, name in enumerate(header)]  # pandas' name
    _require_unique(names, path)
    rows = []
    for line, record in records:
        if len(record) != len(names):
            hint = f'; put texts that contain "{separator}" in quotes' if len(record) > len(names) else ""
            count = f"{len(record)} {'field' if len(record) == 1 else 'fields'}"
            raise UserError(f"{path}, line {line}, has {count}, but the first line names {len(names)} columns{hint}")
        rows.append(dict(zip(names, record, strict=True)))
    return rows, separator


def read_parquet(raw: bytes, path: Path) -> list[Row]:
    """Return the rows of a Parquet file, with the names of labels in place of their numbers.

    Args:
        raw: The content of the file.
        path: The path of the file, for messages.

    Raises:
        UserError: The content is not Parquet, or two columns have the same name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        _require_unique(file.schema_arrow.names, path)
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    rows: list[Row] = table.to_pylist()
    if b"huggingface" in (table.schema.metadata or {}):
        from datasets import Features

        name_labels(rows, Features.from_arrow_schema(table.schema))
    return rows


def name_labels(rows: Sequence[Row], features: Any) -> None:
    """Replace numbers of labels by their names, in place.

    Args:
        rows: The rows of a data set.
        features: The features of the data set. A `ClassLabel` has the names of its labels.
    """
    from datasets import ClassLabel

    for column, feature in features.items():
        if isinstance(feature, ClassLabel) and feature.names:
            for row in rows:
                number = row[column]
                # -1 marks a row without a label, as in the test splits of GLUE.
                row[column] = feature.names[number] if isinstance(number, int) and number >= 0 else None


def _find_separator(text: str, own: str) -> str:
    """Return the separator with which the first records have the same number of fields, more than one."""
    for separator in (own, *(each for each in SEPARATORS if each != own)):
        try:
            with _long_fields():
                reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
                widths = {len(record) for record in islice(reader, LOOKED_AT) if record}
        except csv.Error:
            continue
        if len(widths) == 1 and widths.pop() > 1:
            return separator
    return own


def _records(text: str, path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a table, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            with _long_fields():
                record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = "a quote is opened there and never closed" if "end of data" in str(error) else one_line(error)
            raise UserError(f"{path}, line {start}, is not valid CSV: {fault}") from None
        if record:  # skip blank lines
            yield start, record


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read long fields within the context: its limit, which all threads share, is 128 KiB."""
    with _limit:
        before = csv.field_size_limit(sys.maxsize)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _require_unique(names: Sequence[str], path: Path) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f'{path} has several columns with the name "{twice[0]}": give each its own name')
