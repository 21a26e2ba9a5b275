"""A shared prefix against attention over rows in which it is repeated, and what models cannot share."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicLayer

from partune.finetune.model import Base
from partune.finetune.packed import prefix as prefixes
from partune.finetune.packed.adapters import Ragged
from partune.finetune.packed.prefix import Prefix, attending
from tests.support.tiny import make_base

K, HEADS, P, FEATURES = 3, 2, 7, 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attended(
    model: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, ragged: Ragged | None, **options: Any
) -> Tensor:
    """What the attention function gives in layer 0, as transformers would call it; the prefix comes before the rows."""
    prefix = Prefix(P, [(drawn(K, HEADS, P, FEATURES, seed=8), drawn(K, HEADS, P, FEATURES, seed=9))])
    with attending(model, prefix, options.pop("positions"), ragged):
        out, _ = prefixes._attend(cast(nn.Module, SimpleNamespace(layer_idx=0)), query, key, value, mask, **options)
    return out


def repeated(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, trials: Sequence[int], window: int, positions: Tensor
) -> Tensor:
    """The oracle: PyTorch's attention over rows that have the prefix before their own tokens."""
    before = [drawn(K, HEADS, P, FEATURES, seed=seed)[list(trials)] for seed in (8, 9)]
    keys, values = (torch.cat([whole, own], 2) for whole, own in zip(before, (key, value), strict=True))
    groups = query.shape[1] // HEADS
    near = positions.unsqueeze(-1) - torch.arange(P) < window  # (1 or R, T, P)
    near = near.unsqueeze(1).expand(len(query), 1, query.shape[2], P)
    mask = torch.cat([near, seen.expand(len(query), 1, query.shape[2], seen.shape[-1])], -1)
    keys, values = (part.repeat_interleave(groups, 1) for part in (keys, values))
    return functional.scaled_dot_product_attention(query, keys, values, mask, scale=0.3).transpose(1, 2)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("trials", [[0, 0, 1, 1, 2, 2], [2, 0, 0, 1, 0]])
def test_one_token_per_row_sees_the_prefix_and_its_own_row(
    base: Base, groups: int, window: int | None, trials: list[int]
) -> None:
    rows, n = len(trials), 5
    query = drawn(rows, groups * HEADS, 1, FEATURES)
    key, value = drawn(rows, HEADS, n, FEATURES, seed=1), drawn(rows, HEADS, n, FEATURES, seed=2)
    seen = (torch.arange(n) >= (torch.arange(rows) % n).view(-1, 1)).view(rows, 1, 1, n)  # padding on the left
    positions = P + seen.sum(-1).view(rows, 1) - 1
    ragged = None if trials == sorted(trials) else Ragged.of(np.array(trials), K, torch.device("cpu"))
    options = {"scaling": 0.3, "sliding_window": window, "positions": positions}
    found = attended(base.model, query, key, value, seen, ragged, **options)
    expected = repeated(query, key, value, seen, trials, window or 1000, positions)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", [None, 6])
def test_several_tokens_per_row_see_the_prefix_and_what_comes_before_them(
    base: Base, groups: int, window: int | None
) -> None:
    trials, T = [0, 0, 1, 1, 2, 2], 4
    query = drawn(len(trials), groups * HEADS, T, FEATURES)
    key, value = (drawn(len(trials), HEADS, T, FEATURES, seed=seed) for seed in (1, 2))
    positions = (P + torch.arange(T)).unsqueeze(0)
    options = {"scaling": 0.3, "sliding_window": window, "positions": positions}
    found = attended(base.model, query, key, value, None, None, **options)
    causal = torch.ones(1, 1, T, T, dtype=torch.bool).tril()
    torch.testing.assert_close(found, repeated(query, key, value, causal, trials, window or 1000, positions))


def test_attention_that_is_not_known_is_refused_and_the_model_gets_its_own_back(base: Base) -> None:
    usual = base.model.config.get_text_config()._attn_implementation
    query, key = drawn(3, HEADS, 1, FEATURES), drawn(3, HEADS, 2, FEATURES)
    with pytest.raises(NotImplementedError, match="attention with softcap"):
        attended(base.model, query, key, key, None, None, positions=torch.tensor([[9]]), softcap=30.0)
    empty = Prefix(P, [None])
    with (
        attending(base.model, empty, torch.tensor([[9]])),
        pytest.raises(NotImplementedError, match="keys of another"),
    ):
        prefixes._attend(cast(nn.Module, SimpleNamespace(layer_idx=0)), query, key, key, None)
    assert base.model.config.get_text_config()._attn_implementation == usual


def test_the_prefix_of_some_trials_is_theirs() -> None:
    cache = Cache(layers=[DynamicLayer(), DynamicLayer()])
    cache.update(drawn(K, HEADS, P, FEATURES), drawn(K, HEADS, P, FEATURES, seed=1), 0)
    prefix = Prefix.of(cache)
    assert prefix.length == P
    assert prefix.layers[1] is None
    some = prefix.only([2, 0]).layers[0]
    assert some is not None
    assert torch.equal(some[0], drawn(K, HEADS, P, FEATURES)[[2, 0]])
    assert torch.equal(some[1], drawn(K, HEADS, P, FEATURES, seed=1)[[2, 0]])


@pytest.fixture(scope="module")
def base(tokenizer: PreTrainedTokenizerFast) -> Base:
    return make_base("llama", tokenizer)
