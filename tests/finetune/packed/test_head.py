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
from partune.finetune.model import Base
from partune.finetune.packed import head as heads
from partune.finetune.packed.head import Head
from tests.support.tiny import KINDS, make_base

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


def test_a_body_that_is_the_whole_model_is_refused_in_one_line(tokenizer: PreTrainedTokenizerFast) -> None:
    """Llama 4's `base_model_prefix` names no attribute of it, so that its base model is itself."""
    base = make_base(
        "llama4_text", tokenizer, num_local_experts=2, num_experts_per_tok=1, head_dim=8, intermediate_size_mlp=48
    )
    assert base.model.base_model is base.model
    with pytest.raises(UserError, match=r"^Llama4ForCausalLM computes its logits .* use --engine peft$"):
        Head(base)


def test_what_a_model_multiplies_its_logits_by_without_saying_so_is_found_out(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the logits are: a fresh model's are near zero, and so is what a factor makes of them."""
    plain, base = LlamaForCausalLM.forward, make_base("llama", tokenizer, initializer_range=1e-4)
    Head(base)

    def more(self: Any, *arguments: Any, **options: Any) -> Any:
        found = plain(self, *arguments, **options)
        found.logits = found.logits * 1.1
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", more)
    with pytest.raises(UserError, match="use --engine peft"):
        Head(base)


@pytest.mark.parametrize("error", [RuntimeError, IndexError, AssertionError, NotImplementedError])
@pytest.mark.parametrize("whole", [False, True])
def test_whatever_a_model_raises_is_one_line(
    base: Base, error: type[Exception], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error("sizes of\ntensors")

    monkeypatch.setattr(LlamaForCausalLM if whole else Head, "forward" if whole else "hidden", broken)
    expected = "does not run in fp32 on cpu: sizes of tensors" if whole else "use --engine peft"
    with pytest.raises(UserError, match=expected) as caught:
        Head(base)
    assert "\n" not in str(caught.value)


def test_logits_that_are_no_numbers_are_said_to_be(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LlamaForCausalLM.forward

    def overflown(self: Any, *arguments: Any, **options: Any) -> Any:
        found = plain(self, *arguments, **options)
        found.logits = found.logits * float("nan")
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", overflown)
    with pytest.raises(
        UserError, match=r"LlamaForCausalLM gives logits that are not numbers \(NaN\) in fp32: try another --dtype"
    ):
        Head(base)


def test_want_of_memory_is_no_refusal(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Head, "hidden", full)
    with pytest.raises(torch.OutOfMemoryError):
        Head(base)


def test_a_model_that_sees_what_follows_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    base = make_base("bert", tokenizer, is_decoder=False)
    with pytest.raises(UserError, match="BertLMHeadModel, as it is configured, lets a token see later tokens"):
        Head(base)
    with pytest.raises(UserError, match="use --engine peft"):  # its head is more than a matrix, but it is causal
        Head(make_base("bert", tokenizer, is_decoder=True))


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
