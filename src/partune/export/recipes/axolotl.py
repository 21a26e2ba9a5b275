"""Write the recipe for axolotl, which is run with `axolotl train axolotl.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partune.export.chosen import Chosen
from partune.export.recipes.commented_yaml import commented
from partune.export.recipes.trl import trainer_arguments
from partune.finetune.data import PROMPT, PROMPT_WITH_INPUT

FILE = "axolotl.yaml"
VERSION = "0.19.0"
NAMES = {  # key: an argument of the Trainer of transformers; value: its name in axolotl
    "per_device_train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "num_train_epochs": "num_epochs",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "warmup_steps": "warmup_steps",
    "optim": "optimizer",
    "optim_args": "optim_args",
    "weight_decay": "weight_decay",
    "adam_beta1": "adam_beta1",
    "adam_beta2": "adam_beta2",
    "adam_epsilon": "adam_epsilon",
    "max_grad_norm": "max_grad_norm",
    "seed": "seed",
}
HEAD = (
    f"Repeats a training of a partune study; written for axolotl {VERSION}.",
    "",
    f"    axolotl train {FILE}",
)


def recipe(chosen: Chosen) -> Mapping[str, str]:
    """Return the recipe: the key is its file name, the value its text."""
    training, data, model = chosen.training, chosen.data, chosen.model
    arguments = trainer_arguments(chosen)
    quantized = model.quantize != "none"
    differences = [
        *chosen.differences(),
        *chosen.dropout_advice(takes=True),
        *chosen.shared_differences(),
        *chosen.unused_data("axolotl"),
    ]
    if chosen.rows == "text":
        differences.append("Texts longer than sequence_len become several examples; in the study, they are cut.")
    settings = {
        "base_model": chosen.base,
        "revision_of_model": model.revision,
        "trust_remote_code": model.trust_remote_code or None,
        "overrides_of_model_config": chosen.dropout_off or None,
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
        **{name: arguments[argument] for argument, name in NAMES.items() if argument in arguments},
        "bf16": chosen.dtype == "bf16",
        "fp16": chosen.dtype == "fp16",
        "output_dir": "trained-axolotl",
    }
    return {
        FILE: commented(
            [*HEAD[:1], *chosen.preparation(), *HEAD[2 if chosen.converted else 1 :]], differences, settings
        )
    }


def _dataset(chosen: Chosen) -> dict[str, Any]:
    """Return the entry of the recipe that describes the data."""
    data = chosen.data
    where: dict[str, Any] = {"path": chosen.file or data.path}
    if chosen.file is not None:
        where["ds_type"] = "json"
    where["name"] = None if chosen.converted else data.config
    where["split"] = chosen.split
    where = {key: value for key, value in where.items() if value is not None}
    if chosen.rows == "text":
        return {**where, "type": "completion", "field": "text"}
    if chosen.rows == "completion":
        bare = {"field_instruction": "prompt", "field_output": "completion"}
        return {
            **where,
            "type": {"system_prompt": "", **bare, "format": "{instruction}", "no_input_format": "{instruction}"},
        }
    if chosen.rows == "alpaca":
        prompts = {
            "system_prompt": "",
            "system_format": "{system}",
            "field_instruction": "instruction",
            "field_input": chosen.name_of("input"),
            "field_output": chosen.name_of("output"),
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
