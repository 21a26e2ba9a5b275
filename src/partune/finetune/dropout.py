"""LoRA's dropout with masks that are a function of (trial's seed, step, layer, row, position, feature).

No random generator is used. So a trial drops the same features whether it trains alone or in a pack (with other trials
on one base model), in any row of the pack, and with any micro-batch size. The engines `peft` and `packed` both use
these masks.

    s = mix(mix(key) + mix(row 2^32 + position))     one 64-bit state per token; key = mix of seed, step and layer
    z = s + w[f]                                     w: well-mixed constants, one for two features
    z = (z ^ z >> 32) M;  z = (z ^ z >> 32) M        then two 32-bit lanes, one for each of the two features

`mix` is splitmix64's finaliser (Steele, Lea and Flood 2014; constants of Stafford's variant 13). A feature is kept
if its lane, read as a number in [0, 2^32), is at least p 2^32. This has probability 1 - p to within 2^-33.
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
    """Return splitmix64's finaliser of a 64-bit word: a bijection whose results look random."""
    x = ((x ^ (x >> 30)) * M1) & WORD
    x = ((x ^ (x >> 27)) * M2) & WORD
    return x ^ (x >> 31)


def begun(seed: int, step: int) -> int:
    """Return a 64-bit word for one trial at one optimiser step.

    Args:
        seed: The trial's seed.
        step: The optimiser step, from 0.
    """
    return mix((mix((seed + GOLDEN) & WORD) + (step + 1) * GOLDEN) & WORD)


def thresholds(rates: Sequence[float]) -> Tensor:
    """Return, for each dropout rate, the smallest lane (as a signed number) that keeps a feature: (K,), on the CPU."""
    return torch.tensor([min(round(rate * 2**32), WORD >> 32) - (1 << 31) for rate in rates], dtype=torch.int32)


@dataclass
class Place:
    """The trials, steps and batch rows that the tokens of a forward pass belong to.

    Attributes:
        seeds: (K,), the seed of each trial.
        steps: (K,), the current optimiser step of each trial.
        rows: (K,), the row of the step's batch at which each trial's micro-batch begins.
        shape: (b, T), the shape of each trial's micro-batch.
        chosen: (K, n), indices of the chosen tokens among each trial's b T tokens; None for all tokens.
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
        """Return the same place for some of the tokens; chosen: (K, n), indices into each trial's b T tokens."""
        return dataclasses.replace(self, chosen=chosen)

    def keys(self, layer: int, device: torch.device) -> Tensor:
        """Return a 64-bit word for a layer in each trial at its current step, (K, 1).

        Args:
            layer: The layer's number among those with adapters.
            device: The device of the result.
        """
        if self._begun is None:
            words = [_signed(begun(seed, step)) for seed, step in zip(self.seeds, self.steps, strict=True)]
            self._begun = torch.tensor(words, dtype=torch.int64, device=device).unsqueeze(1)
        return _mix(self._begun.to(device) + _signed((layer + 1) * GOLDEN & WORD))

    def tokens(self, device: torch.device) -> Tensor:
        """Return a 64-bit word for the row and position of each token in its trial's batch, (K, b T) or (K, n)."""
        if self._tokens is None:
            b, t = self.shape
            first = torch.tensor(self.rows, dtype=torch.int64).view(-1, 1, 1)
            positions = (first + torch.arange(b).view(-1, 1)) * (1 << 32) + torch.arange(t)  # (K, b, T)
            tokens = _mix(positions.flatten(1)).to(device)
            self._tokens = tokens if self.chosen is None else tokens.gather(1, self.chosen.to(device))
        return self._tokens.to(device)


def keep(place: Place, layer: int, least: Tensor, features: int) -> Tensor:
    """Return whether each feature is kept, as booleans (K, b T, d), or (K, n, d) for chosen tokens.

    Args:
        place: The trials and their tokens.
        layer: The layer's number among those with adapters.
        least: (K,), the `thresholds` of the trials' dropout rates.
        features: The number of features, d.
    """
    tokens = place.tokens(least.device)
    state = _mix(tokens + place.keys(layer, least.device))  # (K, N)
    lanes = state.unsqueeze(2) + _words(features, least.device)  # (K, N, ceil(d / 2))
    # Two rounds are enough because the state and the constants are well mixed already. More rounds would be slow: each
    # one reads and writes all lanes.
    for _ in range(2):
        lanes ^= lanes >> 32
        lanes *= _signed(M2)
    return (lanes.view(torch.int32) >= least.view(-1, 1, 1))[..., :features]


class Dropout(nn.Module):
    """The dropout of one layer of a PEFT adapter, by this module's masks, in place of `nn.Dropout`.

    Its owner sets `place` before each forward pass.

    Args:
        rate: The probability that a feature is dropped.
        layer: The layer's number among those with adapters.
    """

    def __init__(self, rate: float, layer: int) -> None:
        super().__init__()
        self.rate, self.layer = rate, layer
        self.place: Place | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., d) with some features dropped and the others scaled up, or x itself outside training."""
        if not self.training or self.rate == 0 or self.place is None:
            return x
        least = thresholds([self.rate]).to(x.device)
        return x * keep(self.place, self.layer, least, x.shape[-1]).view(x.shape) / (1 - self.rate)


def _mix(x: Tensor) -> Tensor:
    """Return splitmix64's finaliser of each 64-bit word in a tensor."""
    for shift, factor in ((30, M1), (27, M2)):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Return x >> bits, with words taken as unsigned."""
    # torch shifts arithmetically: it fills in copies of the sign bit, which the mask removes.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@functools.lru_cache(maxsize=64)
def _words(features: int, device: torch.device) -> Tensor:
    """Return a constant for each pair of features, (ceil(d / 2),)."""
    return torch.tensor([_signed(mix((i + 1) * GOLDEN & WORD)) for i in range((features + 1) // 2)], device=device)


def _signed(word: int) -> int:
    """Return the signed number with the same bits as a 64-bit word: torch cannot compute with unsigned numbers."""
    return word - (1 << 64) if word >> 63 else word
