"""The columns tell the format, or one line says what to type."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from partune import config
from partune.cli.parser import build_parser
from partune.errors import UserError
from partune.finetune.rows.columns import find_columns
from partune.finetune.rows.forms import normalise

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def row_of(columns: str, **values: Any) -> dict[str, Any]:
    return {name: values.get(name, "text") for name in columns.split()}


def data(**fields: Any) -> config.Data:
    return config.validated(config.Data, {"path": "rows.csv", **fields})


@pytest.mark.parametrize(
    ("columns", "layout", "names"),
    [
        ("instruction output", "alpaca", {"instruction": "instruction", "output": "output"}),
        ("instruction output text id", "alpaca", {"instruction": "instruction", "output": "output"}),
        ("instruction response", "alpaca", {"instruction": "instruction", "output": "response"}),
        ("Instruction Output", "alpaca", {"instruction": "Instruction", "output": "Output"}),
        ("question answer", "qa", {"instruction": "question", "output": "answer"}),
        ("id QUESTION context Answer", "qa", {"instruction": "QUESTION", "input": "context", "output": "Answer"}),
        ("query response", "qa", {"instruction": "query", "output": "response"}),
        ("prompt response source", "qa", {"instruction": "prompt", "output": "response"}),
        ("input output", "qa", {"instruction": "input", "output": "output"}),
        ("system question response", "qa", {"instruction": "question", "output": "response", "system": "system"}),
        ("text label", "label", {"instruction": "text", "output": "label"}),
        ("prompt completion", "completion", {"prompt": "prompt", "completion": "completion"}),
        ("prompt chosen rejected", "preference", {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
        ("chosen rejected", "preference", {"chosen": "chosen", "rejected": "rejected"}),
        ("text", "text", {"text": "text"}),
        ("text url timestamp", "text", {"text": "text"}),
        ("messages", "chat", {"messages": "messages"}),
        ("prompt messages prompt_id", "chat", {"messages": "messages"}),
        ("conversations tools", "sharegpt", {"messages": "conversations", "tools": "tools"}),
    ],
)  # fmt: skip
def test_the_columns_tell_the_format(columns: str, layout: str, names: dict[str, str]) -> None:
    rows = [row_of(columns, messages=MESSAGES, conversations=TURNS, tools=[{}])] * 2
    found = find_columns(data(), rows)
    assert (found.layout, found.names) == (layout, names)


def test_messages_with_sharegpts_names_are_sharegpts() -> None:
    assert find_columns(data(), [{"messages": []}, {"messages": TURNS}]).layout == "sharegpt"
    assert find_columns(data(), [{"messages": None}, {"messages": MESSAGES}]).layout == "chat"


@pytest.mark.parametrize(("messages", "layout"), [(TURNS, "sharegpt"), (MESSAGES, "chat")])
def test_messages_in_a_table_have_the_format_of_their_json(messages: list[dict[str, str]], layout: str) -> None:
    rows = [{"messages": ""}, {"messages": json.dumps(messages)}]
    assert find_columns(data(), rows).layout == layout
    (_, found), *_ = normalise(data(), rows[1:]).rows
    assert found["messages"] == MESSAGES


@pytest.mark.parametrize("text", ["[", "[]", "[1]", '[{"from": "human"', '{"from": "human"}', "from", "[" * 100_000])
def test_text_that_is_no_conversation_in_json_is_not_sharegpts(text: str) -> None:
    assert find_columns(data(), [{"messages": text}]).layout == "chat"


def test_columns_that_are_empty_in_all_rows_tell_nothing() -> None:
    rows = [{"messages": None, "instruction": "", "question": "q", "answer": "", "text": []}, {"answer": "a"}]
    assert find_columns(data(), rows).layout == "qa"
    assert find_columns(data(), [{"instruction": "", "output": ""}]).layout == "alpaca"


def test_all_rows_are_looked_at() -> None:
    rows = [{"text": "only a text"}, {"text": "a", "label": "x"}]
    assert find_columns(data(), rows).layout == "label"


UNCLEAR = {
    "ticket queue": "--columns instruction=ticket,output=queue",
    "id ticket body queue": "--columns instruction=ticket,output=queue",
    "question answer response": "--columns instruction=question,output=answer",
    "text summary": "--columns instruction=text,output=summary",
    "text category": "--columns instruction=text,output=category",
    "prompt completion label": "--format completion",
    "body": "--columns text=body",
    "prompt": "--columns text=prompt",
    "question": "--columns text=question",
    "q? a": "--columns 'instruction=q?,output=a'",
    "system question chosen rejected": "--columns prompt=question",
    "question choices answer": "--columns instruction=question,output=answer",
}


GUESSED = {"id ticket body queue", "question answer response", "question choices answer"}


@pytest.mark.parametrize("columns", UNCLEAR)
def test_columns_that_tell_no_format_are_answered_with_the_flag_to_type(columns: str) -> None:
    rows = [row_of(columns, id="7"), row_of(columns, id="8")]
    with pytest.raises(UserError) as caught:
        find_columns(data(), rows)
    named = ", ".join(columns.split())
    guess = "which columns are meant cannot be told; " if columns in GUESSED else ""
    proposed = f"{guess}say which is which, for example {UNCLEAR[columns]}"
    assert str(caught.value) == f"rows.csv has the columns {named}: {proposed}"


@pytest.mark.parametrize("columns", UNCLEAR)
def test_the_proposed_flag_is_one_that_works(columns: str) -> None:
    rows = [row_of(columns, id="7"), row_of(columns, id="8")]
    with pytest.raises(UserError) as caught:
        find_columns(data(), rows)
    flag = shlex.split(str(caught.value).partition("for example ")[2])
    arguments = build_parser().parse_args(["tune", "--data", "rows.csv", *flag])
    given = {name: getattr(arguments, f"config.data.{name}", None) for name in ("columns", "format")}
    assert normalise(data(**{name: value for name, value in given.items() if value is not None}), rows).rows


@pytest.mark.parametrize(
    ("columns", "asked", "layout", "names"),
    [
        ("a b", "instruction=a,output=b", "alpaca", {"instruction": "a", "output": "b"}),
        ("a b", "question=a, answer=b", "qa", {"instruction": "a", "output": "b"}),
        ("a b", "text=a,label=b", "label", {"instruction": "a", "output": "b"}),
        ("a b text", "text=a", "text", {"text": "a"}),
        ("text summary", "text=text", "text", {"text": "text"}),
        ("text summary", "instruction=text,output=summary", "alpaca", {"instruction": "text", "output": "summary"}),
        ("a messages", "text=a", "text", {"text": "a"}),
        ("a b messages", "prompt=a,completion=b", "completion", {"prompt": "a", "completion": "b"}),
        ("input output x", "instruction=input,output=x", "alpaca", {"instruction": "input", "output": "x"}),
        ("a output", "instruction=a", "alpaca", {"instruction": "a", "output": "output"}),
        ("dialog", "conversations=dialog", "sharegpt", {"messages": "dialog"}),
        ("dialog", "messages=dialog", "chat", {"messages": "dialog"}),
    ],
)
def test_a_column_can_be_given_a_fields_name(columns: str, asked: str, layout: str, names: dict[str, str]) -> None:
    found = find_columns(data(columns=asked), [row_of(columns, messages=MESSAGES, dialog=MESSAGES)])
    assert (found.layout, found.names) == (layout, names)


def test_a_column_that_is_renamed_has_no_other_part() -> None:
    """The column `input` is the question. It is not the input too, and the column `output` is not used."""
    rows = normalise(data(columns="instruction=input,output=x"), [{"input": "q", "x": "a", "output": "other"}])
    assert rows.rows == [(1, {"instruction": "q", "input": "", "output": "a", "system": "", "history": []})]
    assert rows.unused == {1: ["output"]}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"instruktion": "a"}, '--columns: no format has a field "instruktion"; did you mean "instruction"?'),
        ({"instruction": "question"}, 'rows.csv has no column "question"; did you mean "questions"?'),
        ({"instruction": "a", "output": "a"}, "--columns names one column twice: instruction=a, output=a"),
        ({"instruction": "a"}, "rows.csv has the columns a, questions and no output: say which is which"),
        (
            {"system": "a"},
            "--columns system=a is not enough: the format alpaca also needs instruction and output; rows.csv has the "
            "columns a, questions: ",
        ),
        (
            {"output": "a"},
            "--columns output=a is not enough: the format alpaca also needs instruction; rows.csv has the columns a, "
            "questions: say which is which, for example --columns output=a,instruction=questions",
        ),
        (
            {"messages": "a", "output": "questions"},
            "--columns messages=a,output=questions: no format has the fields messages and output together; rows.csv "
            "has the columns a, questions: say which is which, for example --columns instruction=a,output=questions",
        ),
        (
            {"question": "a", "completion": "questions"},
            "--columns question=a,completion=questions: no format has the fields question and completion together; ",
        ),
    ],
)
def test_a_wrong_name_is_refused(asked: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        find_columns(data(columns=asked), [{"a": "x", "questions": "y"}])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["instruction", "=a", "instruction=", "a=b,", "a=b,a=c"])
def test_a_flag_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"columns: (expected FIELD=COLUMN|a field is given twice)"):
        data(columns=text)


def test_a_format_that_is_set_needs_its_columns() -> None:
    for layout, lacking, flag in (
        ("completion", "prompt", "prompt=text,completion=label"),
        ("qa", "question", "question=text,answer=label"),
        ("preference", "chosen", "chosen=text"),
    ):
        guess = "" if "," in flag else "which columns are meant cannot be told; "
        with pytest.raises(UserError) as caught:
            find_columns(data(format=layout), [row_of("text label")])
        assert str(caught.value) == (
            f"rows.csv has the columns text, label and no {lacking}: {guess}say which is which, for example "
            f"--columns {flag}"
        )
    for layout, field in (("sharegpt", "conversations"), ("chat", "messages")):
        with pytest.raises(UserError) as caught:
            find_columns(data(format=layout, columns="tools=label"), [row_of("text label")])
        message = str(caught.value)
        assert message.endswith(
            f"no {field}: no column has lists of messages; say which is which with --columns {field}=COLUMN"
        )
    assert find_columns(data(format="text"), [row_of("text label")]).names == {"text": "text"}
    assert find_columns(data(format="qa"), [row_of("instruction question answer")]).layout == "qa"


def test_many_and_long_columns_are_cut_in_the_message(tmp_path: Path) -> None:
    rows = [{f"{'x' * 90}{i}": "text" for i in range(40)}]
    with pytest.raises(UserError) as caught:
        find_columns(data(), rows)
    assert "and 28 more" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_table_without_a_line_of_names_is_suspected() -> None:
    rows = [{"Where is the pump?": "Who?", "It is in hall 3.": "Anna."}]
    with pytest.raises(UserError, match=r"; if the first line is a row, write a line with names above it$"):
        find_columns(data(), rows)
