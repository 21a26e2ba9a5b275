"""LoRA's dropout, its masks a function of where they are used: (trial's seed, step, layer, row, position, feature).

No generator is drawn from, so a trial drops the same features alone, in any slot of a pack, whatever its neighbours are
and however its batch is cut into micro-batches. Both engines use these masks.

    s = mix(mix(key) + mix(row 2^32 + position))     one 64-bit state a token; key = mix of seed, step and layer
    z = s + w[f]                                     w: well-mixed constants, one for two features
    z = (z ^ z >> 32) M;  z = (z ^ z >> 32) M        then two 32-bit lanes, one for each of the two features

`mix` is splitmix64's finaliser (Steele, Lea and Flood 2014; constants of Stafford's variant 13). A feature is kept
where its lane, read as a number in [0, 2^32), is at least p 2^32: with probability 1 - p to within 2^-33.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
M1, M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(x: int) -> int:
    """Return a word that looks random, a bijection of 64-bit words: splitmix64's finaliser."""
    x = ((x ^ (x >> 30)) * M1) & WORD
    x = ((x ^ (x >> 27)) * M2) & WORD
    return x ^ (x >> 31)


def begun(seed: int, step: int) -> int:
    """Return a 64-bit word for one trial at one optimiser step.

    Args:
        seed: The trial's.
        step: The optimiser step, from 0.
    """
    return mix((mix((seed + GOLDEN) & WORD) + (step + 1) * GOLDEN) & WORD)


def thresholds(rates: Sequence[float]) -> Tensor:
    """Return the least lane, as a signed number, with which a feature is kept at each rate: (K,), on the CPU."""
    return torch.tensor([min(round(rate * 2**32), WORD >> 32) - (1 << 31) for rate in rates], dtype=torch.int32)


@dataclass
class Place:
    """Which trials, at which of their steps, the rows of a forward pass belong to.

    Attributes:
        seeds: (K,), the trials' seeds.
        steps: (K,), the optimiser steps at which they are.
        rows: (K,), the row within its step's batch at which each trial's micro-batch begins.
        shape: (b, T), of each trial's micro-batch.
        chosen: (K, n), which of its b T tokens; None for all of them.
    """

    seeds: Sequence[int]
    steps: Sequence[int]
    rows: Sequence[int]
    shape: tuple[int, int]
    chosen: Tensor | None = None

    def __post_init__(self) -> None:
        self._tokens: Tensor | None = None
        self._begun: Tensor | None = None

    def of(self, chosen: Tensor) -> Place:
        """Return the place of some tokens alone; chosen: (K, n), indices into each trial's b T."""
        return dataclasses.replace(self, chosen=chosen)

    def keys(self, layer: int, device: torch.device) -> Tensor:
        """Return a 64-bit word for each trial's layer at its step, (K, 1).

        Args:
            layer: The layer's number among those with adapters.
            device: Where the words go.
        """
        if self._begun is None:
            words = [_signed(begun(*place)) for place in zip(self.seeds, self.steps, strict=True)]
            self._begun = torch.tensor(words, dtype=torch.int64, device=device).unsqueeze(1)
        return _mix(self._begun.to(device) + _signed((layer + 1) * GOLDEN & WORD))

    def tokens(self, device: torch.device) -> Tensor:
        """Return a 64-bit word for the place of every token in its trial's batch, (K, b T), or (K, n) if chosen."""
        if self._tokens is None:
            b, t = self.shape
            first = torch.tensor(self.rows, dtype=torch.int64).view(-1, 1, 1)
            positions = (first + torch.arange(b).view(-1, 1)) * (1 << 32) + torch.arange(t)  # (K, b, T)
            tokens = _mix(positions.flatten(1)).to(device)
            self._tokens = tokens if self.chosen is None else tokens.gather(1, self.chosen.to(device))
        return self._tokens.to(device)


def keep(place: Place, layer: int, least: Tensor, features: int) -> Tensor:
    """Return which features are kept, as booleans (K, b T, d).

    Args:
        place: The trials and their tokens.
        layer: The layer's number among those with adapters.
        least: (K,), the `thresholds` of the trials' rates.
        features: d.
    """
    tokens = place.tokens(least.device)
    state = _mix(tokens + place.keys(layer, least.device))  # (K, N)
    lanes = state.unsqueeze(2) + _words(features, least.device)  # (K, N, ceil(d / 2))
    # State and constants are well mixed already, so that two rounds are enough; each is a pass over as many numbers
    # as the layer reads.
    for _ in range(2):
        lanes ^= lanes >> 32
        lanes *= _signed(M2)
    return (lanes.view(torch.int32) >= least.view(-1, 1, 1))[..., :features]


class Dropout(nn.Module):
    """The masks of one trial's layer, in place of `nn.Dropout` in an adapter of PEFT's.

    The module is told by its owner, through `place`, where a forward pass stands.

    Args:
        rate: Probability that a feature is dropped.
        layer: The layer's number among those with adapters.
    """

    def __init__(self, rate: float, layer: int) -> None:
        super().__init__()
        self.rate, self.layer = rate, layer
        self.place: Place | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., d) with features dropped and the others scaled up; x itself outside training."""
        if not self.training or self.rate == 0 or self.place is None:
            return x
        least = thresholds([self.rate]).to(x.device)
        return x * keep(self.place, self.layer, least, x.shape[-1]).view(x.shape) / (1 - self.rate)


def _mix(x: Tensor) -> Tensor:
    """Return `mix` of each 64-bit word."""
    for shift, factor in ((30, M1), (27, M2)):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Return x >> bits of unsigned words."""
    # torch's shift is arithmetic: it fills with the sign bit, which the mask takes off.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@functools.lru_cache(maxsize=64)
def _words(features: int, device: torch.device) -> Tensor:
    """Return one constant for every two features, (ceil(d / 2),)."""
    return torch.tensor([_signed(mix((i + 1) * GOLDEN & WORD)) for i in range((features + 1) // 2)], device=device)


def _signed(word: int) -> int:
    """Return a 64-bit word as the signed number of the same bits: torch has no unsigned one to compute with."""
    return word - (1 << 64) if word >> 63 else word
