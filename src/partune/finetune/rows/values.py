"""Check the values of a row's fields, and show them in error messages."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partune.errors import UNNAMED, column_words

Row = dict[str, Any]
Message = dict[str, Any]

NULL_ADVICE = 'write its text ("" if there is none), or leave the row out'
BROKEN = re.compile("[\ud800-\udfff\0]")  # halves of surrogate pairs, and NUL
MOST_SHOWN = 12  # the largest number of columns that a message names


class BadRowError(Exception):
    """A row is wrong; the message says what is wrong with it."""


class MissingFieldError(BadRowError):
    """A row lacks a field that its format requires.

    Args:
        column: The name of the column.
        row: The row.
    """

    def __init__(self, column: str, row: Row) -> None:
        self.column = column
        super().__init__(f'"{column}" is missing; it has {keys(row)}')


@dataclass(frozen=True)
class Places:
    """Where rows come from, for messages.

    Attributes:
        path: The path of the data.
        files: The name of each file and the number of its rows, if the data have several files.
    """

    path: str
    files: tuple[tuple[str, int], ...] = ()

    def of(self, number: int) -> str:
        """Return the file of a row, and the row's number in this file.

        Args:
            number: The number of the row in all files, counted from 1.
        """
        name, within = self._find(number)
        return f"{name}, row {within}"

    def file(self, number: int) -> str:
        """Return the name of the file of a row, by the row's number in all files."""
        return self._find(number)[0]

    def _find(self, number: int) -> tuple[str, int]:
        within = number
        for name, count in self.files if len(self.files) > 1 else ():
            if within <= count:
                return name, within
            within -= count
        return self.path, number


def value_of(row: Row, names: Mapping[str, str], field: str) -> Any:
    """Return the value of a field of a row; None if the row lacks it.

    Args:
        row: The row as it was read.
        names: Maps the format's name of a field to the name of its column, for the fields that the data have.
        field: The format's name of the field.
    """
    return row.get(names[field]) if field in names else None


def text_of(row: Row, names: Mapping[str, str], field: str) -> str:
    """Return the text of a field, which is empty if the row has null or lacks it.

    Args:
        row: The row as it was read.
        names: Maps the format's name of a field to the name of its column.
        field: The format's name of the field.

    Raises:
        BadRowError: The value is not a text, or has a broken character.
    """
    name, value = names.get(field, field), value_of(row, names, field)
    if value is not None and not isinstance(value, str):
        raise BadRowError(f'"{name}" must be text, got {shown(value)}')
    return str(unbroken(value or "", name))


def require(row: Row, names: Mapping[str, str], *fields: str) -> None:
    """Raise MissingFieldError if a row lacks one of some fields.

    Args:
        row: The row as it was read.
        names: Maps the format's name of a field to the name of its column.
        *fields: The format's names of the fields.
    """
    for field in fields:
        if names.get(field, field) not in row:
            raise MissingFieldError(names.get(field, field), row)


def has_value(value: Any) -> bool:
    """Return whether a field has a value. Data sets have nulls or empty lists for fields that a row lacks."""
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not value)


def without_nulls(value: Any) -> Any:
    """Return a value without null fields, because data sets add the fields of all rows to every row."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def unbroken(value: Any, name: str) -> Any:
    """Return a value as it is.

    Args:
        value: The value of a field.
        name: The name of the field, for the message.

    Raises:
        BadRowError: One of the value's texts has a broken character.
    """
    for text in _texts(value):
        if broken := BROKEN.search(text):
            kind = "NUL" if broken[0] == "\0" else "half of a surrogate pair"
            before = broken.start()
            raise BadRowError(f'"{name}" has a broken character, {broken[0]!r} ({kind}), after {before} others')
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(name)
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def is_unnamed(name: Any) -> bool:
    """Return whether a column has no name of its own, but one that a reader of tables gave it."""
    return not str(name).strip() or UNNAMED.fullmatch(str(name)) is not None


def keys(names: Sequence[Any] | Row) -> str:
    """Return the names of columns for a message; long names, and names beyond a dozen, are cut."""
    listed = [_called(name) for name in names]
    more = f" and {len(listed) - MOST_SHOWN} more" if len(listed) > MOST_SHOWN else ""
    return (", ".join(listed[:MOST_SHOWN]) or "nothing") + more


def _called(name: Any) -> str:
    text = column_words(str(name))
    return text if len(text) <= 40 or is_unnamed(name) else f"{text[:37]}..."


def shown(value: Any) -> str:
    """Return at most the first 60 characters of a value's representation."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxlong = 4, 60, 60
    return f"{brief.repr(value):.60}"
