"""What is counted in rows: the same with a tokenizer and without, and each count with its own kind of row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.finetune.data import tokenise
from partune.finetune.reading import is_empty, reading_of
from partune.finetune.rows.files import read
from partune.finetune.rows.forms import normalise
from tests.finetune.test_data import CHATML
from tests.support.tiny import write_jsonl

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "Be terse."}
INSTRUCTED = {"instruction": "q", "input": "", "output": "a"}
PREFERRED = {"prompt": "q", "chosen": "a", "rejected": "b"}


def chat(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*messages]}


@pytest.mark.parametrize(
    ("usual", "rows", "name"),
    [
        (INSTRUCTED, [{**INSTRUCTED, "instruction": " "}, {**INSTRUCTED, "instruction": ""}], "empty_prompts"),
        (INSTRUCTED, [{**INSTRUCTED, "output": " "}], "empty_answers"),
        (INSTRUCTED, [{"instruction": "", "input": "q", "output": ""}], "empty_answers"),
        ({"prompt": "q", "completion": "a"}, [{"prompt": "", "completion": "a"}], "empty_prompts"),
        (PREFERRED, [{**PREFERRED, "rejected": "a"}], "same_as_rejected"),
        (PREFERRED, [{**PREFERRED, "prompt": "\n"}], "empty_prompts"),
        (
            {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "b"}]},
            [{"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}],
            "same_as_rejected",
        ),
        (chat(USER, ANSWER), [chat(ANSWER, USER, ANSWER), chat(SYSTEM, ANSWER)], "answers_first"),
        (chat(USER, ANSWER), [chat(USER), chat(SYSTEM, USER, USER)], "unanswered"),
        (chat(USER, ANSWER), [chat(USER, {**ANSWER, "content": ""})], "empty_answers"),
        (chat(USER, ANSWER), [chat({**USER, "content": " "}, ANSWER)], "empty_prompts"),
        (chat(USER, ANSWER), [chat(USER, ANSWER, USER, {**ANSWER, "weight": 0})], "untrained"),
    ],
)
def test_a_kind_of_row_has_its_own_count(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, usual: dict[str, Any], rows: list[dict[str, Any]], name: str
) -> None:
    counts = {"empty_prompts", "empty_answers", "same_as_rejected", "answers_first", "unanswered", "untrained"}
    data = config.Data(path=str(write_jsonl(tmp_path / "r.jsonl", [usual, usual, *rows])), chat_template=CHATML)
    source = read(data)
    without = reading_of(normalise(data, source.rows), source)
    assert {key: value for key, value in without.items() if key in counts} == {name: len(rows)}
    examples = tokenise(data, tokenizer)
    assert {key: value for key, value in examples.summary.items() if key in counts} == {name: len(rows)}
    assert examples.empty == 0


def test_what_has_no_answer_is_told_from_what_is_too_long(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    long = chat({**USER, "content": "oil " * 200}, ANSWER)
    rows = [chat(USER, ANSWER), chat(USER), chat(USER, {**ANSWER, "weight": 0}), long]
    data = config.Data(path=str(write_jsonl(tmp_path / "r.jsonl", rows)), chat_template=CHATML)
    cut = tokenise(data, tokenizer).cut(128, "answer")
    assert (len(cut), cut.untrainable, cut.answerless) == (1, 3, 2)
    whole = tokenise(data, tokenizer).cut(10_000, "answer")
    assert (len(whole), whole.untrainable, whole.answerless) == (2, 2, 2)


def test_a_row_with_an_input_only_is_not_empty() -> None:
    row = {"instruction": "", "input": "", "output": "", "history": []}
    assert is_empty(row, "alpaca")
    assert not is_empty({**row, "input": "q"}, "alpaca")
