"""axolotl's file: `axolotl train axolotl.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partune.finetune.data import PROMPT, PROMPT_WITH_INPUT
from partune.finetune.training import BETAS, EPSILON
from partune.handover.chosen import Chosen, number
from partune.handover.pages import commented
from partune.handover.trl import SCHEDULES

FILE = "axolotl.yaml"
VERSION = "0.19.0"
AUTOCAST = "LoRA's products are taken in the base's precision; the study's in fp32."
HEAD = (
    f"Trains the winner of a partune study; written for axolotl {VERSION}.",
    "",
    f"    axolotl train {FILE}",
)


def recipe(chosen: Chosen) -> Mapping[str, str]:
    """The file by name."""
    training, data, model = chosen.training, chosen.data, chosen.model
    quantized = model.quantize != "none"
    differences = [*chosen.differences(), *chosen.rounded_alpha, *chosen.homes()]
    if chosen.dtype != "fp32":
        differences.append(AUTOCAST)
    settings = {
        "base_model": chosen.base,
        "revision_of_model": model.revision,
        "trust_remote_code": model.trust_remote_code or None,
        "load_in_4bit": quantized or None,
        "adapter": "qlora" if quantized else "lora",
        "lora_r": training.lora_r,
        "lora_alpha": chosen.alpha,
        "lora_dropout": training.lora_dropout,
        "lora_target_modules": list(chosen.targets),
        "datasets": [_dataset(chosen)],
        "train_on_inputs": data.loss_on == "all",
        "val_set_size": 0,
        "sequence_len": data.max_length,
        "excess_length_strategy": "truncate",
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "micro_batch_size": chosen.micro_batch,
        "gradient_accumulation_steps": chosen.accumulation,
        "num_epochs": number(training.epochs) if training.steps is None else None,
        "max_steps": training.steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler": SCHEDULES[training.schedule],
        "warmup_steps": chosen.warmup,
        "optimizer": "adamw_torch" if training.optimizer == "adamw" else "sgd",
        "optim_args": f"momentum={training.momentum}" if training.optimizer == "sgd" else None,
        "weight_decay": training.weight_decay,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "max_grad_norm": training.max_grad_norm,
        "bf16": chosen.dtype == "bf16",
        "fp16": chosen.dtype == "fp16",
        "seed": chosen.seed,
        "output_dir": "axolotl",
    }
    return {FILE: commented(HEAD, differences, settings)}


def _dataset(chosen: Chosen) -> dict[str, Any]:
    data = chosen.data
    where: dict[str, Any] = {"path": chosen.file or data.path}
    if chosen.file is not None:
        where["ds_type"] = "json"
    where["split"] = chosen.split
    if chosen.rows == "alpaca":
        prompts = {
            "system_prompt": "",
            "system_format": "{system}",
            "field_instruction": "instruction",
            "field_input": "input",
            "field_output": "output",
            "format": PROMPT_WITH_INPUT,
            "no_input_format": PROMPT,
        }
        return {**where, "type": prompts}
    chat: dict[str, Any] = {"type": "chat_template", "field_messages": "messages", "chat_template": "tokenizer_default"}
    if chosen.template is not None:
        chat |= {"chat_template": "jinja", "chat_template_jinja": chosen.template}
    if data.loss_on == "answer":
        chat |= {"roles_to_train": ["assistant"], "train_on_eos": "turn"}
    return {**where, **chat}
