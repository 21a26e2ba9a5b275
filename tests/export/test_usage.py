"""How the card says to use an export: the code asks as in training, and the servers get options that they accept."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.export.usage import BEGINNING, QUESTION, RANKS, Tokenizer, usage
from partune.finetune.data import tokenise
from partune.finetune.model import ending
from tests.support.chosen import chosen
from tests.support.tiny import make_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
ROWS: dict[str, Any] = {
    "alpaca": {"instruction": QUESTION, "output": "red"},
    "completion": {"prompt": BEGINNING, "completion": " red"},
    "chat": {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "red"}]},
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def asked(text: str, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], str]:
    """Run the example with a model that answers "blue"; return the tokens it was asked with, and what is printed."""
    seen: dict[str, Any] = {}

    def generate(input_ids: torch.Tensor, attention_mask: torch.Tensor, max_new_tokens: int) -> torch.Tensor:
        assert input_ids.shape == attention_mask.shape
        seen["tokens"] = input_ids[0].tolist()
        answer = torch.tensor([tokenizer("blue", add_special_tokens=False)["input_ids"] + [1]])
        return torch.cat([input_ids, answer], dim=1)

    printed: list[str] = []
    model = SimpleNamespace(device=torch.device("cpu"), generate=generate)
    exec(blocks(text, "python")[1], {"tokenizer": tokenizer, "model": model, "print": printed.append})
    return seen["tokens"], printed[0]


@pytest.mark.parametrize("end", [False, True], ids=["", "with an end after every text"])
@pytest.mark.parametrize("rows", ROWS)
def test_the_example_asks_with_the_tokens_of_the_training(rows: str, end: bool, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    if end:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    tokenizer.chat_template = TEMPLATE
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[rows]) + "\n")
    examples = tokenise(config.Data(path=str(tmp_path / "rows.jsonl")), tokenizer)
    assert examples.form == rows
    tokens, trained = examples.example(0)
    text = "\n\n".join(usage(chosen(rows=rows), False, Tokenizer(len(ending(tokenizer)))))
    assert asked(text, tokenizer) == (tokens[: int(trained.argmax())].tolist(), "blue")


def test_a_template_that_is_not_in_the_export_is_in_the_example() -> None:
    tokenizer = make_tokenizer()
    given = chosen(rows="chat", data={"chat_template": TEMPLATE})
    (without,) = (blocks("\n\n".join(usage(given, False, None)), "python")[1],)
    assert without.startswith(f"tokenizer.chat_template = {TEMPLATE!r}\n")
    assert "chat_template =" not in blocks("\n\n".join(usage(given, False, Tokenizer())), "python")[1]
    tokens, _ = asked("\n\n".join(usage(given, False, None)), tokenizer)
    assert tokenizer.decode(tokens) == f"<user> {QUESTION}\n<assistant> "


def test_contents_in_parts_are_given_in_parts() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    )
    tokens, _ = asked("\n\n".join(usage(chosen(rows="chat"), False, Tokenizer(parts=True))), tokenizer)
    assert tokenizer.decode(tokens) == QUESTION


@pytest.mark.parametrize(("rank", "most"), [(1, "8"), (8, "8"), (9, "16"), (64, "64"), (257, "320"), (512, "512")])
def test_vllm_gets_a_rank_that_it_accepts_and_that_holds_the_adapter(rank: int, most: str) -> None:
    text = "\n\n".join(usage(chosen(training={"lora_r": rank}), False, Tokenizer()))
    (line,) = (shlex.split(each) for each in blocks(text, "sh"))
    assert line == (
        [
            "vllm",
            "serve",
            "acme/base-1b",
            "--enable-lora",
            "--max-lora-rank",
            most,
            "--lora-modules",
            "tuned=this/folder",
        ]
    )
    assert int(most) in RANKS


def test_servers_load_the_base_as_it_was_scored() -> None:
    given = chosen(
        model={"path": "acme/base-1b", "revision": "v 2", "quantize": "nf4", "trust_remote_code": True}, rows="chat"
    )
    text = "\n\n".join(usage(given, False, Tokenizer()))
    (line,) = (shlex.split(each) for each in blocks(text, "sh"))
    options = [
        "--revision",
        "v 2",
        "--trust-remote-code",
        "--tokenizer",
        "this/folder",
        "--quantization",
        "bitsandbytes",
    ]
    assert line[3 : 3 + len(options)] == options
    assert (
        "from_pretrained('acme/base-1b', revision='v 2', trust_remote_code=True, quantization_config=four_bits)" in text
    )
    merged = "\n\n".join(usage(given, True, Tokenizer()))
    lines = blocks(merged, "sh")[0].splitlines()
    assert lines == [f"{name} serve this/folder --trust-remote-code" for name in ("vllm", "transformers")]
    assert "export with `--merge`" not in merged


def test_what_vllm_cannot_load_has_no_line() -> None:
    text = "\n\n".join(usage(chosen(training={"lora_r": 513}), False, Tokenizer()))
    assert not blocks(text, "sh")
    assert "vLLM loads no adapters of a rank above 512. `transformers serve` loads no adapters: export with" in text
