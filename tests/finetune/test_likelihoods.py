"""Packed scoring against the harness's HFLM, adapter by adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from partune import config
from partune.finetune.head import Head
from partune.finetune.likelihoods import ROW, TRUNK, PackedLikelihoods, grow
from partune.finetune.model import Base
from partune.finetune.packed import Site, Weights, carrier
from partune.finetune.scoring import Scorer, harness_model
from partune.finetune.tasks import Answer, Request
from tests.finetune.tiny import KINDS, make_items, write_task

RANKS = (3, 8, 1)


def tuned(sites: Sequence[Site], seed: int, r: int) -> Weights:
    """An adapter that moves the model's answers."""
    draw = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.3

    return {site.name: (matrix(site.d_in, r), matrix(r, site.d_out)) for site in sites}


def settings(r: int, targets: str = "attention") -> config.Training:
    return config.Training(lora_r=r, lora_alpha=r + 2, targets=targets, lora_dropout=0.5)


def packed(base: Base, requests: Sequence[Request], ranks: Sequence[int] = RANKS, **options: Any) -> Any:
    """Answers of a pack of adapters, seeds 0, 1, ..."""
    targets = options.pop("targets", "attention")
    with carrier(base, targets) as carrying:
        pack = carrying.loaded([(settings(r, targets), tuned(carrying.sites, seed, r)) for seed, r in enumerate(ranks)])
        return PackedLikelihoods(base, Head(base), **options).answers("part", requests, carrying, pack)


def alone(base: Base, requests: Sequence[Request], folder: Path, targets: str = "attention") -> list[list[Answer]]:
    """HFLM's answers with each of the exported adapters."""
    found = []
    for seed, r in enumerate(RANKS):
        with carrier(base, targets) as carrying:
            carrying.save(settings(r, targets), tuned(carrying.sites, seed, r), folder / str(seed))
        with base.lent() as model:
            PeftModel.from_pretrained(model, str(folder / str(seed))).eval()
            found.append(harness_model(base, 8)(requests))
    return found


def check_same(found: Sequence[Answer], expected: Sequence[Answer], tolerance: float = 1e-4) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=tolerance)


@pytest.fixture(scope="module")
def requests_of(bases: dict[str, Base], task_file: Path) -> Any:
    def build(kind: str) -> list[Request]:
        part = Scorer(bases[kind], config.Validation(tasks=(str(task_file),)), config.Test(), 0).parts[0]
        return part.requests

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_hflms_on_the_exported_adapters(
    bases: dict[str, Base], requests_of: Any, kind: str, tmp_path: Path
) -> None:
    base, requests = bases[kind], requests_of(kind)
    found, expected = packed(base, requests), alone(base, requests, tmp_path)
    for mine, theirs in zip(found, expected, strict=True):
        check_same(mine, theirs)
    assert abs(found[0][0][0] - found[1][0][0]) > 1e-2  # the adapters do differ


def test_an_adapter_on_the_head_is_scored_too(bases: dict[str, Base], requests_of: Any, tmp_path: Path) -> None:
    base, requests = bases["llama"], requests_of("llama")
    targets = "q_proj,lm_head"
    expected = alone(base, requests, tmp_path, targets)
    for mine, theirs in zip(packed(base, requests, targets=targets), expected, strict=True):
        check_same(mine, theirs)


@pytest.mark.parametrize("metrics", [("acc", "acc_norm"), ("acc", "acc_mutual_info")])
def test_scores_and_items_are_the_harnesss(
    base: Base, tmp_path: Path, metrics: tuple[str, ...], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Of a task with shared contexts, and of one that asks for every choice without its question as well."""
    path = write_task(tmp_path, "other", make_items(24, seed=4), metrics=metrics)
    scorer = Scorer(base, config.Validation(tasks=(str(path),), metric="acc"), config.Test(), 0)
    everything = {"search", "verdict"}
    with carrier(base, "attention") as carrying:
        pack = carrying.loaded([(settings(r), tuned(carrying.sites, seed, r)) for seed, r in enumerate(RANKS)])
        likelihoods = PackedLikelihoods(base, Head(base))
        found = scorer.score_all(lambda name, each: likelihoods.answers(name, each, carrying, pack), everything)
    for seed, r in enumerate(RANKS):
        with carrier(base, "attention") as carrying:
            carrying.save(settings(r), tuned(carrying.sites, seed, r), tmp_path / str(seed))
        with base.lent() as model:
            PeftModel.from_pretrained(model, str(tmp_path / str(seed))).eval()
            expected = scorer.score(harness_model(base, 8), everything)
        mine = found[seed]
        assert not isinstance(mine, Exception)
        assert mine.named.keys() == expected.named.keys()
        for name, value in expected.named.items():
            assert mine.named[name] == pytest.approx(value, abs=1e-4)
        for metric in metrics:
            assert (mine.items[f"search/other/{metric}"] == expected.items[f"search/other/{metric}"]).all()


def test_long_contexts_lose_their_beginning_as_in_hflm(base: Base, tmp_path: Path) -> None:
    items = make_items(6)
    items[2]["question"] = "oil valve " * 300
    path = write_task(tmp_path, "long", items)
    part = Scorer(base, config.Validation(tasks=(str(path),)), config.Test(), 0).parts
    requests = [*part[0].requests, *part[1].requests]
    assert any(len(context) > base.context for _, context, _ in requests)
    check_same(PackedLikelihoods(base, Head(base)).answers("p", requests)[0], harness_model(base, 4)(requests))


# ----- trees


def test_a_context_is_read_once_and_the_last_tokens_of_choices_never() -> None:
    requests: list[Request] = [(("", ""), [1, 2, 3], [4]), (("", ""), [1, 2, 3], [5, 6, 7]), (("", ""), [1, 2], [4, 5])]
    first, second = grow(requests, 100, True)
    assert (first.tokens, first.positions, first.branch) == ([1, 2, 3, 5, 6], [0, 1, 2, 3, 4], [TRUNK] * 3 + [1, 1])
    assert first.requests == [(0, [2], [4]), (1, [2, 3, 4], [5, 6, 7])]
    assert (second.tokens, second.requests) == ([1, 2, 4], [(2, [1, 2], [4, 5])])
    assert [len(tree.requests) for tree in grow(requests, 100, False)] == [1, 1, 1]


def test_logits_are_computed_at_continuations_only(
    base: Base, requests_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many states reach the head as there are different contexts' ends and continuation tokens after the first."""
    requests = requests_of("llama")
    likelihoods, seen, plain = PackedLikelihoods(base, Head(base)), [], Head.logits
    likelihoods.answers("part", requests)

    def spy(self: Head, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.shape[:-1].numel())
        return plain(self, hidden)

    monkeypatch.setattr(Head, "logits", spy)
    likelihoods.answers("part", requests)
    contexts = {tuple(context) for _, context, _ in requests}
    assert sum(seen) == len(contexts) + sum(len(continuation) - 1 for _, _, continuation in requests)


@hypothesis_settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_requests_in_any_packs_and_batches_are_hflms(bases: dict[str, Base], data: st.DataObject) -> None:
    base = bases["qwen2"]
    token = st.integers(3, 200)
    contexts = data.draw(st.lists(st.lists(token, min_size=1, max_size=20), min_size=1, max_size=4))
    pairs = st.tuples(st.sampled_from(contexts), st.lists(token, min_size=1, max_size=6))
    drawn = data.draw(st.lists(pairs, min_size=1, max_size=10))
    requests: list[Request] = [((str(i), ""), context, target) for i, (context, target) in enumerate(drawn)]
    likelihoods = PackedLikelihoods(base, Head(base), tokens=data.draw(st.integers(1, 300)))
    check_same(likelihoods.answers("p", requests)[0], harness_model(base, 3)(requests))


def windowed(tokenizer: PreTrainedTokenizerFast, window: int) -> Base:
    """A model whose tokens see so many before them."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 192}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(MistralConfig(**shape, sliding_window=window, initializer_range=0.2)).eval()
    return Base(model.requires_grad_(False), tokenizer, torch.device("cpu"), "fp32")


def test_a_model_with_windows_is_found_out(tokenizer: PreTrainedTokenizerFast, task_file: Path) -> None:
    """Whatever a model does with a mask of trees, its answers are HFLM's."""
    base = windowed(tokenizer, 4)
    requests = Scorer(base, config.Validation(tasks=(str(task_file),)), config.Test(), 0).parts[0].requests
    likelihoods = PackedLikelihoods(base, Head(base))
    check_same(likelihoods.answers("p", requests)[0], harness_model(base, 8)(requests))
    assert likelihoods.shared == {"p": False}


def test_windows_that_only_long_items_outgrow_are_found_out(tokenizer: PreTrainedTokenizerFast) -> None:
    """A part whose rows fit in the window says nothing of another whose rows do not."""
    base = windowed(tokenizer, 24)
    likelihoods = PackedLikelihoods(base, Head(base))
    draw = torch.Generator().manual_seed(0)
    for name, length, shared in (("short", 8, True), ("long", 80, False)):
        context = torch.randint(3, 200, (length,), generator=draw).tolist()
        requests: list[Request] = [((name, str(i)), context, [10 + i, 20, 30 + i, 7]) for i in range(4)]
        check_same(likelihoods.answers(name, requests)[0], harness_model(base, 8)(requests))
        assert likelihoods.shared[name] == shared


def test_a_context_of_very_many_choices_is_read_again_after_some() -> None:
    requests: list[Request] = [(("", str(i)), [1], [2, 3, 4, i]) for i in range(300)]
    trees = grow(requests, 1000, True)
    assert max(len(tree.tokens) for tree in trees) <= ROW
    assert sum(len(tree.tokens) for tree in trees) < 300 * 3 + 2 * 300 * 4 / ROW + 2
    assert sorted(place for tree in trees for place, _, _ in tree.requests) == list(range(300))
    whole = grow([(("", ""), [1] * 400, [5, 6])] * 9, 1000, True)
    assert len(whole) == 1  # a long context may have long rows


def test_passes_that_do_not_fit_in_memory_are_made_smaller(
    base: Base, requests_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, add = requests_of("llama"), PackedLikelihoods._add
    expected = packed(base, requests)

    def small(self: PackedLikelihoods, part: Any, *rest: Any) -> None:
        if part.ids.numel() > 200:
            raise torch.OutOfMemoryError("no room")
        add(self, part, *rest)

    monkeypatch.setattr(PackedLikelihoods, "_add", small)
    for mine, theirs in zip(packed(base, requests), expected, strict=True):
        check_same(mine, theirs, 2e-5)
    monkeypatch.setattr(PackedLikelihoods, "_add", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    with pytest.raises(torch.OutOfMemoryError):
        packed(base, requests)


def test_packs_and_batch_sizes_change_nothing_beyond_the_tolerance(base: Base, requests_of: Any) -> None:
    requests = requests_of("llama")
    whole = packed(base, requests)
    for tokens in (1, 64, 100_000):
        for found, expected in zip(packed(base, requests, tokens=tokens), whole, strict=True):
            check_same(found, expected, 2e-5)
    for seed, r in enumerate(RANKS):
        with carrier(base, "attention") as carrying:
            pack = carrying.loaded([(settings(r), tuned(carrying.sites, seed, r))])
            (own,) = PackedLikelihoods(base, Head(base)).answers("part", requests, carrying, pack)
        check_same(own, whole[seed], 2e-5)


def test_nan_in_one_adapter_is_that_trials_alone(base: Base, task_file: Path) -> None:
    scorer = Scorer(base, config.Validation(tasks=(str(task_file),)), config.Test(), 0)
    with carrier(base, "attention") as carrying:
        pack = carrying.loaded([(settings(r), tuned(carrying.sites, seed, r)) for seed, r in enumerate(RANKS)])
        likelihoods = PackedLikelihoods(base, Head(base))
        sound = scorer.score_all(lambda name, each: likelihoods.answers(name, each, carrying, pack), {"search"})
        pack.values[1] = torch.nan
        found = scorer.score_all(lambda name, each: likelihoods.answers(name, each, carrying, pack), {"search"})
    assert "not finite" in str(found[1])
    for mine, expected in ((found[0], sound[0]), (found[2], sound[2])):
        assert not isinstance(mine, Exception)
        assert not isinstance(expected, Exception)
        likelihood = "search/choices/loglikelihood"
        assert (
            (mine.items[likelihood] == expected.items[likelihood]) | (mine.items[likelihood] != mine.items[likelihood])
        ).all()
