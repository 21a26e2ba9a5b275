"""Compute the LoRA adapters of a pack (K trials on one frozen base model) as batched products.

    rows of a forward pass   (K b, T): b sequences of each trial, one trial after another; the base runs once over all
    A, B of a layer          (K, d_in, R), (K, R, d_out); y_k = W x_k + (alpha_k / r_k) B_k A_k drop_k(x_k)
    R                        the pack's rank: a trial of rank r has zeros in A's columns and B's rows from r on

If a column of A and its row of B are both zero, their gradients are exactly zero (dA = x' dy B', dB = A' x' dy), and so
is AdamW's step. So padding stays zero without a mask. The forward pass does not loop over trials, and adapters are
never merged into the base model.

All weights of a pack are in one buffer of shape (K, P), whose row k is the adapter of trial k. A and B of a layer are
views of this buffer. Optimiser steps, gradient norms, and trials that join or leave are operations on its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
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

MULTIPLE = 4  # a pack's rank is a multiple of this, because matrix products are fastest on aligned sizes

Weights = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Site:
    """A linear layer that gets adapters.

    Attributes:
        name: The layer's full name.
        d_in: The number of input features.
        d_out: The number of output features.
    """

    name: str
    d_in: int
    d_out: int


def find_sites(base: Base, targets: str) -> tuple[Site, ...]:
    """Return the layers that get adapters, in the model's order.

    Args:
        base: The base model.
        targets: A value of the setting `targets`.

    Raises:
        UserError: A layer belongs to an expert of a mixture, which a pack cannot adapt.
    """
    linear = linear_layers(base.model)
    names = find_targets(base.model, targets)
    expert = next((name for name in names if ".experts." in f".{name}."), None)
    if expert is not None or (targets == "all-linear" and has_expert_tensors(base.model)):
        raise UserError(
            f"targets: {expert or targets} means the experts of a mixture, which the packed engine cannot adapt: "
            "name other layers, such as attention"
        )
    return tuple(Site(name, *features(linear[name])) for name in names)


def features(layer: nn.Module) -> tuple[int, int]:
    """Return the number of input and output features of an `nn.Linear` or of transformers' Conv1D."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return cast(Any, layer).nx, cast(Any, layer).nf


def initial(sites: Sequence[Site], r: int, seed: int) -> Weights:
    """Return a trial's adapter before training, in fp32: A (d_in, r) and a zero B (r, d_out) by layer.

    A is the same as PEFT's for the same seed. For each layer, PEFT first draws A and B as new `nn.Linear` modules, and
    then draws A again. Only the last draw is kept.

    Args:
        sites: The layers with adapters, in the model's order.
        r: The trial's rank.
        seed: The seed of initialisation.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)

    weights = {}
    for site in sites:
        draw(r, site.d_in)
        draw(site.d_out, r)
        weights[site.name] = draw(r, site.d_in).T.contiguous(), torch.zeros(r, site.d_out)
    return weights


class Pack:
    """The adapters of K trials.

    Args:
        sites: The layers with adapters.
        ranks: (K,), the trials' ranks.
        alphas: (K,), the trials' alphas.
        dropouts: (K,), the trials' dropout probabilities.
        device: The device of all tensors.
        dtype: The precision of the adapters.
        train: Whether the adapters will be trained. If not, there are no gradients and no dropout.

    Attributes:
        values: (K, P), all weights; row k is the adapter of trial k.
        rank: R, the largest rank rounded up to a multiple of `MULTIPLE`.
        A: The views of `values` for each layer's A, (K, d_in, R).
        B: The views of `values` for each layer's B, (K, R, d_out).
        gradients: (K, P), the gradients of `values`; None for a pack that is only scored.
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
        self.scales = torch.tensor(scales, device=device, dtype=dtype).view(-1, 1, 1)  # (alpha / r) / (1 - p)
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
        """The tensors that get gradients: A of all layers, then B of all layers."""
        return self.A + self.B

    def accumulate(self, losses: Tensor) -> None:
        """Add the gradient of each trial's loss to the trial's row of `gradients`, by one backward pass over the sum.

        This works because the loss of a trial depends on no adapter but its own.
        """
        assert self.gradients is not None
        A, B = self.views(self.gradients)
        # A layer that the forward pass did not use has no gradient. Zeros keep the lists aligned.
        gradients = torch.autograd.grad(losses.sum(), self.leaves, materialize_grads=True)
        torch._foreach_add_(A + B, list(gradients))

    def views(self, buffer: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the A (K, d_in, R) and B (K, R, d_out) of all layers as views of a buffer like `values`."""
        parts = torch.split(buffer, self._sizes, 1)
        R = self.rank
        return (
            [part.view(-1, site.d_in, R) for part, site in zip(parts[::2], self.sites, strict=True)],
            [part.view(-1, R, site.d_out) for part, site in zip(parts[1::2], self.sites, strict=True)],
        )

    def copy(self, buffer: Tensor, other: Pack, source: Tensor, rows: Sequence[int]) -> None:
        """Copy rows of another pack's buffer into the first rows of a buffer of this pack; the ranks may differ.

        Args:
            buffer: (K, P), a buffer of this pack.
            other: The other pack.
            source: (K', P'), a buffer of the other pack.
            rows: The rows of `source` to copy, in the order that they get in `buffer`.
        """
        n, r = len(rows), min(self.rank, other.rank)
        with torch.no_grad():
            for mine, theirs in zip(self.views(buffer)[0], other.views(source)[0], strict=True):
                mine[:n, :, :r] = theirs[list(rows), :, :r]
            for mine, theirs in zip(self.views(buffer)[1], other.views(source)[1], strict=True):
                mine[:n, :r] = theirs[list(rows), :r]

    def only(self, trials: Sequence[int]) -> Pack:
        """Return a pack of some of the trials, for scoring; its rank may be smaller.

        Args:
            trials: The rows of the trials.
        """
        ranks, alphas, dropouts = ([each[t] for t in trials] for each in (self.ranks, self.alphas, self.dropouts))
        device, dtype = self.values.device, self.values.dtype
        pack = Pack(self.sites, [int(r) for r in ranks], alphas, dropouts, device, dtype, train=False)
        pack.copy(pack.values, self, self.values, trials)
        return pack

    def put(self, row: int, weights: Weights, buffer: Tensor | None = None) -> None:
        """Write a trial's adapter, or another quantity of the same shape, into the trial's row of a buffer.

        Args:
            row: The trial's row.
            weights: A (d_in, r) and B (r, d_out) by layer.
            buffer: (K, P), a buffer such as an optimiser's state; None for the adapters.
        """
        r, buffer = self.ranks[row], self.values if buffer is None else buffer
        with torch.no_grad():
            buffer[row] = 0  # padding must be zero, because its gradient is zero only then
            for site, A, B in zip(self.sites, *self.views(buffer), strict=True):
                a, b = weights[site.name]
                A[row, :, :r] = a.to(buffer)
                B[row, :r] = b.to(buffer)

    def take(self, row: int, buffer: Tensor | None = None) -> Weights:
        """Return a copy of a trial's adapter, or of the trial's row of another buffer, without padding.

        Args:
            row: The trial's row.
            buffer: (K, P), a buffer such as an optimiser's state; None for the adapters.
        """
        r = self.ranks[row]
        return {
            site.name: (a[row, :, :r].detach().clone(), b[row, :r].detach().clone())
            for site, a, b in zip(self.sites, *self.views(self.values if buffer is None else buffer), strict=True)
        }


def padded(r: int) -> int:
    """Return the rank of a pack whose trials have at most rank r: r rounded up to a multiple of `MULTIPLE`."""
    return -(-r // MULTIPLE) * MULTIPLE


@dataclass(frozen=True)
class Ragged:
    """Which rows of a forward pass belong to which trial, if they are not b rows of one trial after another.

    For the adapters' products, the rows are copied into a rectangle (K, c), where c is the largest number of rows of a
    trial. The base model and the rest of the pass compute only the rows themselves.

    Attributes:
        filled: (K c,), the row at each place of the rectangle. At an unused place, it is any row.
        places: (R,), the place of each row.
    """

    filled: Tensor
    places: Tensor

    @classmethod
    def of(cls, trials: npt.NDArray[np.int64], count: int, device: torch.device) -> Ragged:
        """Return the places of rows in any order.

        Args:
            trials: (R,), the trial of each row.
            count: The number of trials, K.
            device: The device of the tensors.
        """
        rows = np.bincount(trials, minlength=count)
        order = np.argsort(trials, kind="stable")
        first = np.repeat(np.cumsum(rows) - rows, rows)  # (R,), where in the order the rows of the same trial begin
        places = np.empty(len(trials), np.int64)
        places[order] = trials[order] * rows.max() + np.arange(len(trials)) - first
        filled = np.zeros(count * int(rows.max()), np.int64)
        filled[places] = np.arange(len(trials))
        return cls(torch.from_numpy(filled).to(device), torch.from_numpy(places).to(device))


class PackedLinear(nn.Module):
    """A frozen linear layer with the adapters of the active pack.

    Args:
        base_layer: The frozen layer.
        number: The layer's number among those with adapters.
        carrier: The carrier, which holds the active pack.
    """

    def __init__(self, base_layer: nn.Module, number: int, carrier: Carrier) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.number = number
        self.carrier = carrier

    @property
    def weight(self) -> Tensor:
        """The frozen weight. Models read it from their layers to find a dtype or to tie weights."""
        return cast(Tensor, self.base_layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return cast("Tensor | None", self.base_layer.bias)

    # The active pack changes between calls. Each change would make torch.compile compile the block again.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """Return the output (R, T, d_out) for x (R, T, d_in): each row uses the adapter of its trial.

        There are b rows of one trial after another, R = K b, unless the carrier says otherwise.
        """
        out: Tensor = self.base_layer(x)
        pack = self.carrier.pack
        if pack is None:
            return out
        # Products are in the base model's precision, as in PEFT under autocast. They are on the layer's device, which
        # differs from the adapters' device if the base model is spread over several GPUs.
        A, B = pack.A[self.number].to(out), pack.B[self.number].to(out)
        ragged = self.carrier.ragged
        x = x if ragged is None else x[ragged.filled.to(x.device)]  # (K c, T, d_in)
        rows = x.reshape(len(pack), -1, x.shape[-1]).to(out.device)  # (K, N, d_in), N = b T, or c T if ragged
        if pack.drops:
            assert self.carrier.at is not None
            rows = rows * keep(self.carrier.at, self.number, pack.least.to(out.device), rows.shape[-1])
        down, scales = torch.bmm(rows, A), pack.scales.to(out.device)  # (K, N, d_in) @ (K, d_in, R)
        if pack.gradients is None and down.shape[1] > B.shape[2]:
            B = (B * scales).to(out.dtype)  # scale B, because it is smaller than the other factor
        else:
            down = (down * scales).to(out.dtype)
        if ragged is not None:
            return out + torch.bmm(down, B).view(-1, *out.shape[1:])[ragged.places.to(out.device)]
        return torch.baddbmm(out.view(len(pack), -1, out.shape[-1]), down, B).view(out.shape)


@dataclass
class Carrier:
    """A base model whose target layers apply the adapters of the active pack, if there is one.

    Attributes:
        base: The base model.
        sites: The layers with adapters.
        lora: Takes training settings, and returns PEFT's description of an adapter on these layers.
        pack: The active pack.
        at: The steps and rows of the current forward pass in training, on which dropout masks depend.
        ragged: The rows of each trial in the current forward pass; None if it has b rows of one trial after another.
    """

    base: Base
    sites: tuple[Site, ...]
    lora: Callable[[config.Training], LoraConfig] = field(repr=False)
    pack: Pack | None = None
    at: Place | None = field(default=None, repr=False)
    ragged: Ragged | None = field(default=None, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of adapters and optimiser states: fp32, or fp64 if the base model is in fp64."""
        return torch.float64 if self.base.model.dtype == torch.float64 else torch.float32

    @contextmanager
    def carrying(
        self, pack: Pack | None, at: Place | None = None, ragged: Ragged | None = None
    ) -> Iterator[PreTrainedModel]:
        """Yield the model with the adapters of a pack in all target layers.

        Args:
            pack: The pack; None yields the base model without adapters.
            at: The steps and rows of a forward pass in training.
            ragged: The rows of each trial, without training; None if there are b rows of one trial after another.
        """
        before = self.pack, self.at, self.ragged
        self.pack, self.at, self.ragged = pack, at, ragged
        try:
            yield self.base.model
        finally:
            self.pack, self.at, self.ragged = before

    def new(self, settings: Sequence[config.Training], train: bool = True) -> Pack:
        """Return a pack of adapters whose weights are all zero.

        Args:
            settings: The trials' settings.
            train: Whether the adapters will be trained.
        """
        ranks, alphas, dropouts = zip(*((s.lora_r, s.lora_alpha, s.lora_dropout) for s in settings), strict=True)
        return Pack(self.sites, ranks, alphas, dropouts, self.base.device, self.dtype, train)

    def loaded(self, adapters: Sequence[tuple[config.Training, Weights]]) -> Pack:
        """Return a pack of trained adapters for scoring."""
        pack = self.new([settings for settings, _ in adapters], train=False)
        for row, (_, weights) in enumerate(adapters):
            pack.put(row, weights)
        return pack

    def read(self, folder: Path) -> Weights:
        """Return the weights of an adapter that `save` wrote for these layers."""
        matrices = adapters.read(folder)
        return {site.name: (a.T, b.T) for site in self.sites for a, b in [matrices[site.name]]}

    def save(self, settings: config.Training, weights: Weights, folder: Path) -> None:
        """Write a trial's adapter in PEFT's format.

        Args:
            settings: The trial's settings.
            weights: A (d_in, r) and B (r, d_out) by layer.
            folder: The folder to write to, which is replaced if it exists.
        """
        matrices = {name: (a.T, b.T) for name, (a, b) in weights.items()}
        adapters.write(folder, self.lora(settings), matrices, self.base.model.name_or_path)


@contextmanager
def carrier(base: Base, targets: str) -> Iterator[Carrier]:
    """Yield the base model with target layers that can apply packs, and put the original layers back afterwards.

    Args:
        base: The base model.
        targets: A value of the setting `targets`.
    """
    sites = find_sites(base, targets)
    ready = Carrier(base, sites, lora_config(base, targets))
    with base.lent() as model:
        for number, site in enumerate(sites):
            parent, _, child = site.name.rpartition(".")
            owner = model.get_submodule(parent)
            owner._modules[child] = PackedLinear(cast(nn.Module, owner._modules[child]), number, ready)
        yield ready
