"""Chats of OpenAI and of ShareGPT: roles, calls, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from partune import config
from partune.errors import UserError
from partune.finetune.rows.forms import Rows, normalise
from tests.finetune.rows.test_forms import ANSWER, USER, refusal
from tests.support.tiny import write_jsonl


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("human", "gpt"), "row 1: no message has the role assistant; the roles are human, gpt"),
        (
            ("user", "model"),
            'row 1: no message has the role assistant; the roles are user, model ("model" is "assistant"',
        ),
        (("user", "Assistant"), "row 1: no message has the role assistant; the roles are user, Assistant"),
        (("user", "assistant", "user", "gpt"), 'row 1: a message has the role "gpt" ("gpt" is "assistant" here)'),
        (("user", "user"), "no message has the role assistant, so there is no answer to train on; the roles are user"),
    ],
)
def test_roles_of_other_formats_are_named(tmp_path: Path, roles: tuple[str, ...], message: str) -> None:
    row = {"messages": [{"role": role, "content": "text"} for role in roles]}
    assert message in refusal(write_jsonl(tmp_path / "rows.jsonl", [row]))


# ----- ShareGPT, and prompts with answers as messages


def chats(*rows: dict[str, Any], **settings: Any) -> Rows:
    return normalise(config.Data(path="rows.json", **settings), list(rows))


def turn(role: str, text: Any, **fields: Any) -> dict[str, Any]:
    return {"from": role, "value": text, **fields}


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (("human", "gpt"), ("user", "assistant")),
        (("User", "ChatGPT"), ("user", "assistant")),
        (("system", "prompter", "assistant"), ("system", "user", "assistant")),
        (("human", "gpt", "tool", "bot"), ("user", "assistant", "tool", "assistant")),
        (("human", "gpt", "observation", "model"), ("user", "assistant", "tool", "assistant")),
    ],
)
def test_turns_of_sharegpt_are_messages(roles: tuple[str, ...], expected: tuple[str, ...]) -> None:
    conversation = [turn(role, f"{i}") for i, role in enumerate(roles)]
    for column in ("conversations", "conversation", "messages"):
        found = chats({column: conversation})
        messages = [{"role": role, "content": f"{i}"} for i, role in enumerate(expected)]
        assert (found.form, found.layout, found.rows[0][1]["messages"]) == ("chat", "sharegpt", messages)
        assert found.names == {"messages": column}


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"from": "gpt"}, "turn 2 has no \"value\": {'from': 'gpt'}"),
        ({"from": "gpt", "value": None}, '"value" of turn 2 is null: write its text ("" if there is none)'),
        ({"role": "gpt", "content": None}, '"content" of turn 2 is null: write its text ("" if there is none)'),
        ({"from": "gpt", "value": []}, 'turn 2 has no text "value": {'),
        ({"from": "gpt", "value": 0.0}, 'turn 2 has no text "value": {'),
        ({"from": "function_call", "value": None}, '"value" of turn 2 is null'),
        ({"value": "a"}, 'turn 2 has no text "from": {'),
    ],
)
def test_a_turn_that_lacks_something_is_named_by_its_own_names(last: dict[str, Any], message: str) -> None:
    good = [turn("human", "q"), turn("gpt", "a")]
    with pytest.raises(UserError) as caught:
        chats({"conversations": good}, {"conversations": [turn("human", "q"), last]})
    assert str(caught.value).startswith(f"rows.json, row 2: {message}")


def test_a_conversation_with_openais_names_and_a_system_prompt_beside_it() -> None:
    row = {"conversations": [USER, ANSWER], "system": "Be terse."}
    assert chats(row).rows[0][1]["messages"] == [{"role": "system", "content": "Be terse."}, USER, ANSWER]


def test_calls_of_functions_are_llamafactorys() -> None:
    tools = [{"name": "weather", "description": "d", "parameters": {"type": "object"}}]
    conversation = [
        turn("human", "Rain?"),
        turn("function_call", json.dumps({"name": "weather", "arguments": {"city": "Aix"}})),
        turn("observation", "no"),
        turn("gpt", "No.", weight=0),
    ]
    (_, row), *_ = chats({"conversations": conversation, "tools": json.dumps(tools)}).rows
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Aix"}}}
    assert row["messages"][1] == {"role": "assistant", "tool_calls": [call]}
    assert row["tools"] == [{"type": "function", "function": tools[0]}]
    assert row["untrained"] == {3}


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ("hello", "\"conversations\" must be a list, got 'hello'"),
        ([turn("human", "q"), turn("narrator", "x")], 'turn 2 is from "narrator", not one of human, user, gpt'),
        ([{"value": "q"}], 'turn 1 has no text "from"'),
        ([turn("human", "q"), turn("gpt", None)], '"value" of turn 2 is null'),
        ([turn("human", "q"), turn("gpt", 3)], 'turn 2 has no text "value"'),
        (["q", "a"], "message 1 has no text \"role\": 'q'"),
        (
            [turn("human", "q"), turn("function_call", "weather()")],
            "turn 2 is a function call: it must be JSON",
        ),
        ([turn("human", [{"type": "image"}]), turn("gpt", "a")], 'message 1 has a part of the type "image": only text'),
    ],
)
def test_a_wrong_turn_is_refused(conversation: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        chats({"conversations": [turn("human", "q"), turn("gpt", "a")]}, {"conversations": conversation})
    assert str(caught.value).startswith(f"rows.json, row 2: {message}")


def test_messages_in_a_table_are_json() -> None:
    assert chats({"messages": json.dumps([USER, ANSWER])}).rows[0][1]["messages"] == [USER, ANSWER]
    with pytest.raises(UserError, match=r'"messages" must be a list, got .*; in a table, write messages as valid JSON'):
        chats({"messages": str([USER, ANSWER])})


@pytest.mark.parametrize(
    ("marks", "trained"),
    [
        ({}, True),
        ({"weight": 1, "train": True}, True),
        ({"weight": 0, "loss": False}, False),
        ({"train": 0.0}, False),
        ({"weight": None, "train": False}, False),
    ],
)
def test_marks_that_agree_say_whether_an_answer_is_trained_on(marks: dict[str, Any], trained: bool) -> None:
    (_, row), *_ = chats({"messages": [USER, {**ANSWER, **marks}]}).rows
    assert row == {"messages": [USER, ANSWER], "untrained": set() if trained else {1}}


@pytest.mark.parametrize(
    ("marks", "shown"),
    [
        ({"weight": 1, "train": False}, "weight 1, train False"),
        ({"weight": 0, "train": True, "loss": 1.0}, "weight 0, train True, loss 1.0"),
        ({"loss": 0, "train": 1}, "train 1, loss 0"),
    ],
)
def test_marks_that_contradict_each_other_are_refused(marks: dict[str, Any], shown: str) -> None:
    with pytest.raises(UserError) as caught:
        chats({"messages": [USER, {**ANSWER, **marks}]})
    assert str(caught.value) == (
        f"rows.json, row 1: message 2 is both trained on and not trained on ({shown}): keep one of them"
    )


ASIDE = {"role": "assistant", "content": "aside"}
AGAIN = {"role": "user", "content": "again"}


@pytest.mark.parametrize(
    ("row", "messages", "untrained"),
    [
        ({"prompt": [USER], "completion": [ANSWER]}, [USER, ANSWER], set()),
        ({"prompt": [USER, ASIDE, AGAIN], "completion": [ANSWER]}, [USER, ASIDE, AGAIN, ANSWER], {1}),
        ({"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])}, [USER, ANSWER], set()),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ASIDE]}, [USER, ANSWER], set()),
        ({"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, ASIDE]}, [USER, ANSWER], set()),
        ({"prompt": "q", "chosen": [ANSWER], "rejected": [ASIDE]}, [USER, ANSWER], set()),
        (
            {"chosen": [USER, ASIDE, AGAIN, ANSWER], "rejected": [USER, ASIDE, AGAIN, ASIDE]},
            [USER, ASIDE, AGAIN, ANSWER],
            {1},
        ),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, [USER, ANSWER], set()),
    ],
)
def test_only_the_answer_to_a_prompt_is_trained_on(
    row: dict[str, Any], messages: list[dict[str, Any]], untrained: set[int]
) -> None:
    (_, found), *_ = chats(row).rows
    assert (found["messages"], found["untrained"]) == (messages, untrained)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [USER], "completion": "a"}, '"completion" must be a list of messages as in other rows'),
        ({"prompt": 3, "completion": [ANSWER]}, '"prompt" must be a list of messages as in other rows, got 3'),
        ({"prompt": [USER]}, '"completion" is missing; it has prompt'),
        ({"prompt": [USER], "completion": [{"role": "gpt", "content": "a"}]}, "no message has the role assistant"),
    ],
)
def test_rows_of_prompts_and_answers_are_all_of_one_kind(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        chats({"prompt": [USER], "completion": [ANSWER]}, row)
    assert str(caught.value).startswith(f"rows.json, row 2: {message}")
