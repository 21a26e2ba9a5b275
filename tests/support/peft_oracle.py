"""Oracles of packed training: plain PEFT with torch's AdamW, a trial alone, and dropout's masks by their definition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from partune import config
from partune.finetune import targets
from partune.finetune.data import IGNORED, Examples
from partune.finetune.model import Base
from partune.finetune.training import batches, count_steps, schedule
from partune.runtime.isolation import quiet

Weights = dict[str, torch.Tensor]
WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """splitmix64's finaliser, on Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def kept(seed: int, step: int, layer: int, row: int, position: int, feature: int, rate: float) -> bool:
    """Whether a feature is kept, by the definition in `partune.finetune.dropout`, arithmetic shifts spelt out."""
    key = mix((seed + GOLDEN) & WORD)
    for word in (step, layer):
        key = mix((key + (word + 1) * GOLDEN) & WORD)
    z = (mix((mix((row << 32) + position) + key) & WORD) + mix((feature // 2 + 1) * GOLDEN & WORD)) & WORD
    for _ in range(2):
        high = z >> 32
        extended = high | (0xFFFFFFFF << 32 if high >> 31 else 0)
        z = ((z ^ extended) * 0x94D049BB133111EB) & WORD
    lane = (z >> 32) if feature % 2 else z & 0xFFFFFFFF
    # lanes are compared as signed numbers: 0x80000000 is the least
    return (lane ^ 0x80000000) >= round(rate * 2**32)


class Masked(nn.Module):
    """Dropout whose masks come from `kept`, element by element."""

    def __init__(self, rate: float, seed: int, layer: int, at: At) -> None:
        super().__init__()
        self.rate, self.seed, self.layer, self.at = rate, seed, layer, at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        mask = [
            [[kept(self.seed, self.at.step, self.layer, i, j, f, self.rate) for f in range(d)] for j in range(t)]
            for i in range(b)
        ]
        return x * torch.tensor(mask, dtype=x.dtype) / (1 - self.rate)


@dataclass
class At:
    step: int = 0


@dataclass
class Plain:
    """What a plain loop left: the adapters' weights, losses by step, and gradients of the last step before clipping."""

    weights: Weights
    losses: list[float]
    gradients: Weights = field(default_factory=dict)


def adapters(model: nn.Module) -> Weights:
    """Copies of the LoRA matrices, by layer."""
    return {
        name.removeprefix("base_model.model."): parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }


@contextmanager
def plain_peft(base: Base, chosen: config.Training, seed: int) -> Iterator[nn.Module]:
    """The base with a new PEFT adapter, drawn from torch's generator with the seed; only its dropout is in training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lora = LoraConfig(
            r=chosen.lora_r,
            lora_alpha=int(chosen.lora_alpha),
            lora_dropout=chosen.lora_dropout,
            target_modules=targets.find_targets(base.model, chosen.targets),
            task_type="CAUSAL_LM",
        )
        with quiet():
            model = get_peft_model(base.model, lora)
        model.eval()
        for name, module in model.named_modules():
            if "lora_dropout" in name:
                module.train()
        try:
            yield model
        finally:
            model.unload()
            if hasattr(base.model, "peft_config"):
                del base.model.peft_config
            base.model.eval()


def plain_loop(
    base: Base, examples: Examples, chosen: config.Training, seed: int, order: int, counted: bool = False
) -> Plain:
    """The same training in the plainest way: PEFT, `torch.optim.AdamW`, whole batches, the mean cross-entropy.

    counted: with the masks of `kept` in place of `nn.Dropout`'s.
    """
    at = At()
    with plain_peft(base, chosen, seed) as model:
        if counted and chosen.lora_dropout:
            layers = [module for module in model.modules() if hasattr(module, "lora_dropout")]
            for number, layer in enumerate(layers):
                layer.lora_dropout["default"] = Masked(chosen.lora_dropout, seed, number, at)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser: Any = torch.optim.AdamW(
            parameters, lr=chosen.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=chosen.weight_decay
        )
        if chosen.optimizer == "sgd":
            optimiser = torch.optim.SGD(parameters, lr=chosen.learning_rate, momentum=chosen.momentum)
        steps, warmup = count_steps(len(examples), chosen), chosen.warmup_steps or 0
        losses: list[float] = []
        gradients: Weights = {}
        for step, indices in enumerate(batches(len(examples), chosen.batch_size, steps, order)):
            at.step = step
            for group in optimiser.param_groups:
                group["lr"] = chosen.learning_rate * schedule(step, steps, warmup, chosen.schedule)
            ids, attention, labels = (torch.from_numpy(array) for array in examples.batch(indices))
            logits = model(input_ids=ids, attention_mask=attention).logits  # the model's own loss would be in fp32
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
            optimiser.zero_grad()
            loss.backward()
            gradients = {
                name.removeprefix("base_model.model."): parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
            torch.nn.utils.clip_grad_norm_(parameters, chosen.max_grad_norm)
            optimiser.step()
            losses.append(loss.item())
        return Plain(adapters(model), losses, gradients)


def as_peft(weights: Any) -> Weights:
    """A pack's matrices by the names that PEFT's have."""
    named = {}
    for name, (a, b) in weights.items():
        named[f"{name}.lora_A.default.weight"], named[f"{name}.lora_B.default.weight"] = a.T, b.T
    return named


def largest(found: Weights, expected: Weights) -> float:
    """The largest difference of two sets of weights of the same names and shapes."""
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in found)
    return max(float((found[name] - expected[name]).abs().max()) for name in found)


def losses_differ(found: Any, expected: Any) -> float:
    assert len(found) == len(expected)
    return float(np.abs(np.array(found) - np.array(expected)).max())
