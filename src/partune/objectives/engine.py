"""Make the engine that trains and scores the trials of a fine-tuning."""

from __future__ import annotations

from pathlib import Path

from partune import config
from partune.finetune.engines import Engine


def make_engine(study: config.StudyConfig, scratch: Path | None) -> Engine:
    """Make the engine that a study's section `run` names.

    Args:
        study: The study's settings.
        scratch: The folder for LitGPT's files, which only LitGPT's engine uses.
    """
    if study.run.engine == "litgpt":
        from partune.finetune.litgpt.engine import LitGPTEngine

        return LitGPTEngine(study, scratch)
    if study.run.engine == "packed":
        from partune.finetune.packed.engine import PackedEngine

        return PackedEngine(study)
    from partune.finetune.peft import PeftEngine

    return PeftEngine(study)
