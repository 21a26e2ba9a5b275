"""The harness's way of making tokens of requests, but for what a tokenizer adds to every text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.scoring.scores import (
    Scorer,
)
from tests.support.tiny import make_items, make_tokenizer, write_task


def scorer(base: Base, *tasks: Path, tests: tuple[Path, ...] = (), seed: int = 0, **settings: Any) -> Scorer:
    validation = config.Validation(tasks=tuple(map(str, tasks)), **settings)
    return Scorer(base, validation, config.Test(tasks=tuple(map(str, tests))), seed)


def ended(template: str, pair: tuple[str, int]) -> PreTrainedTokenizerFast:
    """The tests' tokenizer with another template of what stands around a text."""
    tokenizer = make_tokenizer()
    rust = tokenizer.backend_tokenizer
    named = [("<s>", 0), pair] if "<s>" in template else [pair]
    rust.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("fewshot", [0, 2])
@pytest.mark.parametrize("template", ["$A </s>", "<s> $A </s>", "<s> $A <pad>", "<s> $A </s> </s>"])
def test_what_a_tokenizer_puts_after_every_text_is_no_part_of_a_choice(
    base: Base, task_file: Path, template: str, fewshot: int
) -> None:
    """Requests are those of the same tokenizer without it."""
    last = template.split()[-1]
    name = (last, {"</s>": 1, "<pad>": 2}[last])
    marked = dataclasses.replace(base, tokenizer=ended(template, name))
    plain = dataclasses.replace(base, tokenizer=ended(template.split("$A")[0] + "$A", name))
    expected, found = (scorer(each, task_file, fewshot=fewshot) for each in (plain, marked))
    assert marked.tokenizer("oil")["input_ids"][-1] == name[1]
    for mine, theirs in zip(found.parts, expected.parts, strict=True):
        assert mine.requests == theirs.requests
        for (context, choice), before, continuation in mine.requests:
            assert plain.tokenizer.decode(continuation) == choice
            assert before == plain.tokenizer(context)["input_ids"]


def test_a_text_that_itself_ends_with_the_token_keeps_it(base: Base, tmp_path: Path) -> None:
    items = make_items(6)
    for item in items:
        item["choices"] = [f"{choice}</s>" for choice in item["choices"]]
    path = write_task(tmp_path, "marked", items)
    marked = dataclasses.replace(base, tokenizer=ended("<s> $A </s>", ("</s>", 1)))
    requests = scorer(marked, path).parts[0].requests
    assert all(continuation.count(1) == 1 and continuation[-1] == 1 for _, _, continuation in requests)


def test_a_token_that_comes_in_all_the_same_is_an_error(
    base: Base, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tokenizer whose own code ends every text, whether it is to add tokens or not."""
    tokenizer = make_tokenizer()
    plain = type(tokenizer).encode

    def ending(self: Any, text: str, **options: Any) -> list[int]:
        return [*plain(self, text, **options), 1]

    monkeypatch.setattr(type(tokenizer), "encode", ending)
    with pytest.raises(UserError, match=r"the tokenizer puts </s> among the tokens of the choice .*") as caught:
        scorer(dataclasses.replace(base, tokenizer=tokenizer), task_file)
    assert "\n" not in str(caught.value)
