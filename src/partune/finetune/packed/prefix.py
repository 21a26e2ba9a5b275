"""Attend to the tokens with which all prompts begin, whose keys and values are kept once per trial.

    keys, values of a layer    (K, H, P, D): K trials, H key-value heads, P tokens of the prefix, D features of a head
    those of a row's own       (R, H, n, D): R rows, n tokens after the prefix
    queries                    (R, G H, T, D): G query heads share a key-value head

The cache that a model sees holds only each row's own tokens. transformers lets a model call another attention function;
ours adds the prefix. A row that gets one token multiplies its query by the keys of its trial's prefix together with
the trial's other rows, so that the prefix is read once per trial and not once per row (Juravsky et al. 2024, Hydragen).
In passes over several tokens per row, where attention is a small part of the work, the prefix is copied to the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from partune.finetune.packed.adapters import Ragged

NAME = "partune_prefix"  # the name under which transformers finds the attention function
# Arguments of attention functions that ours does not know. Models that pass them cannot share a prefix.
UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")


@dataclass(frozen=True)
class Prefix:
    """The keys and values of the tokens with which all rows begin.

    Attributes:
        length: The number of tokens, P.
        layers: For each layer, its keys (K, H, P, D) and values (K, H, P, D'); None if it keeps none.
    """

    length: int
    layers: list[tuple[Tensor, Tensor] | None]

    @classmethod
    def of(cls, cache: Cache) -> Prefix:
        """Return the prefix in a cache, in which each row is one trial."""
        layers = [None if layer.keys is None else (layer.keys, layer.values) for layer in cache.layers]
        return cls(cache.get_seq_length(), layers)

    def only(self, trials: Sequence[int]) -> Prefix:
        """Return the prefix of some trials, by their indices."""
        kept = [None if layer is None else (layer[0][list(trials)], layer[1][list(trials)]) for layer in self.layers]
        return Prefix(self.length, kept)


@dataclass(frozen=True)
class _Pass:
    """What the attention function must know of a forward pass.

    Attributes:
        prefix: The prefix.
        positions: (1 or R, T), the positions of the tokens of each row.
        ragged: The rows of each trial; None if there are equally many of one trial after another.
    """

    prefix: Prefix
    positions: Tensor
    ragged: Ragged | None


_passing: ContextVar[_Pass] = ContextVar("_passing")


@contextmanager
def attending(
    model: PreTrainedModel, prefix: Prefix | None, positions: Tensor, ragged: Ragged | None = None
) -> Iterator[None]:
    """Let the rows of a forward pass see a prefix before their own tokens.

    Args:
        model: The model.
        prefix: The prefix; None if there is none, which changes nothing.
        positions: (1 or R, T), the positions of the tokens of each row, counted from the beginning of the prefix.
        ragged: The rows of each trial; None if there are equally many of one trial after another.
    """
    if prefix is None:
        yield
        return
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    settings = model.config.get_text_config()
    usual = settings._attn_implementation
    token = _passing.set(_Pass(prefix, positions, ragged))
    settings._attn_implementation = NAME
    try:
        yield
    finally:
        settings._attn_implementation = usual
        _passing.reset(token)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the attention of each row to the prefix and to its own tokens, (R, T, G H, D'); see transformers' sdpa.

    Args:
        module: The attention layer.
        query: (R, G H, T, D), the queries.
        key: (R, H, n, D), the keys of the rows' own tokens.
        value: (R, H, n, D'), their values.
        attention_mask: (1 or R, 1, T, n), which own tokens each token sees; None for itself and all before it.
        scaling: The factor of the scores; None for D^-1/2.
        sliding_window: The number of last tokens that a token sees, itself included; None for all.
        others: Arguments of other attention functions.

    Raises:
        NotImplementedError: The model uses something in its attention that this function does not know.
    """
    if unknown := [name for name in UNKNOWN if others.get(name) is not None]:
        raise NotImplementedError(f"attention with {unknown[0]}")
    now = _passing.get()
    layer = now.prefix.layers[cast(int, module.layer_idx)]
    if layer is None:
        raise NotImplementedError("a layer with the keys of another")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    hidden = None
    if sliding_window is not None and int(now.positions.max()) >= sliding_window:
        distance = now.positions.unsqueeze(-1) - torch.arange(now.prefix.length, device=now.positions.device)
        hidden = (distance >= sliding_window).unsqueeze(1).to(query.device)  # (1 or R, 1, T, P)
    if query.shape[2] == 1:
        out = _one_token(query, key, value, attention_mask, scale, layer, hidden, now.ragged)
    else:
        out = _tokens(query, key, value, attention_mask, scale, layer, hidden)
    return out.transpose(1, 2), None


def _tokens(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    layer: tuple[Tensor, Tensor],
    hidden: Tensor | None,
) -> Tensor:
    """Return the attention of several tokens per row, (R, G H, T, D').

    Args:
        query: (R, G H, T, D), the queries.
        key: (R, H, T, D), the keys of the rows' own tokens.
        value: (R, H, T, D'), their values.
        mask: (1 or R, 1, T, T), which own tokens each token sees; None for itself and all before it.
        scale: The factor of the scores.
        layer: The keys (K, H, P, D) and values (K, H, P, D') of the prefix.
        hidden: (1 or R, 1, T, P), which tokens of the prefix each token does not see; None if it sees all.
    """
    keys, values = (_before(shared, own) for shared, own in zip(layer, (key, value), strict=True))
    T, P = query.shape[2], layer[0].shape[2]
    own = torch.ones(1, 1, T, T, dtype=torch.bool, device=query.device).tril() if mask is None else mask
    before = own.new_ones(1, 1, T, P) if hidden is None else ~hidden
    count = max(len(own), len(before))
    seen = torch.cat([before.expand(count, 1, T, P), own.expand(count, 1, T, T)], -1)
    groups = query.shape[1] // keys.shape[1]
    if groups > 1:
        keys, values = (part.repeat_interleave(groups, 1) for part in (keys, values))
    return functional.scaled_dot_product_attention(query, keys, values, seen, scale=scale)


def _before(shared: Tensor, own: Tensor) -> Tensor:
    """Return keys or values (R, H, P + n, D) of a prefix (K, H, P, D) and of the tokens after it, (R, H, n, D)."""
    K, heads, P, features = shared.shape
    rows, n = own.shape[0], own.shape[2]
    whole = own.new_empty(rows, heads, P + n, features)
    whole.view(K, -1, heads, P + n, features)[:, :, :, :P] = shared.unsqueeze(1)
    whole[:, :, P:] = own
    return whole


def _one_token(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    layer: tuple[Tensor, Tensor],
    hidden: Tensor | None,
    ragged: Ragged | None,
) -> Tensor:
    """Return the attention of one token per row, (R, G H, 1, D').

    Args:
        query: (R, G H, 1, D), the queries.
        key: (R, H, n, D), the keys of the rows' own tokens.
        value: (R, H, n, D'), their values.
        mask: (1 or R, 1, 1, n), which own tokens each row sees; None for all.
        scale: The factor of the scores.
        layer: The keys (K, H, P, D) and values (K, H, P, D') of the prefix.
        hidden: (1 or R, 1, 1, P), which tokens of the prefix each row does not see; None if it sees all.
        ragged: The rows of each trial; None if there are equally many of one trial after another.
    """
    keys, values = layer
    K, heads, P, _ = keys.shape
    groups = query.shape[1] // heads

    def by_trial(part: Tensor) -> Tensor:
        """Return (R, H, G, E) as (K, H, c G, E), where c is the largest number of rows of a trial."""
        filled = part if ragged is None else part[ragged.filled.to(part.device)]
        return filled.reshape(K, -1, *part.shape[1:]).transpose(1, 2).flatten(2, 3)

    def by_row(part: Tensor) -> Tensor:
        """Return (K, H, c G, E) as (R, H, G, E)."""
        rows = part.view(K, heads, -1, groups, part.shape[-1]).transpose(1, 2).flatten(0, 1)
        return rows if ragged is None else rows[ragged.places.to(part.device)]

    query = query.reshape(len(query), heads, groups, -1)
    before = by_row(by_trial(query) @ keys.transpose(2, 3))  # (R, H, G, P)
    own = query @ key.transpose(2, 3)  # (R, H, G, n)
    if hidden is not None:
        before = before.masked_fill(hidden, -torch.inf)
    if mask is not None:
        own = own.masked_fill(~mask, -torch.inf)
    weights = (torch.cat([before, own], -1).float() * scale).softmax(-1).to(query.dtype)
    out = by_row(by_trial(weights[..., :P]) @ values) + weights[..., P:] @ value
    return out.reshape(len(query), heads * groups, 1, -1)
