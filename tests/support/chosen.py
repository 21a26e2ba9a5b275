"""Trials to hand over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from partune import config
from partune.export.chosen import Chosen

HERE = Path("out/recipes")


def chosen(**given: Any) -> Chosen:
    """The field's defaults on Alpaca rows; given: fields of `Chosen`, of its sections as mappings."""
    sections = {
        "model": config.Model(**{"path": "acme/base-1b"} | given.pop("model", {})),
        "data": config.Data(**{"path": "rows.json", "max_length": 300} | given.pop("data", {})),
        "training": config.Training(**{"batch_size": 16, "epochs": 2.0} | given.pop("training", {})),
    }
    own: dict[str, Any] = {
        "rows": "alpaca",
        "examples": 1001,
        "dtype": "bf16",
        "targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "seed": 7,
        "order_seed": 3,
        "here": HERE,
    }
    return Chosen(**sections, **own | given)
