"""Write the recipe for LitGPT, which is run with `litgpt finetune_lora --config litgpt.yaml`."""

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
    """Return the recipe: the key is its file name, the value its text."""
    training, data = chosen.training, chosen.data
    switches, target_differences = _switches(chosen.targets)
    warmup = max(1, chosen.warmup)  # LitGPT divides by the number of warm-up steps
    steps_per_epoch = math.ceil(chosen.examples / chosen.micro_batch) // chosen.accumulation
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
                "prompt_style": "default" if chosen.rows == "completion" else "alpaca",
                "seed": chosen.order_seed,
            },
        },
        "train": {
            "global_batch_size": training.batch_size,
            "micro_batch_size": chosen.micro_batch,
            "epochs": math.ceil(chosen.steps / max(1, steps_per_epoch)),
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
    return {FILE: commented(_head(chosen), [*_differences(chosen, warmup), *target_differences], settings)}


def _head(chosen: Chosen) -> list[str]:
    command = "litgpt download MODEL" if chosen.has_id else "litgpt convert_to_litgpt FOLDER"
    return [
        f"Repeats a training of a partune study; written for LitGPT {VERSION}.",
        *chosen.preparation(),
        f"First make a checkpoint of the base model in LitGPT's format: {command}",
        "",
        f"    litgpt finetune_lora --config {FILE}",
    ]


def _differences(chosen: Chosen, warmup: int) -> list[str]:
    training = chosen.training
    sentences = [
        f"The seed {chosen.seed} does not give the study's initialisation, dropout and order of the data, because "
        "LitGPT uses other random generators.",
        *(f"LitGPT does not support {reason}." for reason in objections(training)),
        *chosen.home_advice(),
    ]
    if warmup != chosen.warmup:
        sentences.append("There is one step of warm-up; the study has none.")
    if chosen.accumulation > 1:
        sentences.append("All micro-batches of a step count equally, no matter how many tokens are trained in each.")
    if chosen.rows == "chat":
        sentences.append("Convert the chats into rows with instruction and output first; LitGPT cannot read chats.")
    if chosen.rows == "text":
        sentences.append("LitGPT fine-tunes on instructions with outputs only, so it cannot train on these texts.")
    sentences += chosen.unused_data("LitGPT")
    renamed = {name: standard for standard, name in chosen.names.items() if standard != name}
    if chosen.rows == "completion":
        renamed = {"prompt": "instruction", "completion": "output"}
    if renamed:
        sentences.append(f"Rename the rows' fields first: {', '.join(f'{a} to {b}' for a, b in renamed.items())}.")
    if chosen.file is None:
        sentences.append("Save the data set as data.json first, as a list of rows, because LitGPT reads only files.")
    elif chosen.file.endswith(".gz"):
        sentences.append("Unpack the data first and change json_path, because LitGPT reads only .json and .jsonl.")
    if chosen.limit is not None:
        sentences.append(f"LitGPT uses all rows; the study used the first {chosen.limit}.")
    return sentences


def _switches(targets: tuple[str, ...]) -> tuple[dict[str, bool], list[str]]:
    """Return whether each of LitGPT's switches is on, and sentences on layers that are not adapted as in the study."""
    kinds = {target.rpartition(".")[2] for target in targets}
    table = NEOX_SWITCHES if "query_key_value" in kinds else SWITCHES
    switches = {switch: kinds >= set(of) for switch, of in table.items()}
    covered = {kind for switch, on in switches.items() if on for kind in table[switch]}
    sentences = []
    if left := sorted(kinds - covered):
        sentences.append(f"{len(left)} types of layers are not adapted, because LitGPT has no switch for them alone.")
    if any("." in target for target in targets):
        sentences.append(
            "The study adapts single layers; LitGPT's switches adapt all layers of a type, in every block."
        )
    return switches, sentences
