"""Generation through HFLM: its own answers, whatever the batch, and our rule of sampling."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.packed.generation import PackedGeneration
from partune.finetune.packed.head import Head
from partune.finetune.scoring.decoding import GenerationSettings, answer_text
from partune.finetune.scoring.harness_generation import harness_generation, prompt_encoder
from partune.runtime.isolation import quiet
from tests.support.tiny import CONTEXT, longrope, make_base, make_tokenizer

PROMPTS = ["the pump", "why " * 30, "what is the answer of a machine", "red", "oil needs water"]
SETTINGS = GenerationSettings(max_new_tokens=10, until=("a", "er"))


def by_hflm(base: Base, prompts: list[str], settings: GenerationSettings) -> list[str]:
    """The harness's own answers, one prompt a batch."""
    kwargs = {"until": list(settings.until), "max_gen_toks": settings.max_new_tokens}
    with quiet():
        model = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=1, max_length=base.context)
        requests = [Instance("generate_until", {}, (prompt, kwargs), n) for n, prompt in enumerate(prompts)]
        answers: list[str] = model.generate_until(requests, disable_tqdm=True)
    return answers


@pytest.fixture
def own(tokenizer: PreTrainedTokenizerFast) -> Base:
    base = make_base("llama", tokenizer)
    base.model.generation_config.eos_token_id = [1, *range(20, 60)]
    return base


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), [("llama", {}), ("mamba", {"state_size": 4}), ("phi3", longrope(20))])
def test_answers_are_hflms_in_any_batch(tokenizer: PreTrainedTokenizerFast, kind: str, options: dict[str, Any]) -> None:
    base = make_base(kind, tokenizer, **options)
    base.model.generation_config.eos_token_id = [1, *range(20, 60)]
    expected = by_hflm(base, PROMPTS, SETTINGS)
    assert len(set(expected)) > 2
    for size in (1, 3):
        assert harness_generation(base, size)(prompt_encoder(base)(PROMPTS), SETTINGS) == expected


@pytest.mark.slow
def test_a_special_token_as_a_stop_string_ends_an_answer_in_a_batch_too(own: Base) -> None:
    """HFLM goes on until the last answer of the batch has ended, and would count what it wrote after the token."""
    free = PackedGeneration(own, Head(own)).generate(prompt_encoder(own)(PROMPTS), GenerationSettings(10))[0]
    stop = next(token for answer in free for token in answer[2:4])
    own.tokenizer.add_special_tokens({"additional_special_tokens": [own.tokenizer.convert_ids_to_tokens(stop)]})
    settings = GenerationSettings(10, (own.tokenizer.decode([stop]),))
    assert harness_generation(own, 5)(prompt_encoder(own)(PROMPTS), settings) == by_hflm(own, PROMPTS, settings)


@pytest.mark.slow
def test_sampled_answers_are_those_of_packed_decoding(own: Base) -> None:
    settings = GenerationSettings(8, ("er",), temperature=1.3, top_k=40, seed=9)
    tokens = prompt_encoder(own)(PROMPTS)
    (packed,) = PackedGeneration(own, Head(own)).generate(tokens, settings)
    expected = [answer_text(own.tokenizer, answer, settings.until) for answer in packed]
    assert harness_generation(own, 3)(tokens, settings) == expected


@pytest.mark.slow
def test_long_prompts_lose_their_beginning_as_in_hflm(own: Base) -> None:
    prompts = ["why valve " * CONTEXT, "red"]
    settings = GenerationSettings(5)
    assert harness_generation(own, 2)(prompt_encoder(own)(prompts), settings) == by_hflm(own, prompts, settings)
    with pytest.raises(UserError, match="max_new_tokens must be less than"):
        harness_generation(own, 2)([[5]], GenerationSettings(CONTEXT))


def test_prompts_are_encoded_as_the_harness_encodes_them(base: Base) -> None:
    with quiet():
        model = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=1)
    texts = ["the pump", "<s>the pump", " oil\n", "caf\u00e9"]
    assert prompt_encoder(base)(texts) == [model.tok_batch_encode([text])[0][0].tolist() for text in texts]


def test_a_prompt_does_not_end_with_what_the_tokenizer_appends_to_every_text(base: Base) -> None:
    tokenizer = make_tokenizer()
    rust = tokenizer.backend_tokenizer
    rust.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    marked = dataclasses.replace(base, tokenizer=tokenizer)
    assert prompt_encoder(marked)(["the pump"]) == prompt_encoder(base)(["the pump"])
    with pytest.raises(UserError, match="prompt 0 has no token"):
        harness_generation(base, 1)([[]], SETTINGS)
