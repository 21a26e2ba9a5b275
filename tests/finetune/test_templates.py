"""Named chat templates write the texts that the formats' descriptions show, and train on each answer with its end."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune.chats import Chat, template_text
from partune.finetune.data import OPENING, alpaca_pieces, tokenise
from partune.finetune.templates import TEMPLATES
from partune.report.data_notes import row_notes
from tests.support.tiny import write_jsonl

CHAT = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "Rust."},
    {"role": "user", "content": "so?"},
    {"role": "assistant", "content": "Oil it."},
]
# The examples of the descriptions that templates.py names, with these messages in place of theirs. Gemma's and
# Mistral's have the system's text within the first turn of the user.
WRITTEN = {
    "chatml": "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\nRust."
    "<|im_end|>\n<|im_start|>user\nso?<|im_end|>\n<|im_start|>assistant\nOil it.<|im_end|>\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe terse.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nwhy?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nRust.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nso?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nOil it.<|eot_id|>",
    "mistral": "<s>[INST] Be terse.\n\nwhy?[/INST] Rust.</s>[INST] so?[/INST] Oil it.</s>",
    "gemma": "<s><start_of_turn>user\nBe terse.\n\nwhy?<end_of_turn>\n<start_of_turn>model\nRust.<end_of_turn>\n"
    "<start_of_turn>user\nso?<end_of_turn>\n<start_of_turn>model\nOil it.<end_of_turn>\n",
    "phi3": "<|system|>\nBe terse.<|end|>\n<|user|>\nwhy?<|end|>\n<|assistant|>\nRust.<|end|>\n"
    "<|user|>\nso?<|end|>\n<|assistant|>\nOil it.<|end|>\n",
    "zephyr": "<|system|>\nBe terse.</s>\n<|user|>\nwhy?</s>\n<|assistant|>\nRust.</s>\n"
    "<|user|>\nso?</s>\n<|assistant|>\nOil it.</s>\n",
    "alpaca": "<s>Be terse.\n\n### Instruction:\nwhy?\n\n### Response:\nRust.</s>"
    "\n\n### Instruction:\nso?\n\n### Response:\nOil it.</s>",
}
TRAINED = {
    "chatml": ["Rust.<|im_end|>", "Oil it.<|im_end|>"],
    "llama3": ["Rust.<|eot_id|>", "Oil it.<|eot_id|>"],
    "mistral": [" Rust.</s>", " Oil it.</s>"],
    "gemma": ["Rust.<end_of_turn>", "Oil it.<end_of_turn>"],
    "phi3": ["Rust.<|end|>", "Oil it.<|end|>"],
    "zephyr": ["Rust.</s>", "Oil it.</s>"],
    "alpaca": ["Rust.</s>", "Oil it.</s>"],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_named_template_writes_its_format_and_trains_on_the_answers(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    written = Chat.of(tokenizer, name).write({"messages": CHAT})
    assert written.texts == [WRITTEN[name]]
    assert [text for text, kind in written.examples[0] if kind == "answer"] == TRAINED[name]
    assert (written.cut, written.endless) == (False, False)


def test_the_template_alpaca_writes_what_alpaca_rows_are_trained_as(tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"instruction": "so?", "output": "Oil it.", "history": [["why?", "Rust."]]}
    pieces = [(prompt, f"{answer}</s>") for prompt, answer in alpaca_pieces(row)]
    (example,) = Chat.of(tokenizer, "alpaca").write({"messages": CHAT[1:]}).examples
    assert example == [
        (f"<s>{pieces[0][0]}", "prompt"),
        (pieces[0][1], "answer"),
        (pieces[1][0], "prompt"),
        (pieces[1][1], "answer"),
    ]
    assert pieces[0][0].startswith(OPENING)


def test_a_tokenizer_without_a_template_takes_one_by_name(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = str(write_jsonl(tmp_path / "chats.jsonl", [{"messages": CHAT}]))
    with pytest.raises(UserError, match=r"has no chat template: .* one of chatml, llama3, mistral, gemma, phi3"):
        tokenise(config.Data(path=path), tokenizer)
    examples = tokenise(config.Data(path=path, chat_template="ChatML"), tokenizer)
    assert tokenizer.decode(examples.tokens) == WRITTEN["chatml"]
    assert examples.summary["split_marks"] == ["<|im_start|>", "<|im_end|>"]
    assert row_notes(examples.summary) == [
        "The chat template's <|im_start|>, <|im_end|> are not in the tokenizer's vocabulary, so the model reads "
        "several tokens of ordinary text there."
    ]
    added = copy.deepcopy(tokenizer)
    added.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert "split_marks" not in tokenise(config.Data(path=path, chat_template="chatml"), added).summary


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r'no chat template file chatmll; did you mean "chatml"\?; the names are'):
        template_text("chatmll")
