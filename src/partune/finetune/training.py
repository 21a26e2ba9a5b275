"""One trial's training: a LoRA adapter on the resident base, AdamW or SGD on the adapter alone. The reference engine.

The semantics, which any faster engine has to reproduce:

- an optimiser step takes `batch_size` examples; its loss is the mean cross-entropy over the batch's trained tokens,
  whatever micro-batches it is summed from;
- the data's order follows from the study's seed, the same for all trials; initialisation and dropout's masks from the
  trial's;
- the base is frozen and stays in evaluation mode: LoRA's dropout is the only one;
- decay is decoupled (p <- p - lr * decay * p), for adapters only; gradients are clipped by the adapters' global norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from partune import config
from partune.finetune.data import IGNORED, Examples
from partune.finetune.failures import TrialError
from partune.finetune.layers import linear_layers
from partune.finetune.model import Base
from partune.finetune.targets import find_targets, short_targets
from partune.runtime.isolation import own_generators, quiet

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from torch import nn

WARMUP_SHARE = 0.03
BETAS, EPSILON = (0.9, 0.999), 1e-8


class DivergedError(TrialError):
    """A loss or its gradient that is not finite any more.

    Args:
        step: The optimiser step at which it was seen, from 1.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"loss diverged at step {step}")


@dataclass(frozen=True)
class Trained:
    """A base that carries a trained adapter, for as long as the context lasts.

    Attributes:
        model: The base with the adapter.
        steps: Optimiser steps taken.
        tokens: Tokens read in training, padding aside.
        losses: (steps,), mean per trained token.
    """

    model: PeftModel
    steps: int
    tokens: int
    losses: npt.NDArray[np.float64]


@contextmanager
def trained(base: Base, examples: Examples, settings: config.Training, seed: int, order_seed: int) -> Iterator[Trained]:
    """Train an adapter and lend the base with it; the base is untouched afterwards.

    Args:
        base: The base model.
        examples: What it trains on.
        settings: How it trains.
        seed: Seed of initialisation and dropout.
        order_seed: Seed of the data's order.

    Raises:
        DivergedError: A loss is not finite.
        UserError: The model has no such targets.
    """
    # PEFT draws A from torch's global generator, which has to start from the trial's seed and be left as it was.
    with base.lent(), own_generators(base.device, seed):
        model = attach(base, settings)
        steps, tokens, losses = run(base, examples, settings, seed, order_seed)
        base.model.eval()
        yield Trained(model, steps, tokens, losses)


def attach(base: Base, settings: config.Training) -> PeftModel:
    """Put a new LoRA adapter on the target layers, in training mode: B is zero, A from torch's global generator.

    Adapters are kept in fp32 whatever the base's precision. Dropout takes its masks from the trial's seed (`Dropout`),
    so that a trial is the same in either engine.

    Args:
        base: The base model.
        settings: Targets, rank, scale and dropout.
    """
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    from partune.finetune.dropout import Dropout

    lora = lora_config(base, settings.targets)(settings)
    with quiet():
        model = get_peft_model(base.model, lora)
    adapted = [module for module in base.model.modules() if isinstance(module, LoraLayer)]
    for number, layer in enumerate(adapted):
        layer.train()  # the adapter alone: the base under it stays in evaluation mode
        layer.lora_dropout["default"] = Dropout(settings.lora_dropout, number)
    return model


def lora_config(base: Base, targets: str) -> Callable[[config.Training], LoraConfig]:
    """Return what gives PEFT's description of an adapter on the target layers for settings.

    Args:
        base: The base model.
        targets: The setting: a kind of layers, or names.

    Raises:
        UserError: The model has no such targets.
    """
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    names = find_targets(base.model, targets)
    linear = linear_layers(base.model)
    modules = short_targets(base.model, names)
    transposed = all(isinstance(linear[name], Conv1D) for name in names)

    def described(settings: config.Training) -> LoraConfig:
        """Return PEFT's description of an adapter with these settings."""
        alpha = settings.lora_alpha
        return LoraConfig(
            r=settings.lora_r,
            lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # PEFT divides by r, whatever the type
            lora_dropout=settings.lora_dropout,
            target_modules=modules,
            fan_in_fan_out=transposed,
            bias="none",
            task_type="CAUSAL_LM",
        )

    return described


def run(
    base: Base, examples: Examples, settings: config.Training, seed: int, order_seed: int
) -> tuple[int, int, npt.NDArray[np.float64]]:
    """Train the adapters that the base carries.

    Args:
        base: The base with an adapter in training mode.
        examples: What it trains on.
        settings: How it trains.
        seed: Seed of dropout.
        order_seed: Seed of the data's order.

    Returns:
        Steps, tokens and losses as `Trained` has them.

    Raises:
        DivergedError: A loss is not finite.
    """
    import torch

    from partune.finetune.dropout import Dropout, Place

    parameters = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    optimiser = make_optimizer(parameters, settings)
    steps = count_steps(len(examples), settings)
    warmup = count_warmup(steps, settings)
    tokens, losses = 0, list[float]()
    dropouts = [module for module in base.model.modules() if isinstance(module, Dropout)]

    def stand(row: int, shape: tuple[int, int]) -> None:
        """Tell all dropouts where the next forward pass stands."""
        place = Place((seed,), (len(losses),), (row,), shape)
        for dropout in dropouts:
            dropout.place = place

    for step, indices in enumerate(batches(len(examples), settings.batch_size, steps, order_seed)):
        rate = settings.learning_rate * schedule(step, steps, warmup, settings.schedule)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = accumulate(base, examples, indices, settings.micro_batch_size, stand)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        # Before the step: a weight that is not finite would never be finite again.
        losses.append(float(loss))
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            raise DivergedError(step + 1)
        decay(parameters, rate * settings.weight_decay)
        optimiser.step()
        optimiser.zero_grad()
        tokens += int(examples.lengths[indices].sum())
    return steps, tokens, np.array(losses)


def accumulate(
    base: Base,
    examples: Examples,
    indices: npt.NDArray[np.int64],
    micro_batch_size: int | None,
    stand: Callable[[int, tuple[int, int]], None] = lambda row, shape: None,
) -> torch.Tensor:
    """Add the gradient of a batch's loss to the adapters' `.grad`, micro-batch by micro-batch; return the loss.

    Args:
        base: The base with an adapter.
        examples: All examples.
        indices: (n,), those of the batch.
        micro_batch_size: Examples per forward pass; None takes all at once.
        stand: Told before each micro-batch at which row of the batch it begins, and its shape (b, T).
    """
    import torch
    from torch.nn import functional

    size = micro_batch_size or len(indices)
    parts = [examples.batch(indices[i : i + size]) for i in range(0, len(indices), size)]
    trained_tokens = sum(int((labels != IGNORED).sum()) for _, _, labels in parts)
    total = torch.zeros((), device=base.device)
    for number, part in enumerate(parts):
        b, longest = part[0].shape
        stand(number * size, (b, longest))
        ids, attention, labels = (torch.from_numpy(array).to(base.device) for array in part)  # (b, T)
        logits = base.model(input_ids=ids, attention_mask=attention, use_cache=False).logits  # (b, T, V)
        predicted, target = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()  # (b (T - 1), V), (b (T - 1),)
        where = target != IGNORED
        predicted = predicted[where]
        # A sum of exponentials in half precision would lose the small differences that training lives on.
        if predicted.dtype in (torch.float16, torch.bfloat16):
            predicted = predicted.float()
        loss = functional.cross_entropy(predicted, target[where], reduction="sum") / trained_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def make_optimizer(parameters: list[nn.Parameter], settings: config.Training) -> torch.optim.Optimizer:
    """Return AdamW or SGD without their own decay, which `decay` does for both (SGD's would be coupled).

    Args:
        parameters: The adapters' parameters.
        settings: Which optimiser, and its momentum.
    """
    import torch

    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, betas=BETAS, eps=EPSILON, weight_decay=0.0)
    return torch.optim.SGD(parameters, momentum=settings.momentum)


def decay(parameters: list[nn.Parameter], share: float) -> None:
    """Decay weights, decoupled from the gradient: p <- p - share * p.

    Args:
        parameters: The adapters' parameters.
        share: Learning rate times weight decay.
    """
    for parameter in parameters:
        parameter.data.mul_(1 - share)


def count_steps(examples: int, settings: config.Training) -> int:
    """Return the optimiser steps: as given, or those of the epochs; an epoch's last batch may be a small one.

    Args:
        examples: Number of examples.
        settings: How it trains.
    """
    if settings.steps is not None:
        return settings.steps
    # The small number takes off what rounding adds: 0.07 epochs of 100 batches are 7.000000000000001.
    return max(1, math.ceil(settings.epochs * math.ceil(examples / settings.batch_size) - 1e-9))


def count_warmup(steps: int, settings: config.Training) -> int:
    """Return the steps of warm-up: as given, or a share of all.

    Args:
        steps: All optimiser steps.
        settings: How it trains.
    """
    return settings.warmup_steps if settings.warmup_steps is not None else round(WARMUP_SHARE * steps)


def batches(examples: int, batch_size: int, steps: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield indices of the examples of each step; every epoch is a permutation that (seed, epoch) alone decide.

    Args:
        examples: Number of examples.
        batch_size: Examples per step.
        steps: Steps in all.
        seed: Seed of the data's order.
    """
    step = epoch = 0
    while True:  # epochs without end: a trial may have more steps than its epochs, or fewer
        order = np.random.default_rng([seed, epoch]).permutation(examples)
        for start in range(0, examples, batch_size):
            if step == steps:
                return
            yield order[start : start + batch_size]
            step += 1
        epoch += 1


def schedule(step: int, steps: int, warmup: int, kind: Literal["constant", "linear", "cosine"]) -> float:
    """Return the learning rate at step 0, 1, ..., steps - 1, as a share of its peak.

    Warm-up: (step + 1) / warmup, so that no step is lost at rate 0. Then with x = (step - warmup) / (steps - warmup):
    1 (constant), 1 - x (linear), (1 + cos(pi x)) / 2 (cosine).

    Args:
        step: The step, from 0.
        steps: Steps in all.
        warmup: Steps of warm-up.
        kind: How it falls after warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    x = (step - warmup) / (steps - warmup)
    return {"constant": 1.0, "linear": 1.0 - x, "cosine": 0.5 * (1.0 + math.cos(math.pi * x))}[kind]
