"""Score a study's export: load it from disk as its users will, and score it on the study's held-out items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partune import config
from partune.errors import UserError
from partune.objectives.finetune import FineTune
from partune.record.record import CONFIG, Record
from partune.runtime.isolation import quiet
from partune.trial.names import ItemSet

HELD_OUT = frozenset({ItemSet.VERDICT})


def rescore(
    record: Record, folder: Path, merged: bool, dtype: str, quantized: bool = False
) -> Mapping[str, np.ndarray[Any, Any]]:
    """Score an export on the study's held-out items, and return the per-item results by name.

    Args:
        record: The study's record.
        folder: The export: an adapter, or a model with the adapter merged in.
        merged: Whether the export is a model.
        dtype: The precision of the computation, the same as in the exported trial.
        quantized: Whether the export is a quantized model.

    Raises:
        UserError: The export cannot be loaded or scored, or the items are not those on record.
    """
    with quiet(), FineTune.of(_study(record, folder, merged, dtype, quantized)) as objective:
        # The merged model's weights differ from the base model's; items and validation rows must be those of the study.
        objective.expect(
            {
                name: content
                for name, content in record.contents.items()
                if not (merged and name.startswith("the model"))
            }
        )
        objective.prepare()
        engine = objective.engine
        outcome = engine.score_base(dtype, HELD_OUT) if merged else engine.score_adapter(dtype, folder, HELD_OUT)
    if isinstance(outcome.scores, Exception):
        raise UserError(f"the export cannot be scored: {outcome.scores}") from outcome.scores
    return outcome.scores.items


def _study(record: Record, folder: Path, merged: bool, dtype: str, quantized: bool) -> config.StudyConfig:
    """Return a study that scores the export on the items of a recorded study."""
    sections = dict(record.header["objective"])
    # Engine litgpt scores with lm-evaluation-harness, as engine peft does. Layers in int8 (LLM.int8) choose the columns
    # that they compute in 16 bits by all tokens of a forward pass, so requests must not share rows, as packs do.
    engine = "peft" if sections.pop("engine", None) is not None or quantized else "packed"
    model, validation = sections["model"], sections["validation"]
    if merged:
        model = {**model, "path": str(folder), "revision": None, "quantize": "none"}
    directory = record.directory
    if directory is not None and (recorded := directory / CONFIG).is_file():  # studies begun from Python have no file
        trusted = (config.load(recorded).get("validation") or {}).get("trust_task_code", False)
        validation = {**validation, "trust_task_code": trusted}
    return config.parse(
        {
            "objective": "finetune",
            "model": model,
            "data": sections["data"],
            "training": {**sections["training"], "dtype": dtype},
            "validation": validation,
            "search": {"seed": record.header["seed"]},
            "run": {"engine": engine},
        }
    )
