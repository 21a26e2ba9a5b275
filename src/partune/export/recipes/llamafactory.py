"""Write the recipe for LLaMA-Factory: llamafactory.yaml, for `llamafactory-cli train`, and dataset_info.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from partune.export.chosen import Chosen
from partune.export.recipes.commented_yaml import commented
from partune.export.recipes.trl import trainer_arguments

FILE, DATA_FILE = "llamafactory.yaml", "dataset_info.json"
VERSION = "0.9.5"
HEAD = (
    f"Repeats a training of a partune study; written for LLaMA-Factory {VERSION}. {DATA_FILE} describes the data.",
    "",
    f"    llamafactory-cli train {FILE}",
)


def recipe(chosen: Chosen) -> Mapping[str, str]:
    """Return the recipe's files: the key is the file name, the value the text."""
    training, data, model = chosen.training, chosen.data, chosen.model
    alpaca = chosen.rows == "alpaca"
    differences = [
        *chosen.differences(),
        *chosen.dropout_advice(takes=False),
        *chosen.shared_differences(),
        *chosen.unused_data("LLaMA-Factory", "system", "history"),
    ]
    if alpaca:
        differences += [
            "The input follows the instruction on a new line; in the study's prompt, the input has its own heading.",
            "The model is also trained to write an empty line after the end of sequence.",
        ]
    elif chosen.rows == "completion":
        differences.append("LLaMA-Factory does not train on the end of sequence after a completion; the study does.")
    elif chosen.rows == "chat" and chosen.template is not None:
        differences.append("The chat template is the tokenizer's; the study used another one.")
    if (chosen.file or "").endswith(".gz"):
        differences.append(
            f"Unpack the data first and change their name in {DATA_FILE}, because LLaMA-Factory reads only .json and "
            ".jsonl."
        )
    settings = {
        "model_name_or_path": chosen.base,
        "model_revision": model.revision,
        "trust_remote_code": model.trust_remote_code or None,
        "stage": "pt" if chosen.rows == "text" else "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": training.lora_r,
        "lora_alpha": chosen.alpha,
        "lora_dropout": training.lora_dropout,
        "lora_target": ",".join(chosen.targets),
        **(_QUANTIZED if model.quantize != "none" else {}),
        "dataset_dir": ".",
        "dataset": "study",
        "template": {"alpaca": "alpaca", "completion": "empty"}.get(chosen.rows),
        "cutoff_len": data.max_length,
        "max_samples": chosen.limit,
        "train_on_prompt": data.loss_on == "all",
        "packing": False,
        "output_dir": "trained-llamafactory",
        **trainer_arguments(chosen),
        "bf16": chosen.dtype == "bf16",
        "fp16": chosen.dtype == "fp16",
        "save_strategy": "no",
        "report_to": "none",
    }
    return {
        FILE: commented(
            [*HEAD[:1], *chosen.preparation(), *HEAD[2 if chosen.converted else 1 :]], differences, settings
        ),
        DATA_FILE: _description(chosen),
    }


_QUANTIZED = {
    "quantization_method": "bnb",
    "quantization_bit": 4,
    "quantization_type": "nf4",
    "double_quantization": True,
}


def _description(chosen: Chosen) -> str:
    """Return the text of dataset_info.json, which describes the data."""
    where: dict[str, Any]
    if chosen.file is not None:
        where = {"file_name": chosen.file}
    else:
        config = {} if chosen.data.config is None else {"subset": chosen.data.config}
        where = {"hf_hub_url": chosen.data.path, **config, "split": chosen.data.split}
    if chosen.rows in ("completion", "text"):
        columns = {"prompt": "text"} if chosen.rows == "text" else {"prompt": "prompt", "response": "completion"}
        return json.dumps({"study": {**where, "formatting": "alpaca", "columns": columns}}, indent=2) + "\n"
    if chosen.rows == "alpaca":
        columns = {"prompt": "instruction", "query": chosen.name_of("input"), "response": chosen.name_of("output")}
        columns |= {name: name for name in ("system", "history") if name in chosen.names}
        return json.dumps({"study": {**where, "formatting": "alpaca", "columns": columns}}, indent=2) + "\n"
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    form = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    return json.dumps({"study": {**where, **form}}, indent=2) + "\n"
