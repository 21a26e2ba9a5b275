"""Chats as templates write them: each answer is trained as a model will have to give it.

The stand-ins below do what templates of well-known models do; those that TRL carries are tried too where TRL is
installed, or its folder of templates is named by PARTUNE_TRL_TEMPLATES.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune.chats import Chat
from partune.finetune.data import Examples, tokenise
from partune.report.data_notes import row_notes
from tests.finetune.test_data import CHATML, MARKED, answers, chat_answers
from tests.support.tiny import write_jsonl

USER, THEN = {"role": "user", "content": "What is it?"}, {"role": "user", "content": "And then?"}
RAIN, SUN = {"role": "assistant", "content": "Rain."}, {"role": "assistant", "content": "Sun."}
TWO = [USER, RAIN, THEN, SUN]

# What is written after the last turn only (Phi-3).
CLOSED = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% else %}{{ eos_token }}{% endif %}"
)
# Reasoning is written in turns after the last question only (Qwen3, gpt-oss).
THINKING = (
    "{% set last = namespace(i=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.i = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>\n{% if m.role == 'assistant' and loop.index0 > last.i %}"
    "[{{ m.reasoning_content }}]\n{% endif %}{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
# The prompt for an answer asks for reasoning; answers are written without (DeepSeek), or with some that is empty
# (Nemotron).
PROMPTED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
EMPTY_THOUGHT = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>{% endif %}"
    "{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
# Contents are lists of parts (templates of models that see).
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# The first message is looked at, so there is no chat without one.
FIRST = "{% if messages[0]['role'] == 'system' %}{% endif %}" + CHATML
# A question is wanted in every chat (Qwen3.5).
ASKED = (
    "{% if 'user' not in messages | map(attribute='role') | list %}{{ raise_exception('no question') }}{% endif %}"
    + THINKING
)
TOOLS = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{{ m.content if m.content else '' }}{% for call in m.tool_calls or [] %}"
    "[{{ call.function.name }} ARGUMENTS]{% endfor %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Xen"}'}}
CALLED = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "wet"},
    RAIN,
]


def examples_of(path: Path, tokenizer: PreTrainedTokenizerFast, template: str, *rows: Any) -> Examples:
    whole = [row if isinstance(row, dict) else {"messages": row} for row in rows]
    return tokenise(config.Data(path=str(write_jsonl(path / "chats.jsonl", whole)), chat_template=template), tokenizer)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CLOSED, ["Rain.<end>Sun.<end>\n</s>"]),
        (THINKING, ["[]\nSun.<end>", "[]\nRain.<end>"]),
        (PROMPTED, ["Rain.<end>Sun.<end>"]),
        (EMPTY_THOUGHT, ["</think>Rain.<end></think>Sun.<end>"]),
        (PARTS, ["Rain.<end>Sun.<end>"]),
        (FIRST, ["Rain.</s>Sun.</s>"]),
        (MARKED, ["Rain.</s>Sun.</s>"]),
    ],
)
def test_every_answer_of_a_chat_is_trained(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, template: str, expected: list[str]
) -> None:
    assert chat_answers(tmp_path, tokenizer, template, TWO) == expected
    system = {"role": "system", "content": "Be terse."}
    assert chat_answers(tmp_path, tokenizer, template, [system, *TWO]) == expected


@pytest.mark.parametrize("template", [CLOSED, THINKING, PROMPTED, EMPTY_THOUGHT, PARTS, FIRST, CHATML, MARKED])
def test_a_chat_may_begin_with_the_assistant(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    text = "".join(chat_answers(tmp_path, tokenizer, template, [RAIN, THEN, SUN]))
    assert "Rain." in text
    assert "Sun." in text
    assert "assistant" not in text


def test_a_first_answer_is_found_where_no_chat_may_end_with_it(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert chat_answers(tmp_path, tokenizer, ASKED, [RAIN, THEN, SUN]) == ["Rain.<end>[]\nSun.<end>"]
    with pytest.raises(UserError, match="row 1: the chat template fails: no question"):
        chat_answers(tmp_path, tokenizer, ASKED, [RAIN])


def test_an_answer_that_is_written_otherwise_later_is_trained_as_the_last(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Its example is what the template makes of the chat so far, and nothing else of it is trained on."""
    reasons = [USER, {**RAIN, "reasoning_content": "grey"}, THEN, {**SUN, "reasoning_content": "blue"}]
    examples = examples_of(tmp_path, tokenizer, THINKING, reasons)
    whole, so_far = (
        tokenizer.apply_chat_template(messages, chat_template=THINKING, tokenize=False)
        for messages in (reasons, reasons[:2])
    )
    assert [tokenizer.decode(examples.example(i)[0]) for i in range(2)] == [whole, so_far]
    assert answers(examples, tokenizer) == ["[blue]\nSun.<end>", "[grey]\nRain.<end>"]
    both = answers(examples.cut(1000, "all"), tokenizer)
    assert both == [whole[1:], "[grey]\nRain.<end>"]  # prompts once
    assert examples.summary["answers_apart"] == 1
    assert "The chat template writes 1 answer differently if more messages follow" in row_notes(examples.summary)[0]


def test_a_chat_without_its_last_answer_is_still_trained_with_prompts(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = examples_of(tmp_path, tokenizer, THINKING, [USER, RAIN, THEN])
    assert answers(examples, tokenizer) == ["[]\nRain.<end>"]
    assert "What is it?" in answers(examples.cut(1000, "all"), tokenizer)[0]


@pytest.mark.parametrize("template", [CHATML, MARKED, THINKING])
def test_a_weight_of_nought_is_the_right_answers(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    for weights, expected, other in (((0, 1), "Sun.", "Rain."), ((1, 0), "Rain.", "Sun.")):
        messages = [USER, {**RAIN, "weight": weights[0]}, THEN, {**SUN, "weight": weights[1]}]
        examples = examples_of(tmp_path, tokenizer, template, messages)
        for loss_on in ("answer", "all"):
            text = "".join(answers(examples.cut(1000, loss_on), tokenizer))  # type: ignore[arg-type]
            assert expected in text
            assert other not in text


# ----- what goes to the template


@pytest.mark.parametrize("arguments", ["{{ call.function.arguments | tojson }}", "{{ '' + call.function.arguments }}"])
def test_tools_and_their_calls_reach_the_template(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, arguments: str
) -> None:
    template = TOOLS.replace("ARGUMENTS", arguments)
    examples = examples_of(tmp_path, tokenizer, template, {"messages": CALLED, "tools": [TOOL]})
    text = tokenizer.decode(examples.tokens)
    assert text.startswith('<tools>[{"type": "function", "function": {"name": "weather"')
    assert answers(examples, tokenizer) == ['[weather {"city": "Xen"}]<end>Rain.<end>']
    assert examples.summary["unused"] == {"tool_call_id": 1}
    assert {"tools", "tool_calls"} <= set(examples.summary["fields"])
    older = examples_of(tmp_path, tokenizer, template, {"messages": CALLED, "functions": [TOOL["function"]]})
    assert older.tokens.tolist() == examples.tokens.tolist()


def test_calls_that_a_template_does_not_write_are_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """An empty answer would be trained in their place."""
    with pytest.raises(
        UserError,
        match=r"row 1: the chat template fails: it does not write the tool calls .* \(weather\); .* FILE`",
    ):
        examples_of(tmp_path, tokenizer, CHATML, {"messages": CALLED, "tools": [TOOL]})


def test_fields_that_a_template_does_not_read_are_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{**USER, "name": "ann"}, {**RAIN, "reasoning_content": "grey", "weight": None}]
    row = {"messages": messages, "tools": [TOOL], "source": "s", "id": None}
    examples = examples_of(tmp_path, tokenizer, CHATML, row, [USER, RAIN])
    assert examples.summary["unused"] == {"name": 1, "reasoning_content": 1, "source": 1, "tools": 1}
    assert row_notes(examples.summary) == [
        "1 row has fields that are not used: name, reasoning_content, source, tools."
    ]
    assert examples.summary["fields"] == {"messages": "messages"}


def test_settings_of_a_row_reach_the_template(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    template = "{% if terse %}Be terse.{% endif %}" + CHATML
    row = {"messages": [USER, RAIN], "chat_template_kwargs": {"terse": True}}
    assert tokenizer.decode(examples_of(tmp_path, tokenizer, template, row).tokens).startswith("Be terse.<|user|>")


def test_messages_that_are_not_written_are_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    template = "{% for m in messages if m.role != 'system' %}" + CHATML.partition("%}")[2]
    system = {"role": "system", "content": "Be terse."}
    examples = examples_of(tmp_path, tokenizer, template, [system, USER, RAIN], [USER, RAIN])
    assert examples.summary["cut_by_template"] == 1
    assert row_notes(examples.summary) == ["In 1 chat, the chat template leaves out or changes part of a message."]


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("</s>\n", "{{ '' if loop.last else '</s>' }}"),
        MARKED.replace("</s>{% endgeneration %}", "{% endgeneration %}</s>"),
    ],
)
def test_answers_whose_end_is_not_trained_on_are_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    examples = examples_of(tmp_path, tokenizer, template, TWO, [USER, RAIN])
    assert examples.summary["endless_answers"] == 2
    assert "endless_answers" not in examples_of(tmp_path, tokenizer, MARKED, TWO).summary


# ----- the templates that TRL carries


def trl_templates() -> list[Path]:
    """The original templates of TRL, where it is there; without those it made for training."""
    spec = importlib.util.find_spec("trl")
    package = Path(spec.origin).parent / "chat_templates" if spec is not None and spec.origin is not None else Path()
    folder = Path(os.environ.get("PARTUNE_TRL_TEMPLATES", package))
    return [path for path in sorted(folder.glob("*.jinja")) if not path.stem.endswith("_training")]


@pytest.mark.slow
@pytest.mark.parametrize("path", trl_templates() or [None], ids=lambda path: path.stem if path else "none")
def test_templates_of_well_known_models_train_each_answer_and_no_question(
    path: Path | None, tokenizer: PreTrainedTokenizerFast
) -> None:
    if path is None:
        pytest.skip("install trl, or name a folder of templates by PARTUNE_TRL_TEMPLATES")
    chat = Chat.of(tokenizer, str(path))
    written = chat.write({"messages": TWO})
    trained = "".join(text for pieces in written.examples for text, kind in pieces if kind == "answer")
    for answer in ("Rain.", "Sun."):
        assert trained.count(answer) == 1
    assert "What is it?" not in trained
    assert "And then?" not in trained
    assert not written.cut
    # Each example is the template's own text, of the whole chat or of a beginning of it.
    texts = {chat.write({"messages": messages}).texts[0] for messages in (TWO, TWO[:2])}
    assert set(written.texts) <= texts
