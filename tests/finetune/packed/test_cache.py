"""The cache of rows that are decoded together, against transformers' DynamicCache and tensors put together by hand."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from partune.finetune.packed import cache as caches
from partune.finetune.packed.cache import JoinedCache, RoomyLayer, empty_cache


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 1000, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("room", [0, 2, 32])
def test_tokens_are_added_and_rows_leave(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is room for each token or not."""
    monkeypatch.setattr(caches, "ROOM", room)
    keys, values = drawn(5, 2, 6, 3), drawn(5, 2, 6, 4, seed=1)
    layer, plain = RoomyLayer(keys.clone(), values.clone(), 6), DynamicLayer()
    plain.update(keys, values)
    for step in range(7):
        rows = plain.keys.shape[0]
        new = drawn(rows, 2, 1, 3, seed=step), drawn(rows, 2, 1, 4, seed=step)
        for mine, theirs in zip(layer.update(*new), plain.update(*new), strict=True):
            assert torch.equal(mine, theirs)
        assert layer.get_seq_length() == plain.get_seq_length()
        if step == 2:
            layer.keep(3, torch.tensor([0]), torch.tensor([4]), 1)
            plain.batch_select_indices(torch.tensor([4, 1, 2]))
            plain.keys, plain.values = plain.keys[:, :, 1:], plain.values[:, :, 1:]
            assert torch.equal(layer.keys, plain.keys)


def test_passes_are_joined_with_padding_on_the_left() -> None:
    lengths, trials = [5, 3, 3, 2], 2
    joined = JoinedCache(trials, len(lengths), lengths[0])
    passes = [drawn(trials, 3, 2, 5, 3, seed=1), drawn(trials, 1, 2, 2, 3, seed=2)]  # (K, m, H, T, D)
    for first, part in zip((0, 3), passes, strict=True):
        cache = empty_cache()
        cache.update(part.flatten(0, 1), part.flatten(0, 1) + 1, 0)
        cache.update(part.flatten(0, 1) + 2, part.flatten(0, 1) + 3, 2)  # layer 1 keeps nothing of its own
        joined.add(cache, first, lengths[first : first + part.shape[1]])
    cache = joined.cache()
    assert cache.get_seq_length() == 5
    assert not cache.layers[1].is_initialized
    for trial in range(trials):
        for prompt, length in enumerate(lengths):
            part = passes[prompt // 3][trial, prompt % 3, :, :length]
            row = trial * len(lengths) + prompt
            for layer, shift in ((0, 0), (2, 2)):
                assert torch.equal(cache.layers[layer].keys[row, :, 5 - length :], part + shift)
                assert torch.equal(cache.layers[layer].values[row, :, 5 - length :], part + shift + 1)
                assert (cache.layers[layer].keys[row, :, : 5 - length] == 0).all()
