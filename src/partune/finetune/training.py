"""Train the LoRA adapter of one trial by AdamW or SGD, as the reference for all engines.

Any faster engine has to reproduce this:

- An optimiser step takes `batch_size` examples. Its loss is the mean cross-entropy over the batch's trained tokens. It
  does not depend on how the batch is split into micro-batches.
- The order of the data follows from the study's seed and is the same for all trials. Initialisation and dropout masks
  follow from the trial's seed.
- The base model is frozen and stays in evaluation mode, so LoRA's dropout is the only dropout.
- Weight decay is decoupled (p <- p - lr * decay * p) and applies to adapters only. Gradients are clipped by the
  adapter's global norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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
    """The loss or its gradient is not finite.

    Args:
        step: The optimiser step (from 1) at which this was found.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"loss diverged at step {step}")


@dataclass(frozen=True)
class Trained:
    """A base model with a trained adapter, valid until the context manager `trained` exits.

    Attributes:
        model: The base model with the adapter.
        steps: The number of optimiser steps.
        tokens: The number of tokens read in training, without padding.
        losses: (steps,), the mean loss per trained token.
    """

    model: PeftModel
    steps: int
    tokens: int
    losses: npt.NDArray[np.float64]


@contextmanager
def trained(
    base: Base,
    examples: Examples,
    settings: config.Training,
    seed: int,
    order_seed: int,
    after: Callable[[int], None] = lambda steps: None,
) -> Iterator[Trained]:
    """Train an adapter and yield the base model with it; remove the adapter afterwards.

    Args:
        base: The base model.
        examples: The training examples.
        settings: The training settings.
        seed: The seed of initialisation and dropout.
        order_seed: The seed of the data's order.
        after: Called after each optimiser step with the number of steps taken.

    Raises:
        DivergedError: The loss or its gradient is not finite.
        UserError: The model does not have the target layers.
    """
    # PEFT draws A from torch's global generator, which therefore starts from the trial's seed and is restored after.
    with base.lent(), own_generators(base.device, seed):
        model = attach(base, settings)
        steps, tokens, losses = run(base, examples, settings, seed, order_seed, after)
        base.model.eval()
        yield Trained(model, steps, tokens, losses)


def attach(base: Base, settings: config.Training) -> PeftModel:
    """Put a new LoRA adapter in training mode on the target layers, with B zero and A from torch's global generator.

    Adapters are in fp32 for any precision of the base model. Dropout masks follow from the trial's seed (`Dropout`), so
    that a trial is the same in the engines `peft` and `packed`.

    Args:
        base: The base model.
        settings: The settings. Only targets, rank, alpha and dropout are used.
    """
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    from partune.finetune.dropout import Dropout

    lora = lora_config(base, settings.targets)(settings)
    with quiet():
        model = get_peft_model(base.model, lora)
    adapted = [module for module in base.model.modules() if isinstance(module, LoraLayer)]
    for number, layer in enumerate(adapted):
        layer.train()  # only the adapted layers: the rest of the base model stays in evaluation mode
        layer.lora_dropout["default"] = Dropout(settings.lora_dropout, number)
    return model


def lora_config(base: Base, targets: str) -> Callable[[config.Training], LoraConfig]:
    """Return a function from training settings to PEFT's description of an adapter on the target layers.

    Args:
        base: The base model.
        targets: A value of the setting `targets`.

    Raises:
        UserError: The model does not have the target layers.
    """
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    names = find_targets(base.model, targets)
    linear = linear_layers(base.model)
    modules = short_targets(base.model, names)
    transposed = all(isinstance(linear[name], Conv1D) for name in names)

    def describe(settings: config.Training) -> LoraConfig:
        """Return PEFT's description of an adapter with these settings."""
        alpha = settings.lora_alpha
        return LoraConfig(
            r=settings.lora_r,
            lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # declared as an integer, but PEFT takes floats
            lora_dropout=settings.lora_dropout,
            target_modules=modules,
            fan_in_fan_out=transposed,
            bias="none",
            task_type="CAUSAL_LM",
        )

    return describe


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; put each of its modules back into its mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def put_back(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Set the parameters of an adapter.

    Args:
        model: The model with the adapter.
        state: What `copied` returned.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state:
                parameter.copy_(state[name])


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the parameters that are trained, by their names."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def run(
    base: Base,
    examples: Examples,
    settings: config.Training,
    seed: int,
    order_seed: int,
    after: Callable[[int], None] = lambda steps: None,
) -> tuple[int, int, npt.NDArray[np.float64]]:
    """Train the adapter that is attached to the base model.

    Args:
        base: The base model with an adapter in training mode.
        examples: The training examples.
        settings: The training settings.
        seed: The seed of dropout.
        order_seed: The seed of the data's order.
        after: Called after each optimiser step with the number of steps taken.

    Returns:
        The `steps`, `tokens` and `losses` of `Trained`.

    Raises:
        DivergedError: The loss or its gradient is not finite.
    """
    import torch

    from partune.finetune.dropout import Dropout, Place

    parameters = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    optimiser = make_optimizer(parameters, settings)
    steps = count_steps(len(examples), settings)
    warmup = count_warmup(steps, settings)
    tokens, losses = 0, list[float]()
    dropouts = [module for module in base.model.modules() if isinstance(module, Dropout)]

    def set_places(row: int, shape: tuple[int, int]) -> None:
        """Set the place of all dropout modules for the next forward pass."""
        place = Place((seed,), (len(losses),), (row,), shape)
        for dropout in dropouts:
            dropout.place = place

    for step, indices in enumerate(batches(len(examples), settings.batch_size, steps, order_seed)):
        rate = settings.learning_rate * schedule(step, steps, warmup, settings.schedule)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = accumulate(base, examples, indices, settings.micro_batch_size, set_places)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        # Checked before the step, because a weight that is not finite never becomes finite again.
        losses.append(float(loss))
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            raise DivergedError(step + 1)
        decay(parameters, rate * settings.weight_decay)
        optimiser.step()
        optimiser.zero_grad()
        tokens += int(examples.lengths[indices].sum())
        after(step + 1)
    return steps, tokens, np.array(losses)


def accumulate(
    base: Base,
    examples: Examples,
    indices: npt.NDArray[np.int64],
    micro_batch_size: int | None,
    before_pass: Callable[[int, tuple[int, int]], None] = lambda row, shape: None,
) -> torch.Tensor:
    """Add the gradient of a batch's loss to the adapter's `.grad`, micro-batch by micro-batch; return the loss.

    Args:
        base: The base model with an adapter.
        examples: All examples.
        indices: (n,), the indices of the batch's examples.
        micro_batch_size: The number of examples per forward pass; None passes all at once.
        before_pass: Called before each micro-batch with two arguments: the row of the batch at which the micro-batch
            begins, and the shape (b, T) of the micro-batch.
    """
    import torch
    from torch.nn import functional

    size = micro_batch_size or len(indices)
    parts = [examples.batch(indices[i : i + size]) for i in range(0, len(indices), size)]
    trained_tokens = sum(int((labels != IGNORED).sum()) for _, _, labels in parts)
    total = torch.zeros((), device=base.device)
    for number, part in enumerate(parts):
        b, longest = part[0].shape
        before_pass(number * size, (b, longest))
        ids, attention, labels = (torch.from_numpy(array).to(base.device) for array in part)  # (b, T)
        logits = base.model(input_ids=ids, attention_mask=attention, use_cache=False).logits  # (b, T, V)
        predicted, target = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()  # (b (T - 1), V), (b (T - 1),)
        where = target != IGNORED
        predicted = predicted[where]
        # A sum of exponentials in half precision would lose the small differences from which training learns.
        if predicted.dtype in (torch.float16, torch.bfloat16):
            predicted = predicted.float()
        loss = functional.cross_entropy(predicted, target[where], reduction="sum") / trained_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def make_optimizer(parameters: list[nn.Parameter], settings: config.Training) -> torch.optim.Optimizer:
    """Return AdamW or SGD without weight decay. `decay` applies it for both: the decay of torch's SGD is coupled.

    Args:
        parameters: The adapter's parameters.
        settings: The settings. Only the optimiser and its momentum are used.
    """
    import torch

    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, betas=BETAS, eps=EPSILON, weight_decay=0.0)
    return torch.optim.SGD(parameters, momentum=settings.momentum)


def decay(parameters: list[nn.Parameter], share: float) -> None:
    """Apply weight decay that is decoupled from the gradient: p <- p - share * p.

    Args:
        parameters: The adapter's parameters.
        share: The learning rate times the weight decay.
    """
    for parameter in parameters:
        parameter.data.mul_(1 - share)


def count_steps(examples: int, settings: config.Training) -> int:
    """Return the number of optimiser steps: `settings.steps`, or else the number of batches in the epochs.

    The last batch of an epoch may be smaller than the others.

    Args:
        examples: The number of examples.
        settings: The training settings.
    """
    if settings.steps is not None:
        return settings.steps
    # 1e-9 is subtracted because of rounding errors: 0.07 epochs of 100 batches are 7.000000000000001 batches.
    return max(1, math.ceil(settings.epochs * math.ceil(examples / settings.batch_size) - 1e-9))


def count_warmup(steps: int, settings: config.Training) -> int:
    """Return the number of warm-up steps: `settings.warmup_steps`, or else a share of all steps.

    Args:
        steps: The number of all optimiser steps.
        settings: The training settings.
    """
    return settings.warmup_steps if settings.warmup_steps is not None else round(WARMUP_SHARE * steps)


def batches(examples: int, batch_size: int, steps: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the indices of each step's examples; each epoch is a permutation that depends only on (seed, epoch).

    Args:
        examples: The number of examples.
        batch_size: The number of examples per step.
        steps: The number of all steps.
        seed: The seed of the data's order.
    """
    step = epoch = 0
    while True:  # the number of steps decides the end, not the number of epochs
        order = np.random.default_rng([seed, epoch]).permutation(examples)
        for start in range(0, examples, batch_size):
            if step == steps:
                return
            yield order[start : start + batch_size]
            step += 1
        epoch += 1


def schedule(step: int, steps: int, warmup: int, kind: Literal["constant", "linear", "cosine"]) -> float:
    """Return the learning rate at step 0, 1, ..., steps - 1, as a share of its peak.

    During warm-up the share is (step + 1) / warmup, so that no step has rate 0. After warm-up, with
    x = (step - warmup) / (steps - warmup), the share is 1 (constant), 1 - x (linear) or (1 + cos(pi x)) / 2 (cosine).

    Args:
        step: The step, from 0.
        steps: The number of all steps.
        warmup: The number of warm-up steps.
        kind: The form of the schedule after warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    x = (step - warmup) / (steps - warmup)
    return {"constant": 1.0, "linear": 1.0 - x, "cosine": 0.5 * (1.0 + math.cos(math.pi * x))}[kind]
