"""Translate settings into LitGPT's command-line arguments, and refuse those that LitGPT cannot follow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from partune import config
from partune.errors import UserError
from partune.finetune.layers import linear_layers
from partune.finetune.targets import find_targets
from partune.finetune.training import WARMUP_SHARE, count_steps

if TYPE_CHECKING:
    from torch import nn


PRECISION = {"fp32": "32-true", "bf16": "bf16-true", "fp16": "16-true"}

HARNESS_DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

NEVER = "1000000000"  # steps between validations; a validation takes time and prints generated text


# The linear layers that each of LitGPT's switches adapts. A switch adapts all of its layers in every block.
SWITCHES = {
    "lora_query": ("q_proj",),
    "lora_key": ("k_proj",),
    "lora_value": ("v_proj",),
    "lora_projection": ("o_proj",),
    "lora_mlp": ("gate_proj", "up_proj", "down_proj"),
    "lora_head": ("lm_head",),
}


NEOX_SWITCHES = {
    "lora_query": ("query_key_value",),
    "lora_key": ("query_key_value",),
    "lora_value": ("query_key_value",),
    "lora_projection": ("dense",),
    "lora_mlp": ("dense_h_to_4h", "dense_4h_to_h"),
    "lora_head": ("embed_out",),
}


def objections(training: config.Training) -> list[str]:
    """Return the settings of a trial that `litgpt finetune_lora` lacks or interprets differently, with reasons."""
    alpha = training.lora_alpha
    rules = (
        (training.optimizer == "adamw", "optimizer sgd: its weight decay would be coupled; use adamw"),
        (training.schedule == "cosine", f"schedule {training.schedule}: it knows cosine only"),
        (training.max_grad_norm == 1.0, f"max_grad_norm {training.max_grad_norm}: it does not clip gradients"),
        (alpha == int(alpha), f"lora_alpha {alpha}: it accepts integers only"),
        (training.warmup_steps != 0, "warmup_steps 0: it divides by their number; set at least 1"),
        (training.steps != 1, "steps 1: its schedule needs at least 2"),
    )
    return [reason for holds, reason in rules if not holds]


def refuse(training: config.Training) -> None:
    """Raise UserError for the first setting that LitGPT does not support."""
    for reason in objections(training):
        raise UserError(f"LitGPT does not support {reason} (`--engine packed` does)")


def find_switches(model: nn.Module, targets: str) -> dict[str, bool]:
    """Return for each of LitGPT's switches whether it has to be on to adapt exactly the layers that `targets` means.

    Args:
        model: The base model.
        targets: The layers to adapt, in the form that `find_targets` accepts.

    Raises:
        UserError: No combination of switches adapts exactly these layers.
    """
    wanted = set(find_targets(model, targets))
    layers = linear_layers(model)
    table = NEOX_SWITCHES if any(name.endswith("query_key_value") for name in layers) else SWITCHES
    of_kind = {kind: {name for name in layers if name.rpartition(".")[2] == kind} for kind in sum(table.values(), ())}
    switches = {switch: all(of_kind[kind] and of_kind[kind] <= wanted for kind in table[switch]) for switch in table}
    covered = set().union(*(of_kind[kind] for switch, on in switches.items() if on for kind in table[switch]))
    if covered != wanted:
        odd = min(wanted - covered)
        raise UserError(
            f"targets {targets}: LitGPT can adapt query, key, value, projection, all layers of the MLP or the head, "
            f"each in every block, but not {odd} by itself"
        )
    tied: Any = getattr(model, "config", None)
    if switches["lora_head"] and getattr(tied, "tie_word_embeddings", False):
        raise UserError(
            f"targets {targets}: the head shares its weights with the embeddings, so its adapter cannot be merged"
        )
    return switches


def finetune_arguments(
    base: Path,
    data: Path,
    out: Path,
    examples: int,
    training: config.Training,
    switches: Mapping[str, bool],
    *,
    max_length: int,
    loss_on: Literal["answer", "all"],
    dtype: str,
    seed: int,
    order_seed: int,
) -> list[str]:
    """Return the arguments of `litgpt finetune_lora`.

    The number of steps is the same as for the other engines. The number of epochs passed to LitGPT is just large enough
    for these steps. The micro-batch is the largest divisor of the batch that does not exceed the requested size.

    Args:
        base: The base model in LitGPT's format.
        data: The folder of the training rows.
        out: The output folder.
        examples: The number of training rows.
        training: The settings of the training.
        switches: LitGPT's switches for the layers that get adapters.
        max_length: The largest number of tokens of an example.
        loss_on: The tokens on which the loss is computed.
        dtype: The precision: fp32, bf16 or fp16.
        seed: The seed of initialisation and dropout.
        order_seed: The seed of the order of the data.

    Raises:
        UserError: LitGPT has no schedule for these numbers of steps and examples.
    """
    batch, most = training.batch_size, training.micro_batch_size or training.batch_size
    micro = next(size for size in range(min(most, batch), 0, -1) if batch % size == 0)
    steps = count_steps(examples, training)
    warmup = training.warmup_steps or max(1, round(WARMUP_SHARE * steps))
    # LitGPT accumulates batch // micro micro-batches per step, and drops an incomplete batch at the end of an epoch.
    steps_per_epoch = math.ceil(examples / micro) // (batch // micro)
    if not steps_per_epoch:
        raise UserError(
            f"batch_size {batch}: there are only {examples} examples, and LitGPT drops a batch that is not full"
        )
    if steps == warmup or steps < 2:
        raise UserError(f"warmup_steps {warmup} of {steps} steps in total: LitGPT needs steps after the warm-up")
    optimizer = {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": training.learning_rate, "weight_decay": training.weight_decay},
    }
    values: dict[str, Any] = {
        "out_dir": out,
        "precision": PRECISION[dtype],
        "lora_r": training.lora_r,
        "lora_alpha": int(training.lora_alpha),
        "lora_dropout": training.lora_dropout,
        **{switch: str(on).lower() for switch, on in switches.items()},
        "data": "JSON",
        "data.json_path": data,
        "data.mask_prompt": str(loss_on == "answer").lower(),
        "data.prompt_style": "alpaca",
        "data.seed": order_seed,
        "data.num_workers": 0,
        "train.global_batch_size": batch,
        "train.micro_batch_size": micro,
        "train.epochs": math.ceil(steps / steps_per_epoch),
        "train.max_steps": steps,
        "train.lr_warmup_steps": warmup,
        "train.max_seq_length": max_length,
        "train.save_interval": "null",
        "eval.interval": NEVER,
        "eval.final_validation": "false",
        "optimizer": json.dumps(optimizer),
        "seed": seed,
    }
    return [str(base), *(str(part) for name, value in values.items() for part in (f"--{name}", value))]


def evaluate_arguments(
    checkpoint: Path,
    tasks: Sequence[str],
    out: Path,
    results: Path,
    *,
    batch_size: int,
    device: str,
    dtype: str,
    limit: int | None,
    fewshot: int | None,
) -> list[str]:
    """Return the arguments of `litgpt evaluate`.

    Args:
        checkpoint: The model in LitGPT's format.
        tasks: The names or files of the tasks to score.
        out: The folder for the converted model.
        results: The file for the results of lm-evaluation-harness.
        batch_size: The number of requests per forward pass.
        device: The type of the device: cpu or cuda.
        dtype: The precision: fp32, bf16 or fp16.
        limit: The number of documents of each task to score; None scores all.
        fewshot: The number of examples shown before each question; None uses the task's default.
    """
    values: dict[str, Any] = {
        "tasks": ",".join(tasks),
        "out_dir": out,
        "save_filepath": results,
        "batch_size": batch_size,
        "device": device,
        "dtype": HARNESS_DTYPE[dtype],
        "limit": limit,
        "num_fewshot": fewshot,
    }
    used = {name: value for name, value in values.items() if value is not None}
    return [str(checkpoint), *(str(part) for name, value in used.items() for part in (f"--{name}", value))]


def finetune_flags() -> list[str]:
    """Return sample arguments of `litgpt finetune_lora`, from which the names of all flags in use can be read."""
    switches = dict.fromkeys(SWITCHES, True)
    nowhere = Path()
    return finetune_arguments(
        nowhere,
        nowhere,
        nowhere,
        100,
        config.Training(),
        switches,
        max_length=8,
        loss_on="all",
        dtype="fp32",
        seed=0,
        order_seed=0,
    )
