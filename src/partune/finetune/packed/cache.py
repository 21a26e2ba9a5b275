"""Keep the keys and values of rows that are decoded together, with room for future tokens.

    keys, values of a layer   (R, H, n + room, D): R rows, H key-value heads, n tokens so far, D features of a head

transformers' DynamicCache copies all keys and values for every new token. Here, a new token is written into the room,
and all tokens are copied only when the room is full. The last rows take the places of rows that have ended.

Rows are padded on the left, so that all rows get their next token at the same place. Every layer keeps all tokens, even
if it sees only a window of them: transformers' masks hide the tokens outside the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 32  # the number of tokens for which there is room after a copy


def empty_cache() -> Cache:
    """Return an empty cache for one forward pass over prompts; every layer keeps all tokens."""
    return Cache(layer_class_to_replicate=DynamicLayer)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """The keys and values of a layer. Its `keys` and `values` are views of the tokens so far, (R, H, n, D).

    Args:
        keys: (R, H, n + room, D), the keys, with room for future tokens.
        values: (R, H, n + room, D'), the values.
        length: The number of tokens so far, n.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._hold(keys, values, length)

    def _hold(self, keys: Tensor, values: Tensor, length: int) -> None:
        self._whole, self._length = (keys, values), length
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens, and return those of all tokens.

        Args:
            key_states: (R, H, t, D), the keys of new tokens.
            value_states: (R, H, t, D'), the values.
        """
        length = self._length + key_states.shape[2]
        if length > self._whole[0].shape[2]:
            self._hold(_with_room(self.keys, length), _with_room(self.values, length), self._length)
        keys, values = self._whole
        keys[:, :, self._length : length] = key_states
        values[:, :, self._length : length] = value_states
        self._hold(keys, values, length)
        return self.keys, self.values

    def keep(self, count: int, places: Tensor, moved: Tensor, start: int) -> None:
        """Keep only some rows, without their first tokens. Only the rows that move are copied.

        Args:
            count: The number of rows that stay. After the move, these are the first rows.
            places: The indices of dropped rows among the first `count` rows.
            moved: The rows that move to these indices.
            start: The number of tokens to leave out, which are padding in all rows that stay.
        """
        places, moved = places.to(self.device), moved.to(self.device)
        for part in (self.keys, self.values):
            part[places] = part[moved]
        keys, values = self._whole
        self._hold(keys[:count, :, start:], values[:count, :, start:], self._length - start)


def _with_room(part: Tensor, length: int) -> Tensor:
    """Return a copy of keys or values (R, H, n, D) with room for at least `length` tokens."""
    rows, heads, n, features = part.shape
    copy = part.new_empty(rows, heads, length + ROOM, features)
    copy[:, :, :n] = part
    return copy


class JoinedCache:
    """Join the caches of several passes over prompts into one, in which rows are padded on the left.

    Args:
        trials: The number of trials, K.
        prompts: The number of prompts per trial, b. The R = K b rows are grouped by trial: first all rows of trial 0.
        longest: The number of tokens of the longest prompt.
    """

    def __init__(self, trials: int, prompts: int, longest: int) -> None:
        self.trials, self.prompts, self.longest = trials, prompts, longest
        self._layers: list[tuple[Tensor, ...] | None] = []

    def add(self, cache: Cache, first: int, lengths: Sequence[int]) -> None:
        """Add the cache of a pass over some prompts, whose rows are padded on the right.

        Args:
            cache: The cache, with its rows grouped by trial.
            first: The index of the first prompt of the pass.
            lengths: The numbers of tokens of the prompts of the pass.
        """
        if not self._layers:
            self._layers = [
                None if layer.keys is None else tuple(self._space(part) for part in (layer.keys, layer.values))
                for layer in cache.layers
            ]
        for layer, joined in zip(cache.layers, self._layers, strict=True):
            for part, whole in zip((layer.keys, layer.values), joined or (), strict=joined is not None):
                part = part.view(self.trials, -1, *part.shape[1:])  # (K, m, H, T, D)
                begin = 0
                while begin < len(lengths):  # prompts of equal length are copied together
                    n, end = lengths[begin], begin + 1
                    while end < len(lengths) and lengths[end] == n:
                        end += 1
                    place = whole[:, first + begin : first + end, :, : self.longest]
                    place[:, :, :, : self.longest - n] = 0  # if padding were NaN, its weight of 0 would not hide it
                    place[:, :, :, self.longest - n :] = part[:, begin:end, :, :n]
                    begin = end

    def _space(self, part: Tensor) -> Tensor:
        """Return memory (K, b, H, n + room, D) for keys or values like those of a pass."""
        _, heads, _, features = part.shape
        return part.new_empty(self.trials, self.prompts, heads, self.longest + ROOM, features)

    def cache(self) -> Cache:
        """Return the joined cache; a layer that keeps nothing itself stays empty."""
        layers: list[DynamicLayer] = []
        for joined in self._layers:
            if joined is None:
                layers.append(DynamicLayer())
            else:
                keys, values = (part.flatten(0, 1) for part in joined)
                layers.append(RoomyLayer(keys, values, self.longest))
        return Cache(layers=layers)
