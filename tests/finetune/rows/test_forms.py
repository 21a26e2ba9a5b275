"""Rows as they are: what each field becomes, and what is refused by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune.data import alpaca_pieces, tokenise
from partune.finetune.rows.files import read_rows
from partune.finetune.rows.forms import normalise
from partune.report.data_notes import row_notes
from tests.finetune.test_data import CHAT, CHATML, answers, chat_answers
from tests.support.tiny import write_jsonl

ROW = {"instruction": "a", "output": "b"}
USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
TURN = ["q", "a"]


def refusal(path: Path) -> str:
    """The one line that a file's rows are refused with, from the name of the file on."""
    data = config.Data(path=str(path))
    with pytest.raises(UserError) as caught:
        normalise(data, read_rows(data))
    message = str(caught.value)
    assert "\n" not in message
    message.encode()  # fit for any output
    return message[message.index(path.name) :] if path.name in message else message


# ----- answers that are no text


@pytest.mark.parametrize("name", ["instruction", "input", "output", "system"])
@pytest.mark.parametrize("value", [0, 1, False, True, 0.0, [], {}, float("nan")])
def test_what_is_no_text_is_refused_whether_it_is_true_or_not(tmp_path: Path, name: str, value: Any) -> None:
    message = refusal(write_jsonl(tmp_path / "rows.jsonl", [ROW, {**ROW, name: value}]))
    assert message == f'rows.jsonl, row 2: "{name}" must be text, got {value}'


@pytest.mark.parametrize("content", [0, False, [], {}, [0], [{"type": "text"}]])
def test_contents_of_messages_are_texts(tmp_path: Path, content: Any) -> None:
    row = {"messages": [USER, {"role": "assistant", "content": content}]}
    assert refusal(write_jsonl(tmp_path / "rows.jsonl", [row])).startswith("rows.jsonl, row 1: message 2 has ")


def test_answers_that_are_empty_are_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [ROW, {"instruction": "a", "output": ""}, {"instruction": "", "input": "", "output": " ", "history": [TURN]}]
    examples = tokenise(config.Data(path=str(write_jsonl(tmp_path / "rows.jsonl", rows))), tokenizer)
    assert answers(examples, tokenizer) == ["b</s>", "</s>", "a</s> </s>"]
    assert examples.cut(1000, "answer").summary["empty_answers"] == 2


NULL = 'is null: write its text ("" if there is none), or leave the row out'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "output": None}, f'"output" {NULL}'),
        ({"instruction": None, "output": None, "input": "i"}, f'"output" {NULL}'),
        ({"instruction": "", "output": None, "history": [TURN]}, f'"output" {NULL}'),
        ({**ROW, "history": [["q", None]]}, '"history" must be a list of pairs of texts, [user, assistant], got'),
    ],
)
def test_an_answer_that_is_null_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    assert refusal(write_jsonl(tmp_path / "rows.jsonl", [ROW, row])).startswith(f"rows.jsonl, row 2: {message}")


def test_an_answer_that_is_null_is_refused_by_dollys_name(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "response": "b"}, {"instruction": "a", "response": None}]
    assert refusal(write_jsonl(tmp_path / "rows.jsonl", rows)) == f'rows.jsonl, row 2: "response" {NULL}'


@pytest.mark.parametrize("calls", [{}, {"tool_calls": None}, {"tool_calls": []}])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_content_that_is_null_is_refused_without_tool_calls(tmp_path: Path, role: str, calls: dict[str, Any]) -> None:
    row = {"messages": [USER, {"role": role, "content": None, **calls}]}
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    assert refusal(path) == f'rows.jsonl, row 1: "content" of message 2 {NULL}'
    parts = {"messages": [USER, {"role": role, "content": [{"type": "text", "text": None}]}]}
    path = write_jsonl(tmp_path / "rows.jsonl", [parts])
    assert refusal(path) == f'rows.jsonl, row 1: "text" of a part of message 2 {NULL}'


def test_nulls_of_what_a_row_lacks_are_none_of_its_fields(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    blank = dict.fromkeys(("instruction", "input", "output", "system", "history"))
    rows = [{**blank, **ROW}, blank]
    examples = tokenise(config.Data(path=str(write_jsonl(tmp_path / "rows.jsonl", rows))), tokenizer)
    assert answers(examples, tokenizer) == ["b</s>"]
    assert examples.empty == 1


# ----- fields


def test_a_system_prompt_and_earlier_turns_are_part_of_the_prompt(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    row = {**ROW, "system": "You are terse.", "history": [["Which part?", "The bearing."], ["Why?", "Rust."]]}
    text = (
        "<s>You are terse.\n\n### Instruction:\nWhich part?\n\n### Response:\nThe bearing.</s>"
        "\n\n### Instruction:\nWhy?\n\n### Response:\nRust.</s>\n\n### Instruction:\na\n\n### Response:\nb</s>"
    )
    examples = tokenise(config.Data(path=str(write_jsonl(tmp_path / "rows.jsonl", [row]))), tokenizer)
    assert tokenizer.decode(examples.tokens) == text
    assert answers(examples, tokenizer) == ["The bearing.</s>Rust.</s>b</s>"]
    assert "unused" not in examples.summary


def test_dollys_names_stand_for_alpacas(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    dolly = {"instruction": "When?", "context": "It was May.", "response": "In May.", "category": "closed_qa"}
    alpaca = {"instruction": "When?", "input": "It was May.", "output": "In May."}
    found, expected = (
        tokenise(config.Data(path=str(write_jsonl(tmp_path / f"{name}.jsonl", [row]))), tokenizer)
        for name, row in (("dolly", dolly), ("alpaca", alpaca))
    )
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.trained.tolist() == expected.trained.tolist()
    assert found.summary["fields"] == {"instruction": "instruction", "input": "context", "output": "response"}
    assert found.summary["unused"] == {"category": 1}


def test_what_is_not_used_is_counted_and_told(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{**ROW, "weight": 0, "context": "c", "input": "i"}, {**ROW, "tools": [{}], "id": 0}, {**ROW, "id": None}]
    summary = tokenise(config.Data(path=str(write_jsonl(tmp_path / "r.jsonl", rows))), tokenizer).summary
    assert summary["unused"] == {"context": 1, "id": 1, "tools": 1, "weight": 1}
    assert row_notes(summary) == ["2 rows have fields that are not used: context, id, tools, weight."]
    assert row_notes({"rows": 3}) == []


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False}])
@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_an_answer_of_weight_nought_is_never_trained_on(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, mark: dict[str, Any], loss_on: Any
) -> None:
    messages = [CHAT[0], {**CHAT[1], **mark}, CHAT[2], {**CHAT[3], "weight": 1}]
    path = write_jsonl(tmp_path / "c.jsonl", [{"messages": messages}])
    examples = tokenise(config.Data(path=str(path), chat_template=CHATML), tokenizer)
    (found,) = answers(examples.cut(1000, loss_on), tokenizer)
    assert "yes</s>" in found
    assert "Because" not in found
    assert ("why?" in found) == (loss_on == "all")
    assert examples.summary["fields"] == {"messages": "messages", "weight": "weight"}


@pytest.mark.parametrize("weight", [0.5, 2, -1, "0", [0]])
def test_other_weights_are_refused(tmp_path: Path, weight: Any) -> None:
    row = {"messages": [USER, {**ANSWER, "weight": weight}]}
    message = refusal(write_jsonl(tmp_path / "rows.jsonl", [row]))
    assert message == (
        f"rows.jsonl, row 1: message 2 has weight {weight!r}: it must be 1 (trained on) or 0 (not trained on)"
    )


def test_a_content_in_parts_is_their_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"type": "text", "text": "Because of ✓ "}, {"type": "text", "text": "oil."}]
    assert chat_answers(tmp_path, tokenizer, CHATML, [CHAT[0], {**CHAT[1], "content": parts}]) == [
        "Because of ✓ oil.</s>"
    ]
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    message = refusal(write_jsonl(tmp_path / "rows.jsonl", [{"messages": [image, ANSWER]}]))
    assert message == 'rows.jsonl, row 1: message 1 has a part of the type "image_url": only text is trained on'


def test_a_system_prompt_beside_messages_begins_them(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    beside = {"system": "Be terse.", "messages": CHAT[:2]}
    within = {"messages": [{"role": "system", "content": "Be terse."}, *CHAT[:2]]}
    examples = tokenise(
        config.Data(path=str(write_jsonl(tmp_path / "c.jsonl", [beside, within])), chat_template=CHATML), tokenizer
    )
    assert examples.example(0)[0].tolist() == examples.example(1)[0].tolist()


def test_earlier_turns_come_before_the_input() -> None:
    row = {**ROW, "input": "i", "history": [["c", "d"]]}
    (first, _), (last, _) = alpaca_pieces(row)
    assert first.startswith("Below is an instruction that describes a task, paired with an input")
    assert last == "\n\n### Instruction:\na\n\n### Input:\ni\n\n### Response:\n"
