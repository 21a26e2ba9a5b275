"""Packed decoding against transformers' `generate` on PEFT's models, adapter by adapter and prompt by prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.packed import generation as generations
from partune.finetune.packed.adapters import Carrier, Weights, carrier
from partune.finetune.packed.generation import PackedGeneration
from partune.finetune.packed.head import Head
from partune.finetune.scoring.decoding import GenerationSettings, answer_text, end_tokens
from partune.finetune.scoring.harness_generation import harness_generation, prompt_encoder
from partune.runtime.isolation import quiet
from tests.support.tiny import CONTEXT, WORDS, longrope, make_base

RANKS = (3, 8, 1, 5, 2, 16, 4, 7)
NEW = 12
GREEDY = GenerationSettings(max_new_tokens=NEW)
SAMPLED = GenerationSettings(max_new_tokens=8, temperature=1.5, top_p=0.95, seed=3)
WINDOWS = {"sliding_window": 20, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma3_text": WINDOWS,
    "gpt2": {"n_positions": CONTEXT, "n_head": 4, "n_embd": 32, "n_layer": 2},
    "gpt_neox": {},
    "phi3": {"sliding_window": 20},
}
STATES: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, "max_position_embeddings": 40}

Adapters = list[tuple[config.Training, Weights]]


def drawn_prompts(*lengths: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(3, 300, (length,), generator=draw).tolist() for length in lengths]


PROMPTS = drawn_prompts(3, 30, 12, 1)


def adapters(carrying: Carrier, ranks: Sequence[int] = RANKS, targets: str = "attention") -> Adapters:
    """Adapters that change the answers."""
    found: Adapters = []
    for seed, r in enumerate(ranks):
        draw = torch.Generator().manual_seed(seed)
        weights = {
            site.name: (
                torch.randn(site.d_in, r, generator=draw) * 0.3,
                torch.randn(r, site.d_out, generator=draw) * 0.3,
            )
            for site in carrying.sites
        }
        found.append((config.Training(lora_r=r, lora_alpha=2 * r + seed, targets=targets, lora_dropout=0.5), weights))
    return found


def packed(
    base: Base,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    settings: GenerationSettings = GREEDY,
    ranks: Sequence[int] = RANKS,
    targets: str = "attention",
    generation: PackedGeneration | None = None,
    **options: Any,
) -> list[list[list[int]]]:
    with carrier(base, targets) as carrying:
        pack = carrying.loaded(adapters(carrying, ranks, targets))
        generation = generation or PackedGeneration(base, Head(base), options.pop("tokens", None))
        return generation.generate(prompts, settings, carrying, pack, **options)


def exported(base: Base, folder: Path, ranks: Sequence[int] = RANKS, targets: str = "attention") -> list[Path]:
    with carrier(base, targets) as carrying:
        for number, (settings, weights) in enumerate(adapters(carrying, ranks, targets)):
            carrying.save(settings, weights, folder / str(number))
    return [folder / str(number) for number in range(len(ranks))]


def plain(model: Any, prompts: Sequence[Sequence[int]], new: int = NEW) -> list[list[int]]:
    """transformers' answers, one prompt at a time."""
    found = []
    with quiet(), torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            options = {"do_sample": False, "max_new_tokens": new, "pad_token_id": 2}
            whole = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
            found.append(whole[0, len(prompt) :].tolist())
    return found


def by_peft(base: Base, folders: Sequence[Path], prompts: Sequence[Sequence[int]] = PROMPTS, new: int = NEW) -> Any:
    found = []
    for folder in folders:
        with base.lent() as model:
            found.append(plain(PeftModel.from_pretrained(model, str(folder)).eval(), prompts, new))
    return found


def some_ends(base: Base) -> None:
    """Let many tokens end an answer, because tiny random models hardly ever write the one that does."""
    base.model.generation_config.eos_token_id = [1, *range(20, 60), *range(200, 215)]


@pytest.fixture
def own(tokenizer: PreTrainedTokenizerFast) -> Base:
    """A base whose generation settings a test may change."""
    return make_base("llama", tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_tokens_are_those_of_generate_on_the_exported_adapters(
    tokenizer: PreTrainedTokenizerFast, kind: str, tmp_path: Path
) -> None:
    """Of prompts longer than some windows and shorter, of which some answers end early."""
    base = make_base(kind, tokenizer, **MODELS[kind])
    some_ends(base)
    generation = PackedGeneration(base, Head(base))
    found = packed(base, generation=generation, targets="all-linear")
    assert generation.joint
    assert found == by_peft(base, exported(base, tmp_path, targets="all-linear"))
    answers = [tuple(answer) for each in found for answer in each]
    assert len(set(answers)) > len(answers) / 2
    ended = [answer[-1] in end_tokens(base) for answer in answers]
    assert 5 < sum(ended) < len(answers)
    assert len({len(answer) for answer in answers}) > 3


def test_the_base_alone_answers_as_it_does_whole(base: Base) -> None:
    generation = PackedGeneration(base, Head(base))
    assert generation.generate(PROMPTS, GREEDY) == [plain(base.model, PROMPTS)]
    assert generation.joint


@pytest.mark.slow
def test_texts_are_hflms_with_stop_strings_that_begin_within_tokens(own: Base, tmp_path: Path) -> None:
    """Of the harness's own class and of our reference, whose batches have several prompts."""
    texts = ["the pump", "why " * 20, "which valve of a machine", " ".join(WORDS)]
    until = ("e", "ai", "p\u00e9", "red")
    settings = GenerationSettings(NEW, until)
    folders = exported(own, tmp_path)
    tokens = prompt_encoder(own)(texts)
    found = packed(own, tokens, settings)
    ours = [[answer_text(own.tokenizer, answer, until) for answer in each] for each in found]
    free = packed(own, tokens)
    stopped = 0
    for each, others in zip(found, free, strict=True):
        for answer, whole in zip(each, others, strict=True):
            decoded = [own.tokenizer.decode(whole[: n + 1]) for n in range(len(whole))]
            ends = (n + 1 for n, text in enumerate(decoded) if any(stop in text for stop in until))
            assert answer == whole[: next(ends, NEW)]
            stopped += len(answer) < NEW
    assert 3 < stopped < len(texts) * len(RANKS)
    kwargs = {"until": list(until), "max_gen_toks": NEW}
    requests = [Instance("generate_until", {}, (text, kwargs), number) for number, text in enumerate(texts)]
    for folder, each in zip(folders, ours, strict=True):
        with own.lent() as model, quiet():
            adapted = PeftModel.from_pretrained(model, str(folder)).eval()
            assert adapted is not None
            assert harness_generation(own, 3)(prompt_encoder(own)(texts), settings) == each
            hflm = HFLM(pretrained=own.model, tokenizer=own.tokenizer, batch_size=1, max_length=CONTEXT)
            assert hflm.generate_until(requests, disable_tqdm=True) == each


@pytest.mark.slow
def test_batches_and_packs_change_no_answer(own: Base) -> None:
    some_ends(own)
    whole = packed(own)
    for tokens in (1, 40, 300):
        assert packed(own, tokens=tokens) == whole
    assert packed(own, ranks=RANKS[:3]) == whole[:3]
    assert packed(own, PROMPTS[::-1]) == [each[::-1] for each in whole]


def test_rows_that_have_ended_are_not_computed_any_more(own: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    some_ends(own)
    generation, rows, hidden = PackedGeneration(own, Head(own)), [], Head.hidden

    def counted(self: Head, ids: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        rows.append(len(ids))
        return hidden(self, ids, *rest, **options)

    generation._checked = CONTEXT
    monkeypatch.setattr(Head, "hidden", counted)
    found = packed(own, generation=generation)
    lengths = [len(answer) for each in found for answer in each]
    assert rows == [len(lengths)] + [sum(length > step for length in lengths) for step in range(1, max(lengths))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "phi3"])
def test_what_all_prompts_begin_with_is_encoded_once(
    tokenizer: PreTrainedTokenizerFast, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if some layers do not see all of it."""
    own = make_base(kind, tokenizer, **MODELS[kind])
    prompts = [PROMPTS[1] + prompt for prompt in (*PROMPTS, [])]
    some_ends(own)
    found = packed(own, prompts)
    passes: list[tuple[int, ...]] = []
    hidden = Head.hidden

    def counted(self: Head, ids: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        passes.append(tuple(ids.shape))
        return hidden(self, ids, *rest, **options)

    monkeypatch.setattr(Head, "hidden", counted)
    generation = PackedGeneration(own, Head(own))
    assert generation._agrees(CONTEXT)
    assert generation.shares
    passes.clear()
    assert packed(own, prompts, generation=generation) == found
    assert passes[0] == (len(RANKS), len(PROMPTS[1]) - 1)  # the last prompt keeps a token of its own
    monkeypatch.setattr(generations, "SHARED", 1000)
    assert packed(own, prompts) == found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss"])
def test_models_with_another_attention_encode_every_prompt_whole(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    """Gemma 2 caps attention scores, GPT-OSS has attention sinks."""
    own = make_base(kind, tokenizer, head_dim=8, sliding_window=CONTEXT)
    prompts = [PROMPTS[1] + prompt for prompt in PROMPTS]
    generation = PackedGeneration(own, Head(own))
    assert generation.generate(prompts, GREEDY) == [plain(own.model, prompts)]
    assert generation.joint
    assert not generation.shares


@pytest.mark.slow
@pytest.mark.parametrize("kind", STATES)
def test_models_with_states_are_found_out_and_answer_one_prompt_after_another(
    tokenizer: PreTrainedTokenizerFast, kind: str, tmp_path: Path
) -> None:
    base = make_base(kind, tokenizer, **STATES[kind])
    some_ends(base)
    generation = PackedGeneration(base, Head(base))
    assert not generation.joint
    found = packed(base, ranks=(3, 1), generation=generation, targets="in_proj")
    assert found == by_peft(base, exported(base, tmp_path, (3, 1), "in_proj"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rope"), [("phi3", longrope(40)), ("llama", DYNAMIC)])
def test_rows_whose_frequencies_change_are_answered_alone(
    tokenizer: PreTrainedTokenizerFast, kind: str, rope: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(kind, tokenizer, **rope | {"max_position_embeddings": rope.get("max_position_embeddings", 160)})
    prompts = drawn_prompts(4, 20, 30, 39) + (drawn_prompts(60, 70) if kind == "phi3" else [])
    monkeypatch.setattr(Base, "context", 160)
    alone, each = [], PackedGeneration._plain
    monkeypatch.setattr(
        PackedGeneration, "_plain", lambda self, task, index: alone.append(index) or each(self, task, index)
    )
    found = packed(base, prompts, ranks=(3, 1))
    assert sorted(alone) == [2, 3]
    assert found == by_peft(base, exported(base, tmp_path, (3, 1)), prompts)


@pytest.mark.slow
def test_what_prompts_begin_with_has_the_frequencies_of_their_whole_length(tokenizer: PreTrainedTokenizerFast) -> None:
    base = make_base("phi3", tokenizer, **longrope(40))
    prompts = [PROMPTS[1] + prompt for prompt in drawn_prompts(20, 25)]
    assert PackedGeneration(base, Head(base)).generate(prompts, GREEDY) == [plain(base.model, prompts)]


@pytest.mark.slow
def test_a_difference_is_found_out_at_the_length_at_which_it_shows(own: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cache that loses its first tokens when there are more than 40."""
    generation, step = PackedGeneration(own, Head(own)), PackedGeneration._step

    def losing(self: PackedGeneration, task: Any, rows: Any, tokens: torch.Tensor) -> torch.Tensor:
        rows.real[:, :-40] = False
        return step(self, task, rows, tokens)

    monkeypatch.setattr(PackedGeneration, "_step", losing)
    short, long = drawn_prompts(5, 9), drawn_prompts(5, 50)
    assert generation.generate(short, GREEDY) == [plain(own.model, short)]
    assert generation.joint
    assert generation.generate(long, GREEDY) == [plain(own.model, long)]
    seen: list[int] = []
    monkeypatch.setattr(generation, "_plain", lambda task, index: seen.append(index) or [[]])
    assert generation.generate(short, GREEDY) == [
        plain(own.model, short)
    ]  # a check of longer rows says nothing of these
    assert seen == []


@pytest.mark.slow
def test_penalties_of_the_models_generation_settings_count(own: Base) -> None:
    without = plain(own.model, PROMPTS)
    own.model.generation_config.repetition_penalty = 1.8
    found = PackedGeneration(own, Head(own)).generate(PROMPTS, GREEDY)
    assert found == [plain(own.model, PROMPTS)]
    assert found != [without]


@pytest.mark.slow
def test_a_sampled_answer_depends_on_no_other(own: Base) -> None:
    """Nor on whether transformers' `generate` answers."""
    some_ends(own)
    found = packed(own, settings=SAMPLED, ranks=RANKS[:3])
    assert packed(own, settings=SAMPLED, ranks=RANKS[:2], tokens=1) == found[:2]
    assert [each[:2] for each in found] == packed(own, PROMPTS[:2], SAMPLED, RANKS[:3])
    reseeded = dataclasses.replace(SAMPLED, seed=SAMPLED.seed + 1)
    assert packed(own, settings=reseeded, ranks=RANKS[:3]) != found
    generation = PackedGeneration(own, Head(own))
    generation.joint = False
    assert packed(own, settings=SAMPLED, ranks=RANKS[:3], generation=generation) == found
    assert found != packed(own, settings=GenerationSettings(8), ranks=RANKS[:3])
    twice = packed(own, [PROMPTS[0], PROMPTS[0]], SAMPLED, RANKS[:1])[0]
    assert twice[0] != twice[1]


@pytest.mark.slow
def test_an_adapter_on_the_head_answers_too(own: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = "q_proj,lm_head"
    monkeypatch.setattr(generations, "ELEMENTS", {"cpu": 1})
    found = packed(own, ranks=(3, 8), targets=targets)
    assert found == by_peft(own, exported(own, tmp_path, (3, 8), targets))


@pytest.mark.slow
def test_nan_in_one_adapter_is_that_trials_alone(own: Base) -> None:
    some_ends(own)
    with carrier(own, "attention") as carrying:
        pack = carrying.loaded(adapters(carrying, RANKS[:3]))
        generation = PackedGeneration(own, Head(own))
        sound = generation.generate(PROMPTS, GREEDY, carrying, pack)
        pack.values[1] = torch.nan
        for settings in (GREEDY, SAMPLED):
            found = generation.generate(PROMPTS, settings, carrying, pack)
            assert all(0 <= token < len(own.tokenizer) for each in found for answer in each for token in answer)
            if settings is GREEDY:
                assert (found[0], found[2]) == (sound[0], sound[2])


@pytest.mark.slow
def test_half_precision_is_decoded_jointly(tokenizer: PreTrainedTokenizerFast) -> None:
    base = make_base("llama", tokenizer, "bf16")
    generation = PackedGeneration(base, Head(base))
    found = generation.generate(PROMPTS, GREEDY)[0]
    assert generation.joint
    same = [mine[0] == theirs[0] for mine, theirs in zip(found, plain(base.model, PROMPTS), strict=True)]
    assert np.mean(same) >= 0.8


@pytest.mark.slow
def test_batches_that_do_not_fit_in_memory_are_made_smaller(own: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, decode = packed(own, ranks=RANKS[:2]), PackedGeneration._decode

    def small(self: PackedGeneration, task: Any, batch: Sequence[int]) -> Any:
        tried.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room")
        return decode(self, task, batch)

    monkeypatch.setattr(PackedGeneration, "_decode", small)
    tried: list[int] = []
    assert packed(own, ranks=RANKS[:2]) == expected
    assert [size for size in tried if size > 2] == sorted({size for size in tried if size > 2}, reverse=True)
    monkeypatch.setattr(
        PackedGeneration, "_decode", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        packed(own, ranks=RANKS[:2])


@pytest.mark.slow
def test_long_prompts_lose_their_beginning_and_bad_ones_are_refused(own: Base) -> None:
    generation = PackedGeneration(own, Head(own))
    long = drawn_prompts(CONTEXT + 30, 5)
    settings = GenerationSettings(max_new_tokens=4)
    assert generation.generate(long, settings) == [plain(own.model, [long[0][-(CONTEXT - 4) :], long[1]], 4)]
    assert generation.generate([], settings) == [[]]
    assert packed(own, long, GenerationSettings(1), ranks=(3,)) == [
        [each[:1] for each in packed(own, long, settings, (3,))[0]]
    ]
    with pytest.raises(UserError, match=r"a prompt has token 5000 .* but the model's embeddings end at"):
        generation.generate([[3, 5000]], settings)
    with pytest.raises(UserError, match="prompt 1 has no token"):
        generation.generate([[3], []], settings)
    with pytest.raises(UserError, match=f"max_new_tokens must be less than the {CONTEXT} tokens"):
        generation.generate([[3]], GenerationSettings(max_new_tokens=CONTEXT))


@pytest.mark.slow
def test_a_generation_can_be_interrupted_at_every_pass(own: Base) -> None:
    generation = PackedGeneration(own, Head(own))
    for joint in (True, False):
        generation.joint, passes = joint, []

        def look(passes: list[int] = passes) -> None:
            passes.append(1)
            if len(passes) == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            generation.generate(PROMPTS, GREEDY, before_pass=look)
