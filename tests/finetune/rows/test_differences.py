"""Rows of several kinds: both kinds are named, the rarer one first, with their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from partune import config
from partune.errors import UserError
from partune.finetune.rows.columns import Layout
from partune.finetune.rows.differences import FAMILIES
from partune.finetune.rows.files import read
from partune.finetune.rows.forms import normalise
from tests.finetune.rows.test_forms import ANSWER, ROW, USER
from tests.support.tiny import write_jsonl

ONE_FORMAT = "a study reads rows of one format, so "
MESSAGES = {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [[ROW, ROW, MESSAGES]],
            "0.jsonl, row 3, has messages, but row 1, has instruction, output: "
            f"{ONE_FORMAT}write the others to a file of their own",
        ),
        (
            [[ROW, MESSAGES, MESSAGES]],
            "0.jsonl, row 1, has instruction, output, but row 2, has messages: "
            f"{ONE_FORMAT}write the others to a file of their own",
        ),
        ([[ROW, ROW], [MESSAGES]], "1.jsonl, row 1, has messages, but 0.jsonl, row 1, has instruction, output: "),
        (
            [[ROW], [ROW, MESSAGES], [MESSAGES] * 3],
            "0.jsonl, row 1, has instruction, output, but 1.jsonl, row 2, has messages: ",
        ),
        (
            [[ROW, {"instruction": "a", "response": "b"}]],
            "0.jsonl, row 2, has instruction, response, but row 1, has instruction, output: "
            "give all rows the same columns",
        ),
        (
            [[{"question": "a", "answer": "b"}] * 2, [{"Question": "a", "Answer": "b"}]],
            "1.jsonl, row 1, has Question, Answer, but 0.jsonl, row 1, has question, answer: rewrite each file with "
            "the usual names (`partune data FILE --write NEW.jsonl`, ",
        ),
        ([[ROW], [{"question": "a"}]], "1.jsonl, row 1, has question, but 0.jsonl, row 1, has instruction, output"),
        ([[ROW], [ROW, {"instruction": "a"}]], '1.jsonl, row 2: "output" is missing; it has instruction'),
        ([[ROW], [ROW, {**ROW, "output": 7}]], '1.jsonl, row 2: "output" must be text, got 7'),
        ([[ROW], [3]], "1.jsonl, row 1: a row is a mapping, got int"),
    ],
)
def test_rows_that_differ_are_named_with_their_file(tmp_path: Path, files: list[list[Any]], message: str) -> None:
    paths = [str(write_jsonl(tmp_path / f"{number}.jsonl", rows)) for number, rows in enumerate(files)]
    data = config.Data(path=",".join(paths))
    source = read(data)
    with pytest.raises(UserError) as caught:
        normalise(data, source.rows, source.places)
    found = str(caught.value).replace(f"{tmp_path}/", "")
    assert found.startswith(message.partition(" but ")[0])
    assert message.partition(" but ")[2] in found


def test_each_format_is_in_one_family() -> None:
    assert sorted(layout for family in FAMILIES for layout in family) == sorted(get_args(Layout))
