"""Which columns are proposed: texts, and never what only identifies a row."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from partune.finetune.rows.proposals import holds_texts, propose

QUESTIONS = ["Wo ist die Pumpe?", "Wer ölt sie?", "Und wann?"]
ANSWERS = ["In Halle 3.", "Anna.", "Montags."]
WORDS = ["x", "y", "z"]


def rows_of(columns: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    "identifier",
    [
        {"id": [1, 2, 3]},
        {"id": ["1", "2", "3"]},
        {"id": WORDS},
        {"ticket_id": WORDS},
        {"ticketId": WORDS},
        {"UUID": WORDS},
        {"Nr": WORDS},
        {"index": WORDS},
        {"Unnamed: 0": WORDS},
        {"__index_level_0__": [0, 1, 2]},
        {"Vorgang": ["K-017", "K-018", "K-019"]},
        {"Vorgang": [str(uuid.UUID(int=number)) for number in range(3)]},
        {"Datum": ["2026-01-02", "2026-01-03", "2026-01-03"]},
        {"Datum": ["2026-01-02 10:00", "2026-01-02 10:00", "2026-01-03 10:00"]},
        {"Preis": ["1.5", "-2", "1e3"]},
        {"Preis": [1.5, 2.5, 3.5]},
        {"Tags": [["a"], ["b"], ["c"]]},
        {"leer": [None, "", ""]},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_identifier_is_no_question_and_no_answer(identifier: dict[str, Sequence[Any]], place: int) -> None:
    columns = [("Kundenfrage", QUESTIONS), ("Antwort", ANSWERS)]
    columns.insert(place, *identifier.items())
    rows = rows_of(dict(columns))
    expected = "say which is which, for example --columns instruction=Kundenfrage,output=Antwort"
    assert propose(rows, list(rows[0]), None, None) == expected


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("grid", WORDS, True),
        ("Hallo", ["K-017", "K-017", "K-018"], True),  # labels
        ("Frage", ["原因？", "锈", "油"], True),
        ("Frage", ["?", "!", "."], False),
        ("Frage", [True, False, True], False),
        ("paid", WORDS, True),
    ],
)
def test_texts_are_told_from_identifiers(column: str, values: list[Any], expected: bool) -> None:
    assert holds_texts(rows_of({column: values}), column) is expected


def test_numbers_that_repeat_are_labels() -> None:
    rows = rows_of({"review": QUESTIONS * 2, "id": range(6), "stars": [1, 5] * 3})
    assert propose(rows, list(rows[0]), None, None).endswith("--columns text=review,label=stars")
    rows = rows_of({"review": QUESTIONS * 2, "user_id": [1, 5] * 3})
    assert propose(rows, list(rows[0]), None, None).endswith("--columns text=review")


def test_of_many_texts_the_longest_are_proposed_as_a_guess() -> None:
    rows = rows_of({"kind": ["a", "a", "b"], "Frage": QUESTIONS, "Ort": ["Halle"] * 3, "Antwort": ANSWERS})
    assert propose(rows, list(rows[0]), None, None) == (
        "which columns are meant cannot be told; say which is which, for example "
        "--columns instruction=Frage,output=Antwort"
    )


def test_without_texts_no_column_is_proposed() -> None:
    rows = rows_of({"id": [1, 2, 3], "n": [4, 5, 6]})
    assert propose(rows, list(rows[0]), None, None) == (
        "no column has texts to read or to answer with; say which is which with "
        "--columns instruction=COLUMN,output=COLUMN"
    )
    rows = rows_of({"id": [1, 2, 3], "body": QUESTIONS})
    assert propose(rows, list(rows[0]), ["prompt", "completion"], None) == (
        "only body has texts to read or to answer with; say which is which with "
        "--columns prompt=COLUMN,completion=COLUMN"
    )


def test_what_the_user_said_is_part_of_the_proposal() -> None:
    rows = rows_of({"Antwort": ANSWERS, "id": [1, 2, 3], "Frage": QUESTIONS})
    found = propose(rows, list(rows[0]), None, {"output": "Antwort"})
    assert found == "say which is which, for example --columns output=Antwort,instruction=Frage"


@pytest.mark.parametrize("dialog", [[{"role": "user"}], '[{"role": "user"}]'])
def test_for_messages_a_column_with_lists_is_proposed(dialog: Any) -> None:
    rows = [{"title": "a", "dialog": dialog}]
    found = propose(rows, list(rows[0]), ["messages"], None)
    assert found == "say which is which, for example --columns messages=dialog"
