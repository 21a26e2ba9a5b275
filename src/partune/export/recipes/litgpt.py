"""LitGPT's file: `litgpt finetune_lora --config litgpt.yaml`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partune.export.chosen import Chosen
from partune.export.recipes.commented_yaml import commented
from partune.finetune.litgpt.arguments import NEOX_SWITCHES, NEVER, PRECISION, SWITCHES, objections

FILE = "litgpt.yaml"
VERSION = "0.5.13"


def recipe(chosen: Chosen) -> Mapping[str, str]:
    """Return the file by its name."""
    training, data = chosen.training, chosen.data
    switches, missed = _switches(chosen.targets)
    warmup = max(1, chosen.warmup)  # LitGPT divides by it
    whole = math.ceil(chosen.examples / chosen.micro_batch) // chosen.accumulation  # steps an epoch
    settings: dict[str, Any] = {
        "checkpoint_dir": chosen.base if chosen.has_id else f"checkpoints/{Path(chosen.base).name}",
        "out_dir": "trained-litgpt",
        "precision": PRECISION[chosen.dtype],
        "quantize": "bnb.nf4-dq" if chosen.model.quantize != "none" else None,
        "lora_r": training.lora_r,
        "lora_alpha": chosen.alpha,
        "lora_dropout": training.lora_dropout,
        **switches,
        "data": {
            "class_path": "litgpt.data.JSON",
            "init_args": {
                "json_path": chosen.file or "data.json",
                "mask_prompt": data.loss_on == "answer",
                "val_split_fraction": 0.0,
                "prompt_style": "alpaca",
                "seed": chosen.order_seed,
            },
        },
        "train": {
            "global_batch_size": training.batch_size,
            "micro_batch_size": chosen.micro_batch,
            "epochs": math.ceil(chosen.steps / max(1, whole)),
            "max_steps": chosen.steps,
            "lr_warmup_steps": warmup,
            "max_seq_length": data.max_length,
            "save_interval": None,
        },
        "eval": {"interval": int(NEVER), "initial_validation": False, "final_validation": False},
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": training.learning_rate, "weight_decay": training.weight_decay},
        },
        "seed": chosen.seed,
    }
    return {FILE: commented(_head(chosen), [*_differences(chosen, warmup), *missed], settings)}


def _head(chosen: Chosen) -> list[str]:
    how = "litgpt download MODEL" if chosen.has_id else "litgpt convert_to_litgpt FOLDER"
    return [
        f"Trains the winner of a partune study; written for LitGPT {VERSION}.",
        f"It needs the base as a checkpoint of its own: {how}",
        "",
        f"    litgpt finetune_lora --config {FILE}",
    ]


def _differences(chosen: Chosen, warmup: int) -> list[str]:
    training, data = chosen.training, chosen.data
    sentences = [
        f"Initialisation, dropout and the data's order are drawn by other generators: with seed {chosen.seed} they are "
        "fixed, not the same.",
        *(f"LitGPT cannot do {reason}." for reason in objections(training)),
        *chosen.homes(),
    ]
    if warmup != chosen.warmup:
        sentences.append("One step of warm-up, where the study has none.")
    if chosen.accumulation > 1:
        sentences.append("Micro-batches count alike in a step, however many tokens are trained in each.")
    if chosen.rows == "chat":
        sentences.append("LitGPT reads no chat rows: turn them into instruction and output first.")
    sentences += chosen.unread("LitGPT")
    if renamed := {name: mine for mine, name in chosen.fields.items() if mine != name}:
        sentences.append(f"Rename the rows' fields first: {', '.join(f'{a} to {b}' for a, b in renamed.items())}.")
    if chosen.file is None:
        sentences.append("Save the data set as data.json first, a list of rows: LitGPT reads a file.")
    elif chosen.file.endswith(".gz"):
        sentences.append("Unpack the data first and change json_path: LitGPT reads .json and .jsonl.")
    if data.limit is not None:
        sentences.append(f"LitGPT reads all rows; the study used the first {data.limit}.")
    return sentences


def _switches(targets: tuple[str, ...]) -> tuple[dict[str, bool], list[str]]:
    """Return LitGPT's switches for the layers, and what to say where they mean more or fewer layers."""
    kinds = {target.rpartition(".")[2] for target in targets}
    table = NEOX_SWITCHES if "query_key_value" in kinds else SWITCHES
    switches = {switch: kinds >= set(of) for switch, of in table.items()}
    covered = {kind for switch, on in switches.items() if on for kind in table[switch]}
    sentences = []
    if left := sorted(kinds - covered):
        sentences.append(f"{len(left)} kinds of layers that the study adapts have no switch of their own here.")
    if any("." in target for target in targets):
        sentences.append("The study adapts single layers; LitGPT's switches adapt their kind in every block.")
    return switches, sentences
