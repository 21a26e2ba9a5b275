"""Recipes of LoRA fine-tuning, each from one source, with which a study compares its winner.

A recipe sets hyperparameters only. The study keeps its own settings for what depends on the data or the budget: the
number of epochs or steps, the batch size, the length of the examples, the tokens that count for the loss, the precision
and the seed. The warm-up is also the study's, because a source states it for trainings of another length; only recipes
without a warm-up set it, to 0. Optimisers with 8-bit states are given as AdamW, which they approximate.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from partune.errors import UserError, suggestion
from partune.runtime import paths, strict_yaml

USUAL = "axolotl-llama-1b"  # the recipe of the default baseline


class Recipe(NamedTuple):
    """A recipe, which is recorded with every study that is compared with it.

    Attributes:
        source: Where the values come from, with version or date.
        training: The recipe's settings of section `training`.
    """

    source: str
    training: Mapping[str, Any]


RECIPES: Mapping[str, Recipe] = {
    # The default is one file that anybody can run. Of axolotl's 178 LoRA examples, 155 adapt all linear layers, 141
    # have this learning rate and 173 this schedule. The most frequent rank and alpha are others, 32 and 16 (recipe
    # axolotl), but those of this file are the stronger baseline: they scale the adapters' output by four times as much.
    # Rank, alpha and dropout are also the defaults of TRL's command line (trl/trainer/model_config.py, July 2026).
    "axolotl-llama-1b": Recipe(
        "axolotl 0.18.0, examples/llama-3/lora-1b.yml (https://github.com/axolotl-ai-cloud/axolotl)",
        {
            "targets": "all-linear",
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.05,
            "learning_rate": 2e-4,
            "weight_decay": 0.0,
            "schedule": "cosine",
            "optimizer": "adamw",
        },
    ),
    "axolotl": Recipe(
        "axolotl 0.18.0, the values that 86 of its 178 LoRA examples share, more than any others "
        "(https://github.com/axolotl-ai-cloud/axolotl)",
        {
            "targets": "all-linear",
            "lora_r": 32,
            "lora_alpha": 16,
            "lora_dropout": 0.05,
            "learning_rate": 2e-4,
            "weight_decay": 0.0,
            "schedule": "cosine",
            "optimizer": "adamw",
        },
    ),
    # PEFT chooses the layers by the type of the model. These are its choice for Llama, Mistral, Qwen and Gemma.
    "peft": Recipe(
        "the defaults of PEFT 0.21.2 (LoraConfig) and transformers 5.23 (TrainingArguments) "
        "(https://github.com/huggingface/peft)",
        {
            "targets": "q_proj,v_proj",
            "lora_r": 8,
            "lora_alpha": 8,
            "lora_dropout": 0.0,
            "learning_rate": 5e-5,
            "weight_decay": 0.0,
            "schedule": "linear",
            "warmup_steps": 0,
            "max_grad_norm": 1.0,
            "optimizer": "adamw",
        },
    ),
    "unsloth": Recipe(
        "Unsloth's notebooks of August 2026, the values that 70 of 183 supervised ones share, more than any others "
        "(https://github.com/unslothai/notebooks)",
        {
            "targets": "all-linear",
            "lora_r": 16,
            "lora_alpha": 16,
            "lora_dropout": 0.0,
            "learning_rate": 2e-4,
            "weight_decay": 0.001,
            "schedule": "linear",
            "optimizer": "adamw",
        },
    ),
    # The article's rule for the learning rate is ten times that of full fine-tuning. TRL's guide to the article has
    # this learning rate and rank.
    "lora-without-regret": Recipe(
        "Schulman and Thinking Machines Lab, LoRA Without Regret, 2025 (https://thinkingmachines.ai/blog/lora/), with "
        "rank and rate from TRL's guide to it of July 2026 (https://huggingface.co/docs/trl/lora_without_regret)",
        {
            "targets": "all-linear",
            "lora_r": 256,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "learning_rate": 2e-4,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup_steps": 0,
            "optimizer": "adamw",
        },
    ),
    # The rate and the weight decay are those of torch.optim.AdamW, which LitGPT calls without arguments. LitGPT
    # does not clip gradients.
    "litgpt": Recipe(
        "the defaults of LitGPT 0.5.13 (litgpt finetune_lora) (https://github.com/Lightning-AI/litgpt)",
        {
            "targets": "q_proj,v_proj",
            "lora_r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.05,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "max_grad_norm": 1e9,
            "optimizer": "adamw",
        },
    ),
}


def recipe_of(value: Any) -> Any:
    """Return the mapping of a baseline that a text names; return anything else as it is.

    Args:
        value: The name of a recipe, the path of a YAML file, or the mapping of a baseline.

    Raises:
        UserError: No recipe has this name, or the file cannot be read or holds no settings.
    """
    if not isinstance(value, (str, os.PathLike)):
        return value
    text = os.fspath(value)
    if text.endswith((".yaml", ".yml")):
        return _of_file(paths.as_path(text))
    if text not in RECIPES:
        raise UserError(f'no recipe "{text}"{suggestion(text, RECIPES)} (or a YAML file of training settings)')
    return {"name": text, "source": RECIPES[text].source, "training": dict(RECIPES[text].training)}


def _of_file(path: Path) -> dict[str, Any]:
    """Return the baseline in a file of training settings, which may be in a section `training`."""
    try:
        content = strict_yaml.read(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    if not isinstance(content, dict) or not content:
        got = "an empty file" if not content else type(content).__name__
        raise UserError(
            f"{path}: a baseline's file must be a mapping of training settings, such as lora_r: 8, got {got}"
        )
    whole = content if "training" in content else {"training": content}
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_")[:40]
    return {"name": name or "baseline", "source": f"the file {path.name}", **whole}
