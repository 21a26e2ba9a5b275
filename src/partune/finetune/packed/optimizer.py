"""AdamW and SGD for all trials of a pack at once: every number that may differ between trials is a vector over them.

    g_k <- g_k min(1, c_k / (||g_k|| + 1e-6))       clipped by the trial's own norm, as torch's clip_grad_norm_
    p_k <- p_k - eta_k lambda_k p_k                 decoupled decay (Loshchilov and Hutter 2019, algorithm 2)
    m_k <- beta1 m_k + (1 - beta1) g_k,  v_k <- beta2 v_k + (1 - beta2) g_k^2
    p_k <- p_k - eta_k (m_k / (1 - beta1^t_k)) / (sqrt(v_k / (1 - beta2^t_k)) + eps)
    SGD: m_k <- mu_k m_k + g_k,  p_k <- p_k - eta_k m_k

A row is left as it is by `where`, never by a product: 0 times NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partune import config
from partune.finetune.packed.adapters import Pack, Weights
from partune.finetune.training import BETAS, EPSILON


class PackedOptimizer:
    """The state of K trials' optimisers.

    Args:
        pack: The adapters that they train.
        settings: The trials' settings, (K,).

    Attributes:
        first: (K, P), first moments (AdamW) or velocities (SGD).
        second: (K, P), second moments.
        steps: (K,), steps that each trial has taken.
    """

    def __init__(self, pack: Pack, settings: Sequence[config.Training]) -> None:
        assert pack.gradients is not None
        self.pack = pack
        self.gradients = pack.gradients
        self.first = torch.zeros_like(pack.values)  # m, (K, P)
        self.second = torch.zeros_like(pack.values)  # v, (K, P)
        self.steps = [0] * len(pack)
        self.decays = [trial.weight_decay for trial in settings]
        self.norms = self._column([trial.max_grad_norm for trial in settings])
        self.sgd = [trial.optimizer == "sgd" for trial in settings]
        beta1, self.beta2 = BETAS
        self.old = self._column([s.momentum if s.optimizer == "sgd" else beta1 for s in settings])
        self.new = self._column([1.0 if s.optimizer == "sgd" else 1 - beta1 for s in settings])

    def copy(self, other: PackedOptimizer, rows: Sequence[int]) -> None:
        """Take over the state of another optimiser's rows, as this one's first.

        Args:
            other: The other optimiser.
            rows: Its rows, in the order that they get.
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
            steps: Steps that it has taken.
            first: First moments, A (d_in, r) and B (r, d_out) by layer.
            second: Second moments, the same way.
        """
        self.pack.put(row, first, self.first)
        self.pack.put(row, second, self.second)
        self.steps[row] = steps

    @torch.no_grad()
    def step(self, rates: Sequence[float | None], losses: Tensor) -> Tensor:
        """Step the trials that have a learning rate; their gradients are zero afterwards.

        A trial whose loss or gradient is not finite is set to zero, with its state; the others' numbers are the same as
        without it.

        Args:
            rates: (K,), learning rates; None for a trial whose batch is not complete yet.
            losses: (K,).

        Returns:
            (K,), whether a trial's loss and gradient norm are finite.
        """
        values, g = self.pack.values, self.gradients
        norms = torch.linalg.vector_norm(g, dim=1)
        finite = torch.isfinite(norms) & torch.isfinite(losses)
        due = [rate is not None for rate in rates]
        self.steps = [step + 1 if now else step for step, now in zip(self.steps, due, strict=True)]
        clipping = (self.norms / (norms.unsqueeze(1) + 1e-6)).clamp_(max=1.0)  # 1e-6 as clip_grad_norm_ has it
        chosen = [rate or 0.0 for rate in rates]
        if all(due) and bool(finite.all()):  # the usual case, without a copy of the state
            g *= clipping
            self._update(chosen, values, g, self.first, self.second)
            g.zero_()
            return finite
        moved = torch.tensor(due, device=values.device).unsqueeze(1)
        lost = moved & ~finite.unsqueeze(1)
        state = values, self.first, self.second
        before = [tensor.clone() for tensor in state]
        self._update(chosen, values, g * clipping, self.first, self.second)
        for now, then in zip(state, before, strict=True):
            now.copy_(torch.where(lost, 0.0, torch.where(moved, now, then)))
        g.copy_(torch.where(moved, 0.0, g))
        return ~lost.squeeze(1)

    def _update(self, rates: Sequence[float], values: Tensor, g: Tensor, first: Tensor, second: Tensor) -> None:
        decays = [rate * decay for rate, decay in zip(rates, self.decays, strict=True)]
        steps = [max(step, 1) for step in self.steps]  # no bias to correct at step 0, which would divide by 0
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
        """(K, 1), in the pack's precision."""
        return torch.tensor(numbers, device=self.pack.values.device, dtype=self.pack.values.dtype).unsqueeze(1)
