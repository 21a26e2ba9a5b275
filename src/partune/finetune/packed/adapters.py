"""Packed LoRA: the adapters of K trials on one frozen base, as batched products.

    rows of a forward pass   (K b, T): b sequences of each trial, one trial after another; the base runs once over all
    A, B of a layer          (K, d_in, R), (K, R, d_out); y_k = W x_k + (alpha_k / r_k) B_k A_k drop_k(x_k)
    R                        the pack's rank: a trial of rank r has zeros in A's columns and B's rows from r on

The gradient of a zero pair is exactly zero (dA = x' dy B', dB = A' x' dy), so padding stays zero without a mask, and
AdamW of a zero gradient is zero. Nothing here loops over trials; nothing is merged into the base or copied back.

All of a pack's numbers lie in one buffer of shape (K, P), row k being trial k's adapter; a layer's A and B are views of
it. Optimisers, norms, refills and shrinking are operations on its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from partune import config
from partune.errors import UserError
from partune.finetune import adapter as adapters
from partune.finetune.dropout import Place, keep, thresholds
from partune.finetune.layers import has_expert_tensors, linear_layers
from partune.finetune.model import Base
from partune.finetune.targets import find_targets
from partune.finetune.training import lora_config

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

MULTIPLE = 4  # a pack's rank is a multiple of this: matrix products are fastest on aligned sizes

Weights = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Site:
    """A linear layer that carries adapters.

    Attributes:
        name: Its full name.
        d_in: Features that it reads.
        d_out: Features that it gives.
    """

    name: str
    d_in: int
    d_out: int


def find_sites(base: Base, targets: str) -> tuple[Site, ...]:
    """Return the layers that get adapters, in the model's order.

    Args:
        base: The base model.
        targets: The setting: a kind of layers, or names.

    Raises:
        UserError: A layer cannot carry a pack's adapters.
    """
    linear = linear_layers(base.model)
    names = find_targets(base.model, targets)
    expert = next((name for name in names if ".experts." in f".{name}."), None)
    if expert is not None or (targets == "all-linear" and has_expert_tensors(base.model)):
        raise UserError(
            f"targets: {expert or targets} means the experts of a mixture, which get no adapters here: "
            "name other layers, such as attention"
        )
    return tuple(Site(name, *features(linear[name])) for name in names)


def features(layer: nn.Module) -> tuple[int, int]:
    """Return the features in and out of an `nn.Linear`, or of transformers' Conv1D (whose weight is transposed)."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return cast(Any, layer).nx, cast(Any, layer).nf


def initial(sites: Sequence[Site], r: int, seed: int) -> Weights:
    """Return a trial's adapter before training, by layer: A (d_in, r) and B (r, d_out), B zero; in fp32.

    The numbers are PEFT's for the same seed: it draws every layer's A, then B (as any new `nn.Linear`), then A again.

    Args:
        sites: The layers with adapters, in the model's order.
        r: The trial's rank.
        seed: Seed of initialisation.
    """
    draw = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=draw)

    weights = {}
    for site in sites:
        drawn(r, site.d_in)
        drawn(site.d_out, r)
        weights[site.name] = drawn(r, site.d_in).T.contiguous(), torch.zeros(r, site.d_out)
    return weights


class Pack:
    """The adapters of K trials.

    Args:
        sites: The layers with adapters.
        ranks: (K,).
        alphas: (K,).
        dropouts: (K,), probabilities.
        device: Where all numbers lie.
        dtype: Precision of the adapters.
        train: Whether they are to be trained; gradients and dropout are off otherwise.

    Attributes:
        values: (K, P), all weights, trial k's in row k.
        rank: R, the ranks' maximum, padded.
        A: Views of `values`, (K, d_in, R) by layer.
        B: Views of `values`, (K, R, d_out) by layer.
        gradients: (K, P); None for a pack that is only scored.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        ranks: Sequence[int],
        alphas: Sequence[float],
        dropouts: Sequence[float],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        train: bool = True,
    ) -> None:
        self.sites = tuple(sites)
        self.ranks, self.alphas, self.dropouts = tuple(ranks), tuple(alphas), tuple(dropouts)
        self.rank = padded(max(ranks))
        self.values = torch.zeros(len(ranks), sum(self._sizes), device=device, dtype=dtype)
        self.gradients = torch.zeros_like(self.values) if train else None
        self.drops = train and any(dropouts)
        self.least = thresholds(dropouts).to(device)
        shares = [1 - p if self.drops else 1.0 for p in dropouts]
        scales = [alpha / (r * share) for alpha, r, share in zip(alphas, ranks, shares, strict=True)]
        self.scales = torch.tensor(scales, device=device, dtype=dtype).view(-1, 1, 1)  # alpha / r, over 1 - p
        self.A, self.B = self.views(self.values)
        for leaf in self.leaves if train else ():
            leaf.requires_grad_()

    def __len__(self) -> int:
        return len(self.ranks)

    @property
    def _sizes(self) -> list[int]:
        return [size for site in self.sites for size in (site.d_in * self.rank, self.rank * site.d_out)]

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that gradients are taken of: A of all layers, then B."""
        return self.A + self.B

    def accumulate(self, losses: Tensor) -> None:
        """Add the gradient of the sum of the trials' losses to `gradients`: row k has that of trial k's loss alone.

        A trial's loss depends on its own adapter only, so that one backward pass over the sum keeps the rows apart.
        """
        assert self.gradients is not None
        A, B = self.views(self.gradients)
        # A layer that this pass did not use has no gradient; zeros keep the lists aligned.
        gradients = torch.autograd.grad(losses.sum(), self.leaves, materialize_grads=True)
        torch._foreach_add_(A + B, list(gradients))

    def views(self, buffer: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the layers' parts of a buffer of the shape of `values`: (K, d_in, R), (K, R, d_out)."""
        parts = torch.split(buffer, self._sizes, 1)
        R = self.rank
        return (
            [part.view(-1, site.d_in, R) for part, site in zip(parts[::2], self.sites, strict=True)],
            [part.view(-1, R, site.d_out) for part, site in zip(parts[1::2], self.sites, strict=True)],
        )

    def copy(self, buffer: Tensor, other: Pack, source: Tensor, rows: Sequence[int]) -> None:
        """Copy rows of another pack's buffer into the first rows of one of this pack's; their ranks may differ.

        Args:
            buffer: (K, P), one of this pack's.
            other: The other pack.
            source: (K', P'), one of the other pack's.
            rows: Rows of `source`, in the order that they get.
        """
        n, r = len(rows), min(self.rank, other.rank)
        with torch.no_grad():
            for mine, theirs in zip(self.views(buffer)[0], other.views(source)[0], strict=True):
                mine[:n, :, :r] = theirs[list(rows), :, :r]
            for mine, theirs in zip(self.views(buffer)[1], other.views(source)[1], strict=True):
                mine[:n, :r] = theirs[list(rows), :r]

    def put(self, row: int, weights: Weights, buffer: Tensor | None = None) -> None:
        """Write a trial's adapter, or its part of another buffer.

        Args:
            row: The trial's row.
            weights: A (d_in, r) and B (r, d_out) by layer.
            buffer: (K, P), such as an optimiser's state; None for the adapters.
        """
        r, buffer = self.ranks[row], self.values if buffer is None else buffer
        with torch.no_grad():
            buffer[row] = 0  # padding has to be zero: its gradient is zero only then
            for site, A, B in zip(self.sites, *self.views(buffer), strict=True):
                a, b = weights[site.name]
                A[row, :, :r] = a.to(buffer)
                B[row, :r] = b.to(buffer)

    def take(self, row: int, buffer: Tensor | None = None) -> Weights:
        """Return a copy of a trial's adapter, or of its part of another buffer, without padding.

        Args:
            row: The trial's row.
            buffer: (K, P), such as an optimiser's state; None for the adapters.
        """
        r = self.ranks[row]
        return {
            site.name: (a[row, :, :r].detach().clone(), b[row, :r].detach().clone())
            for site, a, b in zip(self.sites, *self.views(self.values if buffer is None else buffer), strict=True)
        }


def padded(r: int) -> int:
    """Return the rank of a pack whose largest trial has rank r."""
    return -(-r // MULTIPLE) * MULTIPLE


class PackedLinear(nn.Module):
    """A frozen linear layer with the adapters of whatever pack is active.

    Args:
        base_layer: The layer itself.
        number: Its number among the layers with adapters.
        carrier: Knows which pack is active.
    """

    def __init__(self, base_layer: nn.Module, number: int, carrier: Carrier) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.number = number
        self.carrier = carrier

    @property
    def weight(self) -> Tensor:
        """The frozen weight: models look at their layers' weights to learn a dtype, or to tie."""
        return cast(Tensor, self.base_layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return cast("Tensor | None", self.base_layer.bias)

    # The active pack changes from call to call, and each change would compile the block again.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output (K b, T, d_out) for x (K b, T, d_in), row k with trial k's adapter."""
        out: Tensor = self.base_layer(x)
        pack = self.carrier.pack
        if pack is None:
            return out
        # As PEFT under autocast, products are in the base's precision. They are on the layer's device: a base that is
        # spread over several GPUs keeps all adapters on the first.
        A, B = pack.A[self.number].to(out), pack.B[self.number].to(out)
        rows = x.reshape(len(pack), -1, x.shape[-1]).to(out.device)  # (K, N, d_in), N = b T
        if pack.drops:
            assert self.carrier.at is not None
            rows = rows * keep(self.carrier.at, self.number, pack.least.to(out.device), rows.shape[-1])
        down = (torch.bmm(rows, A) * pack.scales.to(out.device)).to(out.dtype)  # (K, N, d_in) @ (K, d_in, R)
        return torch.baddbmm(out.view(len(pack), -1, out.shape[-1]), down, B).view(out.shape)


@dataclass
class Carrier:
    """A base whose target layers carry the adapters of the pack that is active, or none.

    Attributes:
        base: The base model.
        sites: Its layers with adapters.
        lora: Gives PEFT's description of an adapter on these layers, for settings.
        pack: The active pack.
        at: Where a training forward pass stands, for dropout.
    """

    base: Base
    sites: tuple[Site, ...]
    lora: Callable[[config.Training], LoraConfig] = field(repr=False)
    pack: Pack | None = None
    at: Place | None = field(default=None, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of adapters and their optimisers' state: fp32, whatever the base's precision below it."""
        return torch.float64 if self.base.model.dtype == torch.float64 else torch.float32

    @contextmanager
    def carrying(self, pack: Pack | None, at: Place | None = None) -> Iterator[PreTrainedModel]:
        """Lend the model with a pack's adapters in all target layers.

        Args:
            pack: The pack; None lends the base as it is.
            at: Where a training forward pass stands.
        """
        before = self.pack, self.at
        self.pack, self.at = pack, at
        try:
            yield self.base.model
        finally:
            self.pack, self.at = before

    def new(self, settings: Sequence[config.Training], train: bool = True) -> Pack:
        """Return a pack of adapters that are all zero.

        Args:
            settings: The trials' settings.
            train: Whether they are to be trained.
        """
        ranks, alphas, dropouts = zip(*((s.lora_r, s.lora_alpha, s.lora_dropout) for s in settings), strict=True)
        return Pack(self.sites, ranks, alphas, dropouts, self.base.device, self.dtype, train)

    def loaded(self, adapters: Sequence[tuple[config.Training, Weights]]) -> Pack:
        """Return a pack of trained adapters, to be scored."""
        pack = self.new([settings for settings, _ in adapters], train=False)
        for row, (_, weights) in enumerate(adapters):
            pack.put(row, weights)
        return pack

    def read(self, folder: Path) -> Weights:
        """Return an adapter of these layers that `save` wrote."""
        matrices = adapters.read(folder)
        return {site.name: (a.T, b.T) for site in self.sites for a, b in [matrices[site.name]]}

    def save(self, settings: config.Training, weights: Weights, folder: Path) -> None:
        """Write a trial's adapter in PEFT's format.

        Args:
            settings: The trial's settings.
            weights: A (d_in, r) and B (r, d_out) by layer.
            folder: Where to; what is there is replaced.
        """
        matrices = {name: (a.T, b.T) for name, (a, b) in weights.items()}
        adapters.write(folder, self.lora(settings), matrices, self.base.model.name_or_path)


@contextmanager
def carrier(base: Base, targets: str) -> Iterator[Carrier]:
    """Lend the base with its target layers ready to carry packs; every layer stands where it stood afterwards.

    Args:
        base: The base model.
        targets: The setting: a kind of layers, or names.
    """
    sites = find_sites(base, targets)
    ready = Carrier(base, sites, lora_config(base, targets))
    with base.lent() as model:
        for number, site in enumerate(sites):
            parent, _, child = site.name.rpartition(".")
            owner = model.get_submodule(parent)
            owner._modules[child] = PackedLinear(cast(nn.Module, owner._modules[child]), number, ready)
        yield ready
