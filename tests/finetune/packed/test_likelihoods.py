"""Packed scoring against the harness's HFLM, adapter by adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.finetune.model import Base
from partune.finetune.packed.adapters import Site, Weights, carrier
from partune.finetune.packed.head import Head
from partune.finetune.packed.likelihoods import ROW, TRUNK, PackedLikelihoods, Pass, grow
from partune.finetune.scoring.base import Continuation, Likelihood
from partune.finetune.scoring.harness import harness_model
from partune.finetune.scoring.scores import Scorer
from partune.runtime.isolation import quiet
from tests.support.thorough import share
from tests.support.tiny import CONTEXT, KINDS, WORDS, longrope, make_base, make_items, write_task

RANKS = (3, 8, 1)


def tuned(sites: Sequence[Site], seed: int, r: int) -> Weights:
    """An adapter that moves the model's answers."""
    draw = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.3

    return {site.name: (matrix(site.d_in, r), matrix(r, site.d_out)) for site in sites}


def settings(r: int, targets: str = "attention") -> config.Training:
    return config.Training(lora_r=r, lora_alpha=r + 2, targets=targets, lora_dropout=0.5)


def packed(base: Base, requests: Sequence[Continuation], ranks: Sequence[int] = RANKS, **options: Any) -> Any:
    """Answers of a pack of adapters, seeds 0, 1, ..."""
    targets = options.pop("targets", "attention")
    with carrier(base, targets) as carrying:
        pack = carrying.loaded([(settings(r, targets), tuned(carrying.sites, seed, r)) for seed, r in enumerate(ranks)])
        return PackedLikelihoods(base, Head(base), **options).answers("part", requests, carrying, pack)


def alone(
    base: Base, requests: Sequence[Continuation], folder: Path, targets: str = "attention"
) -> list[list[Likelihood]]:
    """HFLM's answers with each of the exported adapters."""
    found = []
    for seed, r in enumerate(RANKS):
        with carrier(base, targets) as carrying:
            carrying.save(settings(r, targets), tuned(carrying.sites, seed, r), folder / str(seed))
        with base.lent() as model:
            PeftModel.from_pretrained(model, str(folder / str(seed))).eval()
            found.append(harness_model(base, 8)(requests))
    return found


def drawn_requests(*shapes: tuple[int, int, int]) -> list[Continuation]:
    """Requests of random tokens; shapes: tokens of a context, of its first choice (others have fewer), choices."""
    draw = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        return torch.randint(3, 200, (n,), generator=draw).tolist()

    contexts = [(tokens(length), longest, choices) for length, longest, choices in shapes]
    return [
        (("", ""), context, tokens(max(1, longest - choice)))
        for context, longest, choices in contexts
        for choice in range(choices)
    ]


def check_same(found: Sequence[Likelihood], expected: Sequence[Likelihood], tolerance: float = 1e-4) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=tolerance)


@pytest.fixture(scope="module")
def requests_of(bases: dict[str, Base], task_file: Path) -> Any:
    def build(kind: str) -> list[Continuation]:
        part = Scorer(bases[kind], config.Validation(tasks=(str(task_file),)), config.Test(), 0).parts[0]
        return part.requests

    return build


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_hflms_on_the_exported_adapters(
    bases: dict[str, Base], requests_of: Any, kind: str, tmp_path: Path
) -> None:
    base, requests = bases[kind], requests_of(kind)
    found, expected = packed(base, requests), alone(base, requests, tmp_path)
    for mine, theirs in zip(found, expected, strict=True):
        check_same(mine, theirs)
    assert abs(found[0][0][0] - found[1][0][0]) > 1e-2  # the adapters do differ


@pytest.mark.slow
def test_an_adapter_on_the_head_is_scored_too(bases: dict[str, Base], requests_of: Any, tmp_path: Path) -> None:
    base, requests = bases["llama"], requests_of("llama")
    targets = "q_proj,lm_head"
    expected = alone(base, requests, tmp_path, targets)
    for mine, theirs in zip(packed(base, requests, targets=targets), expected, strict=True):
        check_same(mine, theirs)


@pytest.mark.slow
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
    requests: list[Continuation] = [
        (("", ""), [1, 2, 3], [4]),
        (("", ""), [1, 2, 3], [5, 6, 7]),
        (("", ""), [1, 2], [4, 5]),
    ]
    first, second = grow(requests, 100, True)
    assert (first.tokens, first.positions, first.branch) == ([1, 2, 3, 5, 6], [0, 1, 2, 3, 4], [TRUNK] * 3 + [1, 1])
    assert first.requests == [(0, [2], [4]), (1, [2, 3, 4], [5, 6, 7])]
    assert (second.tokens, second.requests) == ([1, 2, 4], [(2, [1, 2], [4, 5])])
    assert [len(tree.requests) for tree in grow(requests, 100, False)] == [1, 1, 1]


def test_an_answer_in_the_next_requests_context_needs_no_row_of_its_own(base: Base) -> None:
    """As the answers of a conversation do: each is in the context of the next."""
    turns: list[Continuation] = [
        (("", ""), [1, 2], [3, 4]),
        (("", ""), [1, 2, 3, 4, 5], [6]),
        (("", ""), [1, 2, 9], [3, 4]),
    ]
    first, second = grow(turns, 100, True)
    assert first.tokens == [1, 2, 3, 4, 5]
    assert first.requests == [(1, [4], [6]), (0, [1, 2], [3, 4])]
    assert second.requests == [(2, [2, 3], [3, 4])]
    assert len(grow(turns, 100, False)) == 3
    assert len(grow(turns, 4, True)) == 3  # with a context of 4 tokens, the second request loses its beginning
    check_same(PackedLikelihoods(base, Head(base)).answers("p", turns)[0], harness_model(base, 4)(turns))


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


@pytest.mark.slow
@hypothesis_settings(max_examples=share(0.4), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_requests_in_any_packs_and_batches_are_hflms(bases: dict[str, Base], data: st.DataObject) -> None:
    base = bases["qwen2"]
    token = st.integers(3, 200)
    contexts = data.draw(st.lists(st.lists(token, min_size=1, max_size=20), min_size=1, max_size=4))
    pairs = st.tuples(st.sampled_from(contexts), st.lists(token, min_size=1, max_size=6))
    drawn = data.draw(st.lists(pairs, min_size=1, max_size=10))
    requests: list[Continuation] = [((str(i), ""), context, target) for i, (context, target) in enumerate(drawn)]
    likelihoods = PackedLikelihoods(base, Head(base), tokens=data.draw(st.integers(1, 300)))
    check_same(likelihoods.answers("p", requests)[0], harness_model(base, 3)(requests))


def test_a_model_with_windows_is_found_out(tokenizer: PreTrainedTokenizerFast, task_file: Path) -> None:
    """Whatever a model does with a mask of trees, its answers are HFLM's."""
    base = make_base("mistral", tokenizer, sliding_window=4)
    requests = Scorer(base, config.Validation(tasks=(str(task_file),)), config.Test(), 0).parts[0].requests
    likelihoods = PackedLikelihoods(base, Head(base))
    check_same(likelihoods.answers("p", requests)[0], harness_model(base, 8)(requests))
    assert likelihoods.shared == {"p": False}


@pytest.mark.slow
@pytest.mark.parametrize(("window", "shared"), [(None, True), (84, True), (83, True), (82, False), (60, False)])
def test_trees_are_used_where_every_window_is_deeper_than_the_deepest_position(
    tokenizer: PreTrainedTokenizerFast, window: int | None, shared: bool
) -> None:
    base = make_base("mistral", tokenizer, sliding_window=window)
    likelihoods = PackedLikelihoods(base, Head(base))
    requests = drawn_requests((80, 4, 4))  # the last token of a choice is not read: 83 are
    check_same(likelihoods.answers("p", requests)[0], harness_model(base, 1)(requests))
    assert likelihoods.shared == {"p": shared}


SLIDING = {"sliding_window": 40, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
# Models of which some layer, or every one, sees no further than 40 tokens; or keeps a state, or a bias by distance.
SHORT_SIGHTED: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 40},
    "phi3": {"sliding_window": 40},
    "gemma2": SLIDING | {"query_pre_attn_scalar": 8},
    "gemma3_text": SLIDING,
    "gpt_oss": SLIDING | {"num_local_experts": 2, "num_experts_per_tok": 1},
    "gpt_neo": {
        "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 40,
    },
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": CONTEXT},
    "bloom": {"n_layer": 2, "n_head": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 4},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHORT_SIGHTED)
def test_long_contexts_with_few_short_choices_are_seen_beside_short_ones_with_many_long(
    tokenizer: PreTrainedTokenizerFast, kind: str
) -> None:
    """The trees with the most tokens lie within the window, while the deepest do not."""
    base = make_base(kind, tokenizer, **SHORT_SIGHTED[kind])
    likelihoods = PackedLikelihoods(base, Head(base))
    requests = drawn_requests((10, 25, 6), (12, 24, 6), (14, 22, 6), (60, 3, 2), (70, 3, 2))
    check_same(likelihoods.answers("p", requests)[0], harness_model(base, 1)(requests))
    assert likelihoods.shared == {"p": False}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_window_that_no_configuration_tells_is_found_out_on_the_deepest_trees(
    tokenizer: PreTrainedTokenizerFast, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partune.finetune.packed.likelihoods.deepest", lambda config: math.inf)
    base = make_base("mistral", tokenizer, dtype, sliding_window=40)
    likelihoods = PackedLikelihoods(base, Head(base))
    likelihoods.answers("within", drawn_requests((10, 25, 6), (12, 24, 6), (14, 22, 6)))
    likelihoods.answers("beyond", drawn_requests((10, 25, 6), (12, 24, 6), (14, 22, 6), (60, 3, 2)))
    assert likelihoods.shared == {"within": True, "beyond": False}


def test_a_difference_that_is_no_rounding_does_not_pass_in_half_precision(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a wrong mask that moves likelihoods by a few tenths of a nat, on long choices, whose sums are large."""
    monkeypatch.setattr("partune.finetune.packed.likelihoods.deepest", lambda config: math.inf)
    base = make_base("mistral", tokenizer, "bf16", sliding_window=60, initializer_range=0.08)
    requests = drawn_requests((44, 24, 3), (45, 24, 3))
    likelihoods = PackedLikelihoods(base, Head(base))
    likelihoods.answers("p", requests)
    assert likelihoods.shared == {"p": False}
    shared = likelihoods._sums([Pass.over(grow(requests, CONTEXT, True), base.device)], len(requests))
    expected = np.array([value for value, _ in harness_model(base, 1)(requests)])
    assert (np.abs(shared - expected) < 0.1 + 0.02 * np.abs(expected)).all()  # what was let pass


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_trees_stay_in_use_where_all_tokens_see_all_before(
    tokenizer: PreTrainedTokenizerFast, kind: str, dtype: str
) -> None:
    base = make_base(kind, tokenizer, dtype, **({"n_positions": CONTEXT, "n_head": 4} if kind == "gpt2" else {}))
    likelihoods = PackedLikelihoods(base, Head(base))
    likelihoods.answers("p", drawn_requests((10, 25, 4), (80, 5, 4), (150, 3, 2)))
    assert likelihoods.shared == {"p": True}


# ----- frequencies that a pass's longest row chooses


def one_by_one(base: Base, requests: Sequence[Continuation]) -> list[Likelihood]:
    """HFLM's answers, one request a call."""
    with quiet():
        model = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=1, softmax_dtype="float32")
        return [model._loglikelihood_tokens([request], disable_tqdm=True)[0] for request in requests]


# Some on each side of LongRoPE's original context of 40 tokens, and trees whose branches lie on both.
BOTH_SIDES = ((20, 6, 3), (70, 6, 3), (36, 4, 2), (38, 6, 4), (39, 2, 2))
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, "max_position_embeddings": 40}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rope"), [("phi3", longrope(40)), ("llama", DYNAMIC)])
@pytest.mark.parametrize("tokens", [1, 100, 100_000])
def test_no_other_row_of_a_pass_changes_an_answer(
    tokenizer: PreTrainedTokenizerFast, kind: str, rope: dict[str, Any], tokens: int
) -> None:
    base = make_base(kind, tokenizer, **rope)
    requests = drawn_requests(*BOTH_SIDES)
    expected = one_by_one(base, requests)
    likelihoods = PackedLikelihoods(base, Head(base), tokens)
    check_same(likelihoods.answers("p", requests)[0], expected)
    assert likelihoods.shared == {"p": True}
    check_same(harness_model(base, 8)(requests), expected)
    for found in packed(base, requests, (1,) * 8, tokens=tokens, targets="all-linear"):
        assert found != expected
    alone = packed(base, requests, (3,), tokens=tokens, targets="all-linear")
    check_same(packed(base, requests, (3, 1, 1, 1, 1), tokens=tokens, targets="all-linear")[0], alone[0])


# ----- equal choices


@pytest.mark.parametrize("shared", [True, False])
def test_equal_choices_have_equal_likelihoods(
    base: Base, shared: bool, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In trees, in rows, and where a context's choices fill several rows; also through HFLM, whatever its batches."""
    monkeypatch.setattr(PackedLikelihoods, "_admits_trees", lambda self, requests: shared)
    requests = drawn_requests((20, 6, 5), (90, 40, 5), (7, 30, 5))
    twice = [(text, context, continuation[:]) for text, context, continuation in requests]
    mixed = [request for pair in zip(requests, reversed(twice), strict=True) for request in pair]
    answers = packed(base, mixed)
    answers.append(harness_model(base, 3)(mixed))
    for own in answers:
        by_tokens: dict[Any, set[Likelihood]] = {}
        for (_, context, continuation), answer in zip(mixed, own, strict=True):
            by_tokens.setdefault((tuple(context), tuple(continuation)), set()).add(answer)
        assert len(by_tokens) == len(requests)
        assert all(len(found) == 1 for found in by_tokens.values())


def test_of_equal_choices_the_first_wins(base: Base, tmp_path: Path) -> None:
    """All choices of an item are one text: the first is right by HFLM's rule, by either accuracy."""
    items = [
        {"question": f"which pump {word}", "choices": [f"oil valve {word}"] * 4, "answer": place % 2}
        for place, word in enumerate(WORDS)
    ]
    scorer = Scorer(base, config.Validation(tasks=(str(write_task(tmp_path, "same", items)),)), config.Test(), 0)
    likelihoods = PackedLikelihoods(base, Head(base))
    scores = scorer.score_one(likelihoods.answers, {"search", "verdict"})
    for part in scorer.parts:
        first = [int(part.task.items[i].gold == (0,)) for i in part.indices]
        for metric in ("acc", "acc_norm"):
            assert scores.items[f"{part.full_name}/{metric}"].tolist() == first


def test_a_context_of_very_many_choices_is_read_again_after_some() -> None:
    requests: list[Continuation] = [(("", str(i)), [1], [2, 3, 4, i]) for i in range(300)]
    trees = grow(requests, 1000, True)
    assert max(len(tree.tokens) for tree in trees) <= ROW
    assert sum(len(tree.tokens) for tree in trees) < 300 * 3 + 2 * 300 * 4 / ROW + 2
    assert sorted(place for tree in trees for place, _, _ in tree.requests) == list(range(300))
    whole = grow([(("", ""), [1] * 400, [5, 6])] * 9, 1000, True)
    assert len(whole) == 1  # a long context may have long rows


@pytest.mark.slow
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


@pytest.mark.slow
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
