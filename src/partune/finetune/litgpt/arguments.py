"""Our settings as LitGPT's arguments, and what LitGPT cannot do."""

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


NEVER = "1000000000"  # steps between validations, which would also print generated text


# Which of LitGPT's switches puts LoRA on a kind of linear layer; a switch adapts all of its kinds in every block.
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
    """Return what LitGPT's finetune_lora has not, or reads differently, of a trial's settings."""
    alpha = training.lora_alpha
    rules = (
        (training.optimizer == "adamw", "optimizer sgd: its weight decay would be coupled; use adamw"),
        (training.schedule == "cosine", f"schedule {training.schedule}: it knows cosine only"),
        (training.max_grad_norm == 1.0, f"max_grad_norm {training.max_grad_norm}: it clips no gradients"),
        (alpha == int(alpha), f"lora_alpha {alpha}: it takes integers only"),
        (training.warmup_steps != 0, "warmup_steps 0: it divides by them; give at least 1"),
        (training.steps != 1, "steps 1: its schedule needs at least 2"),
    )
    return [reason for holds, reason in rules if not holds]


def refuse(training: config.Training) -> None:
    """Raise UserError for the first setting that LitGPT cannot do."""
    for reason in objections(training):
        raise UserError(f"LitGPT cannot do {reason} (--engine packed can)")


def find_switches(model: nn.Module, targets: str) -> dict[str, bool]:
    """Return LitGPT's switches for the layers that `targets` means.

    Args:
        model: The base model.
        targets: As `find_targets` takes them.

    Raises:
        UserError: No switches mean these very layers.
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
            f"targets {targets}: LitGPT adapts query, key, value, projection, the whole MLP or the head, "
            f"in every block, but not {odd} by itself"
        )
    tied: Any = getattr(model, "config", None)
    if switches["lora_head"] and getattr(tied, "tie_word_embeddings", False):
        raise UserError(f"targets {targets}: the head shares its weights with the embeddings, and cannot be merged")
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

    Steps are counted as our own engines count them, so that a trial is as long; LitGPT's epochs only have to suffice. A
    micro-batch is the largest divisor of the batch that is no larger than asked.

    Args:
        base: The base, in LitGPT's form.
        data: Folder of the training rows.
        out: Folder for what it writes.
        examples: Number of training rows.
        training: How to train.
        switches: Which layers get adapters.
        max_length: Tokens of an example at most.
        loss_on: Which tokens the loss is on.
        dtype: fp32, bf16 or fp16.
        seed: Seed of initialisation and dropout.
        order_seed: Seed of the data's order.

    Raises:
        UserError: Its schedule cannot be had.
    """
    batch, most = training.batch_size, training.micro_batch_size or training.batch_size
    micro = next(size for size in range(min(most, batch), 0, -1) if batch % size == 0)
    steps = count_steps(examples, training)
    warmup = training.warmup_steps or max(1, round(WARMUP_SHARE * steps))
    # LitGPT accumulates batch // micro micro-batches per step, and drops what is left at an epoch's end.
    steps_per_epoch = math.ceil(examples / micro) // (batch // micro)
    if not steps_per_epoch:
        raise UserError(f"batch_size {batch}: LitGPT drops a batch that is not full, and there are {examples} examples")
    if steps == warmup or steps < 2:
        raise UserError(f"warmup_steps {warmup} of {steps} steps in all: LitGPT's schedule needs steps after them")
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
        checkpoint: The model, in LitGPT's form.
        tasks: Names or files of tasks that share a limit.
        out: Folder for what it converts.
        results: File for the harness's results.
        batch_size: Requests per forward pass.
        device: Kind of the device: cpu, cuda.
        dtype: fp32, bf16 or fp16.
        limit: Documents of each task; None takes all.
        fewshot: Examples shown before each question; None leaves it to the task.
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
    given = {name: value for name, value in values.items() if value is not None}
    return [str(checkpoint), *(str(part) for name, value in given.items() for part in (f"--{name}", value))]


def finetune_flags() -> list[str]:
    """Return arguments of `finetune_lora` with some values, for their names."""
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
