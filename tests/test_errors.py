"""Messages: one line of limited length, whatever they quote; the nearest known name; values and causes as text."""

from __future__ import annotations

import pytest

from partune.errors import LONGEST, MOST, UserError, column_words, reason, shown, suggestion


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("bad value", "bad value"),
        ("first\n  second\r\n\n\tthird ", "first second third"),
        ("file \udcff.json", "file \\udcff.json"),  # a byte of a file's name that is no UTF-8
        ("", ""),
    ],
)
def test_a_message_is_one_line_that_every_output_can_encode(message: str, line: str) -> None:
    assert str(UserError(message)) == line
    assert str(UserError(message)).encode("utf-8").decode("utf-8") == line


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    message = str(UserError(f"wrong: {'x' * 10 * MOST}; do that"))
    assert len(message) <= MOST
    assert message.startswith("wrong: x")
    assert message.endswith("x; do that")
    assert " [...] " in message


@pytest.mark.parametrize(
    ("name", "known", "end"),
    [
        ("budgett", ["budget", "seed"], '; did you mean "budget"?'),
        ("quux", ["budget", "seed"], "; known: budget, seed"),
        ("7", [17, 200], '; did you mean "17"?'),
        ("quux", [], ""),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, known: list[object], end: str) -> None:
    assert suggestion(name, known) == end  # type: ignore[arg-type]


def test_a_value_is_shown_by_its_beginning() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert shown("x" * 100, most=4) == "'xxx..."
    assert shown(10**5000) == "int too long to show"


def test_a_cause_is_its_class_and_its_message() -> None:
    assert reason(ValueError("one\n two")) == "ValueError: one two"
    assert len(reason(ValueError("x" * 10 * LONGEST))) == LONGEST


def test_a_cause_that_cannot_be_printed_is_told_by_its_class() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert reason(BrokenError()) == "BrokenError: (it cannot be printed)"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Unnamed: 0", "a column without a name (1st)"),
        ("Unnamed: 1", "a column without a name (2nd)"),
        ("Unnamed: 2", "a column without a name (3rd)"),
        ("Unnamed: 10", "a column without a name (11th)"),
        ("Unnamed: 21", "a column without a name (22nd)"),
        ("__index_level_0__", "a column without a name (pandas' row numbers)"),
        ("", "a column without a name"),
        ("Unnamed", "Unnamed"),
        ("Unnamed: x", "Unnamed: x"),
    ],
)
def test_a_column_without_a_name_is_said_in_words(name: str, words: str) -> None:
    assert column_words(name) == words
