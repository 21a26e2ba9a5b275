"""Step AdamW or SGD for all trials of a pack at once (a pack is trials trained together on one base model).

Every setting that may differ between trials is a vector over the trials.

    g_k <- g_k min(1, c_k / (||g_k|| + 1e-6))       clipped by the trial's own norm, as by torch's clip_grad_norm_
    p_k <- p_k - eta_k lambda_k p_k                 decoupled decay (Loshchilov and Hutter 2019, algorithm 2)
    m_k <- beta1 m_k + (1 - beta1) g_k,  v_k <- beta2 v_k + (1 - beta2) g_k^2
    p_k <- p_k - eta_k (m_k / (1 - beta1^t_k)) / (sqrt(v_k / (1 - beta2^t_k)) + eps)
    SGD: m_k <- mu_k m_k + g_k,  p_k <- p_k - eta_k m_k

Rows that must not change are selected by `where` and not multiplied by 0, because 0 times NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partune import config
from partune.finetune.packed.adapters import Pack, Weights
from partune.finetune.training import BETAS, EPSILON


class PackedOptimizer:
    """The state of the optimisers of K trials.

    Args:
        pack: The adapters to train.
        settings: (K,), the trials' settings.

    Attributes:
        first: (K, P), the first moments (AdamW) or velocities (SGD).
        second: (K, P), the second moments.
        steps: (K,), the number of steps that each trial has taken.
    """

    def __init__(self, pack: Pack, settings: Sequence[config.Training]) -> None:
        assert pack.gradients is not None
        self.pack = pack
        self.gradients = pack.gradients
        self.first = torch.zeros_like(pack.values)  # m, (K, P)
        self.second = torch.zeros_like(pack.values)  # v, (K, P)
        self.steps = [0] * len(pack)
        self.decays = [s.weight_decay for s in settings]
        self.norms = self._column([s.max_grad_norm for s in settings])
        self.sgd = [s.optimizer == "sgd" for s in settings]
        beta1, self.beta2 = BETAS
        self.old = self._column([s.momentum if s.optimizer == "sgd" else beta1 for s in settings])
        self.new = self._column([1.0 if s.optimizer == "sgd" else 1 - beta1 for s in settings])

    def copy(self, other: PackedOptimizer, rows: Sequence[int]) -> None:
        """Copy rows of another optimiser's state into the first rows of this state.

        Args:
            other: The other optimiser.
            rows: The rows of the other optimiser, in the order that they get here.
        """
        for mine, theirs in (
            (self.first, other.first),
            (self.second, other.second),
            (self.gradients, other.gradients),
        ):
            self.pack.copy(mine, other.pack, theirs, rows)
        self.steps[: len(rows)] = [other.steps[row] for row in rows]

    def put(self, row: int, steps: int, first: Weights, second: Weights) -> None:
        """Write the state of one trial's optimiser.

        Args:
            row: The trial's row.
            steps: The number of steps that the trial has taken.
            first: The first moments of A (d_in, r) and B (r, d_out) by layer.
            second: The second moments of A (d_in, r) and B (r, d_out) by layer.
        """
        self.pack.put(row, first, self.first)
        self.pack.put(row, second, self.second)
        self.steps[row] = steps

    @torch.no_grad()
    def step(self, rates: Sequence[float | None], losses: Tensor) -> Tensor:
        """Step the trials that have a learning rate, and set their gradients to zero.

        If the loss or the gradient of a trial is not finite, its adapter and its optimiser's state become zero. Other
        trials are not affected.

        Args:
            rates: (K,), the learning rates; None for a trial whose batch is not complete yet.
            losses: (K,), the trials' losses.

        Returns:
            (K,), False for each stepped trial whose loss or gradient norm is not finite, and True for all others.
        """
        values, g = self.pack.values, self.gradients
        norms = torch.linalg.vector_norm(g, dim=1)
        finite = torch.isfinite(norms) & torch.isfinite(losses)
        due = [rate is not None for rate in rates]
        self.steps = [step + 1 if now else step for step, now in zip(self.steps, due, strict=True)]
        clipping = (self.norms / (norms.unsqueeze(1) + 1e-6)).clamp_(max=1.0)  # 1e-6 as in clip_grad_norm_
        rates_or_zero = [rate or 0.0 for rate in rates]
        if all(due) and bool(finite.all()):  # the usual case, which needs no copy of the state
            g *= clipping
            self._update(rates_or_zero, values, g, self.first, self.second)
            g.zero_()
            return finite
        moved = torch.tensor(due, device=values.device).unsqueeze(1)
        lost = moved & ~finite.unsqueeze(1)
        state = values, self.first, self.second
        before = [tensor.clone() for tensor in state]
        self._update(rates_or_zero, values, g * clipping, self.first, self.second)
        for now, then in zip(state, before, strict=True):
            now.copy_(torch.where(lost, 0.0, torch.where(moved, now, then)))
        g.copy_(torch.where(moved, 0.0, g))
        return ~lost.squeeze(1)

    def _update(self, rates: Sequence[float], values: Tensor, g: Tensor, first: Tensor, second: Tensor) -> None:
        decays = [rate * decay for rate, decay in zip(rates, self.decays, strict=True)]
        steps = [max(step, 1) for step in self.steps]  # at step 0 the bias correction would divide by 0
        values *= 1 - self._column(decays)
        first.mul_(self.old).add_(self.new * g)
        if not all(self.sgd):
            second.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        eta = self._column(rates)
        if all(self.sgd):
            values -= eta * first
            return
        beta1, beta2 = BETAS
        root = self._column([(1 - beta2**step) ** 0.5 for step in steps])
        eta_hat = self._column([rate / (1 - beta1**step) for rate, step in zip(rates, steps, strict=True)])
        change = first / second.sqrt().div_(root).add_(EPSILON)
        change *= eta_hat
        if any(self.sgd):
            change = torch.where(torch.tensor(self.sgd, device=g.device).unsqueeze(1), eta * first, change)
        values -= change

    def _column(self, numbers: Sequence[float]) -> Tensor:
        """Return numbers as a tensor (K, 1) in the pack's precision."""
        return torch.tensor(numbers, device=self.pack.values.device, dtype=self.pack.values.dtype).unsqueeze(1)
