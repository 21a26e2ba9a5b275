"""Rows as they are: what each field becomes, and what is refused by number."""

from __future__ import annotations

import copy
import csv
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


# ----- rows as people have them: fifty of each form, with the traps of its kind

TOPICS = [
    "why\nso?",
    'a "quoted"; text',
    "Größe, ✓ 漢字",
    "NA",
    "007",
    " spaced ",
    "a\tb",
    "{curly} %s \\n",
    "x" * 300,
    "<b>",
]
ASKED = [f"{TOPICS[i % 10]} {i}" for i in range(50)]
GIVEN = [f"{TOPICS[(i + 3) % 10]}" for i in range(50)]
PLAIN = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n"
)
PAIRS = list(zip(ASKED, GIVEN, strict=True))
INSTRUCTED = [(f"<s>{PLAIN.format(question)}", f"{answer}</s>") for question, answer in PAIRS]
CONTINUED = [(f"<s>{question}", f"{answer}</s>") for question, answer in PAIRS]
CHATTED = [(f"<|user|>\n{question}</s>\n<|assistant|>\n", f"{answer}</s>") for question, answer in PAIRS]


def turns(question: str, answer: str, **extra: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question, **extra}, {"role": "assistant", "content": answer, **extra}]


def csv_of(path: Path, columns: dict[str, list[str]], separator: str = ",", mark: str = "") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        csv.writer(file, delimiter=separator).writerows([list(columns), *zip(*columns.values(), strict=True)])


def parquet_of(path: Path, columns: dict[str, list[Any]]) -> None:
    pq.write_table(pa.table(columns), path)


def sharegpt(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


NUMBERS = list(range(50))
# name of the file: (how it is written, settings of the data, the texts before and of the answers, what is counted)
PEOPLES: dict[str, tuple[Callable[[Path], object], dict[str, Any], list[tuple[str, str]], dict[str, Any]]] = {
    "alpaca.jsonl": (
        lambda path: write_jsonl(path, [{"instruction": q, "input": None, "output": a, "id": 0} for q, a in PAIRS]),
        {}, INSTRUCTED, {"layout": "alpaca", "unused": {"id": 50}},
    ),
    "dolly.parquet": (
        lambda path: parquet_of(path, {"instruction": ASKED, "context": GIVEN, "response": ASKED, "category": GIVEN}),
        {},
        [(f"<s>{WITH_INPUT.format(q, a)}", f"{q}</s>") for q, a in PAIRS],
        {"layout": "alpaca", "unused": {"category": 50}},
    ),
    "excel.csv": (
        lambda path: csv_of(path, {"Question": ASKED, "Answer": GIVEN, "": list(map(str, NUMBERS))}, ";", "\ufeff"),
        {}, INSTRUCTED, {"layout": "qa", "separators": ["semicolons"], "unused": {"Unnamed: 2": 50}},
    ),
    "faq.tsv": (
        lambda path: csv_of(path, {"query": ASKED, "response": GIVEN}, "\t"), {}, INSTRUCTED, {"layout": "qa"},
    ),
    "tickets.csv": (
        lambda path: csv_of(path, {"ticket": ASKED, "queue": GIVEN, "output": ASKED}),
        {"columns": {"instruction": "ticket", "output": "queue"}},
        INSTRUCTED,
        {"layout": "alpaca", "fields": {"instruction": "ticket", "output": "queue"}, "unused": {"output": 50}},
    ),
    "labels.parquet": (
        lambda path: parquet_of(path, {"text": ASKED, "label": [i % 3 for i in NUMBERS]}),
        {},
        [(prompt, f"{i % 3}</s>") for i, (prompt, _) in enumerate(INSTRUCTED)],
        {"layout": "label"},
    ),
    "chat.json": (
        lambda path: path.write_text(json.dumps([{"messages": turns(q, a), "tools": []} for q, a in PAIRS])),
        {}, CHATTED, {"layout": "chat", "format": "chat"},
    ),
    "chat.parquet": (
        lambda path: parquet_of(path, {"messages": [turns(q, a, name=None) for q, a in PAIRS], "n": NUMBERS}),
        {}, CHATTED, {"layout": "chat", "unused": {"n": 50}},
    ),
    "chat.csv": (
        lambda path: csv_of(path, {"messages": [json.dumps(turns(q, a)) for q, a in PAIRS]}),
        {}, CHATTED, {"layout": "chat"},
    ),
    "sharegpt.json": (
        lambda path: path.write_text(json.dumps([{"id": str(q), "conversations": sharegpt(q, a)} for q, a in PAIRS])),
        {}, CHATTED, {"layout": "sharegpt", "unused": {"id": 50}, "fields": {"messages": "conversations"}},
    ),
    "completion.jsonl": (
        lambda path: write_jsonl(path, [{"prompt": q, "completion": a} for q, a in PAIRS]),
        {}, CONTINUED, {"layout": "completion", "format": "completion"},
    ),
    "completion-chat.jsonl": (
        lambda path: write_jsonl(path, [{"prompt": turns(q, a)[:1], "completion": turns(q, a)[1:]} for q, a in PAIRS]),
        {}, CHATTED, {"layout": "completion", "format": "chat"},
    ),
    "dpo.csv": (
        lambda path: csv_of(path, {"prompt": ASKED, "chosen": GIVEN, "rejected": ASKED}),
        {}, CONTINUED, {"layout": "preference", "rejected": 50},
    ),
    "dpo.parquet": (
        lambda path: parquet_of(
            path, {"chosen": [turns(q, a) for q, a in PAIRS], "rejected": [turns(q, "no") for q, _ in PAIRS]}
        ),
        {}, CHATTED, {"layout": "preference", "format": "chat", "rejected": 50, "fields": {"chosen": "chosen"}},
    ),
    "texts.csv": (
        lambda path: csv_of(path, {"text": ASKED}),
        {}, [("<s>", f"{text}</s>") for text in ASKED], {"layout": "text", "format": "text"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PEOPLES)
def test_rows_as_people_have_them_are_trained_on_as_they_are(
    name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write, settings, texts, counted = PEOPLES[name]
    write(tmp_path / name)
    data = config.Data(path=str(tmp_path / name), chat_template=CHATML, **settings)
    examples = tokenise(data, tokenizer)
    cut = examples.cut(10_000, "answer")
    found = []
    for i in range(len(cut)):
        tokens, trained = cut.example(i)
        start = int(np.flatnonzero(trained)[0])
        end = int(np.flatnonzero(trained)[-1]) + 1
        assert trained[start:end].all()
        assert tokenizer.decode(tokens[end:]).strip() == ""
        found.append((tokenizer.decode(tokens[:start]), tokenizer.decode(tokens[start:end])))
    assert found == texts
    summary = cut.summary
    assert {key: summary[key] for key in counted} == counted
    assert (summary["rows"], summary["examples"]) == (50, 50)
    assert all(row_notes(summary))


def test_texts_are_trained_on_from_the_second_token_to_the_end(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"text": "the pump"}, {"text": "the pump</s>"}, {"text": " "}, {"text": None}]
    examples = tokenise(config.Data(path=str(write_jsonl(tmp_path / "t.jsonl", rows))), tokenizer).cut(99, "answer")
    assert [tokenizer.decode(examples.example(i)[0]) for i in (0, 1)] == ["<s>the pump</s>"] * 2
    assert examples.trained.tolist() == (examples.tokens != tokenizer.bos_token_id).tolist()
    assert (len(examples), examples.empty) == (2, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "completion": None}, f'"completion" {NULL}'),
        ({"prompt": "q", "completion": 3}, '"completion" must be text, got 3'),
        ({"prompt": "q", "chosen": None, "rejected": "r"}, f'"chosen" {NULL}'),
        ({"prompt": ["q"], "completion": "a"}, "\"prompt\" must be text, got ['q']"),
        ({"text": 3}, '"text" must be text, got 3'),
        ({"text": "a", "label": 0.5}, '"label" must be text, got 0.5'),
        ({"text": "a", "label": None}, f'"label" {NULL}'),
        ({"question": "q", "answer": None}, f'"answer" {NULL}'),
        ({"question": "q", "answer": ["a"]}, "\"answer\" must be text, got ['a']"),
        (
            {"question": "q", "answer": datetime.date(2026, 1, 2)},
            '"answer" must be text, got datetime.date(2026, 1, 2)',
        ),
    ],
)
def test_a_row_that_must_be_a_mistake_is_refused(row: dict[str, Any], message: str) -> None:
    good = dict.fromkeys(row, "text")
    with pytest.raises(UserError) as caught:
        normalise(config.Data(path="rows.jsonl"), [good, row])
    assert str(caught.value).startswith(f"rows.jsonl, row 2: {message}")


@pytest.mark.slow
def test_a_preference_without_a_prompt_begins_with_what_both_answers_share() -> None:
    """As TRL's `extract_prompt`, which leaves the space to the answer, if the words that differ begin differently."""
    from trl.data_utils import extract_prompt

    rows = [
        {"chosen": "Human: why?\n\nAssistant: Rust.", "rejected": "Human: why?\n\nAssistant: Oil."},
        {"chosen": "a b", "rejected": "c d"},
        {"chosen": "ab cd", "rejected": "ab ef"},
    ]
    found = normalise(config.Data(path="rows.jsonl"), rows)
    expected = [extract_prompt(row) for row in rows]
    assert [(row["prompt"], row["completion"]) for _, row in found.rows] == [
        (row["prompt"], row["chosen"]) for row in expected
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("User: why?\n\nBot: Rust.", "User: why?\n\nBot: Ruby.", "User: why?\n\nBot:"),
        ("the cats", "the cat", "the"),
        ("the cat", "the cats", "the"),
        ("the cat.", "the cat, too.", "the cat"),
        ("the cat", "the cat sat", "the cat"),
        ("the cat sat", "the cat", "the cat"),
        ("a\nÖl", "a\nÖle", "a\n"),
        ("原因？锈。", "原因？锈蚀。", "原因？"),
        ("cats", "cars", ""),
        ("same start", None, ""),
    ],
)
def test_the_prompt_that_both_answers_share_ends_before_a_word(chosen: str, rejected: str | None, prompt: str) -> None:
    found = normalise(config.Data(path="rows.jsonl"), [{"chosen": chosen, "rejected": rejected}])
    assert found.rows == [(1, {"prompt": prompt, "completion": chosen.removeprefix(prompt)})]


def test_equal_answers_show_no_prompt() -> None:
    rows = [
        {"chosen": "a b", "rejected": "a c"},
        {"chosen": "User: why?\nBot: Rust.", "rejected": "User: why?\nBot: Rust."},
    ]
    with pytest.raises(UserError) as caught:
        normalise(config.Data(path="rows.jsonl"), rows)
    assert str(caught.value) == (
        'rows.jsonl, row 2: "chosen" and "rejected" are the same text, so nothing shows where the answer begins: leave '
        "the row out"
    )
    asked = [{"prompt": "why?", **row} for row in rows]  # the prompt shows it
    assert [row["completion"] for _, row in normalise(config.Data(path="rows.jsonl"), asked).rows] == [
        row["chosen"] for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["completion.jsonl", "completion-chat.jsonl", "texts.csv"])
def test_completions_and_texts_have_the_tokens_that_trl_trains_on(
    name: str, tmp_path: Path, folders: dict[str, Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Where prompts end and answers begin at a border of tokens; partune never lets tokens span the two."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    write, settings, _, _ = PEOPLES[name]
    write(tmp_path / name)
    kind = "csv" if name.endswith(".csv") else "json"
    dataset = load_dataset(kind, data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache"))
    if isinstance(dataset[0].get("completion"), str):
        dataset = dataset.map(lambda row: {"completion": f" {row['completion']}"})
        dataset.to_json(str(tmp_path / name))
    marked = copy.deepcopy(tokenizer)
    marked.chat_template = CHATML
    arguments = SFTConfig(
        output_dir=str(tmp_path / "out"), max_length=10_000, use_cpu=True, report_to="none", bf16=False
    )
    trainer = SFTTrainer(str(folders["llama"]), arguments, train_dataset=dataset, processing_class=marked)
    data = config.Data(path=str(tmp_path / name), chat_template=CHATML, **settings)
    examples = tokenise(data, tokenizer).cut(10_000, "answer")
    prepared = list(trainer.train_dataset)
    assert len(prepared) == len(examples) == 50
    for i, row in enumerate(prepared):
        tokens, trained = examples.example(i)
        assert row["input_ids"] == tokens.tolist()
        labels = np.array(row["labels"] if "labels" in row else row["input_ids"])
        assert (labels[1:] != -100).argmax() == trained[1:].argmax()
