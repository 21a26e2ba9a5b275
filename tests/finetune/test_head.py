"""Hidden states and logits apart: the model's own numbers, in chunks, and for models that do more to their logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from partune.errors import UserError
from partune.finetune import head as heads
from partune.finetune.head import Head
from partune.finetune.model import Base
from tests.finetune.tiny import KINDS

SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "gemma2": lambda n: Gemma2ForCausalLM(Gemma2Config(vocab_size=n, final_logit_softcapping=3.0, **SHAPE)),
    "granite": lambda n: GraniteForCausalLM(GraniteConfig(vocab_size=n, logits_scaling=5.0, **SHAPE)),
    "cohere": lambda n: CohereForCausalLM(CohereConfig(vocab_size=n, logit_scale=0.3, **SHAPE)),
}


def make(kind: str, tokenizer: PreTrainedTokenizerFast) -> Base:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[kind](len(tokenizer)).eval().requires_grad_(False)
    return Base(model, tokenizer, torch.device("cpu"), "fp32")


def tokens(base: Base, rows: int = 3, length: int = 11) -> torch.Tensor:
    return torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_make_the_models_own_logits(bases: dict[str, Base], kind: str) -> None:
    base = bases[kind]
    ids, head = tokens(base), Head(base)
    with torch.no_grad():
        torch.testing.assert_close(head.logits(head.hidden(ids)), base.model(ids).logits)


@pytest.mark.parametrize("kind", MODELS)
def test_factors_and_soft_caps_are_known(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    base = make(kind, tokenizer)
    ids, head = tokens(base), Head(base)
    with torch.no_grad():
        expected = base.model(ids).logits
        torch.testing.assert_close(head.logits(head.hidden(ids)), expected)
        plain = base.model.get_output_embeddings()(head.hidden(ids))
    assert (plain - expected).abs().max() > 0.1  # there is something to know


def test_a_model_that_does_something_else_is_refused(
    base: Base, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = LlamaForCausalLM.forward

    def shifted(self: Any, *arguments: Any, **options: Any) -> Any:
        found = plain(self, *arguments, **options)
        found.logits = found.logits.roll(1, -1)
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", shifted)
    with pytest.raises(UserError, match=r"LlamaForCausalLM computes its logits .* use --engine peft") as caught:
        Head(base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("elements", [1, 2_000, 1 << 24])
def test_losses_and_their_gradients_do_not_depend_on_the_chunks(
    base: Base, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(base)
    draw = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, 9, 32, generator=draw)
    targets = torch.randint(3, 300, (2, 9), generator=draw)

    def losses(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = states.clone().requires_grad_()
        found = head.losses(states, targets)
        (gradient,) = torch.autograd.grad((found * torch.arange(9)).sum(), states)
        return found.detach(), gradient

    logits = head.logits(hidden)
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(2, 9)
    whole = losses(hidden)
    torch.testing.assert_close(whole[0], expected)
    monkeypatch.setitem(heads.ELEMENTS, "cpu", elements)
    seen: list[int] = []
    plain = Head.logits

    def spy(self: Head, states: torch.Tensor) -> torch.Tensor:
        seen.append(states.shape[1])
        return plain(self, states)

    monkeypatch.setattr(Head, "logits", spy)
    for found, same in zip(losses(hidden), whole, strict=True):
        torch.testing.assert_close(found, same)
    assert max(seen) == {1: 1, 2_000: 2, 1 << 24: 9}[elements]
