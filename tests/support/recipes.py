"""Recipes of many trials, and the keys that their tools know."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from partune.export.chosen import Chosen
from partune.export.recipes import trl
from partune.export.recipes.write import RECIPES
from tests.support.chosen import chosen

KEYS: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "export" / "recipes" / "keys.json").read_text()
)


CHATS = {"path": "acme/chats", "split": "test", "limit": 500, "chat_template": "{{ messages }}"}


NEOX = ("query_key_value", "dense")


CASES = {
    "plain": chosen(),
    "steps": chosen(training={"steps": 40, "warmup_steps": 5, "micro_batch_size": 6, "schedule": "linear"}),
    "sgd": chosen(training={"optimizer": "sgd", "momentum": 0.9, "schedule": "constant", "lora_alpha": 7.5}),
    "all": chosen(data={"path": "rows.jsonl.gz", "loss_on": "all", "limit": 9}, dtype="fp32", targets=NEOX),
    "quantized": chosen(model={"path": "acme/base", "revision": "v2", "quantize": "nf4", "trust_remote_code": True}),
    "chat": chosen(rows="chat", data=CHATS),
    "completion": chosen(rows="completion", layout="completion", data={"path": "rows.csv", "limit": 9}),
    "text": chosen(rows="text", layout="text", data={"path": "a.csv,b.csv", "columns": {"text": "my body"}}),
    "sharegpt": chosen(rows="chat", layout="sharegpt", data={"path": "acme/turns", "config": "en", "split": "dev"}),
    "config": chosen(rows="chat", layout="chat", data={"path": "acme/chats", "config": "en"}),
    "dropout": chosen(dropout={"resid_pdrop": 0.1, "embd_pdrop": 0.1}),
    "whole": chosen(dtype="fp16", targets=("model.layers.0.self_attn.q_proj", "lm_head")),
}


def keys(tool: str, part: str) -> set[str]:
    """Return the keys that a tool knows in a part of its files."""
    return set(KEYS[tool][part].split())


def script(case: Chosen) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of SFTConfig and LoraConfig in TRL's script."""
    tree = ast.parse(trl.recipe(case)[trl.FILE])
    calls = {
        node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {each.arg for each in calls["SFTTrainer"].keywords} <= keys("trl", "SFTTrainer")
    config_, lora = (
        {k.arg or "": ast.literal_eval(k.value) for k in calls[n].keywords} for n in ("SFTConfig", "LoraConfig")
    )
    return config_, lora


def texts(case: Chosen) -> dict[str, str]:
    """Return the text of each tool's files."""
    return {tool: "\n".join(recipe(case).values()) for tool, recipe in RECIPES.items()}
