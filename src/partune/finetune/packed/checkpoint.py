"""Save a trial's training state in a folder, so that an interrupted trial can resume.

Batches follow from the study's seed, and dropout masks from trial, step and position. So the step, the adapter and the
optimiser's state are the complete state of a training. A resumed training ends with the same adapter as a training that
was never interrupted.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from partune.finetune.adapter import written

if TYPE_CHECKING:
    from partune.finetune.packed.adapters import Weights

FILE = "state.safetensors"
PARTS = ("weights", "first", "second", "best")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A trial after some of its optimiser steps.

    Attributes:
        step: The number of steps taken.
        losses: The losses of the steps taken.
        rungs: The scores at the rungs passed, which are steps at which trials are compared for early stopping.
        tokens: The number of tokens read so far.
        train_seconds: The trial's share of the training time so far.
        score_seconds: The trial's share of the scoring time so far.
        weights: The adapter: A (d_in, r) and B (r, d_out) by layer.
        first: The optimiser's first moments, in the same form as `weights`; empty if no step is left.
        second: The optimiser's second moments, in the same form as `weights`; empty if no step is left.
        points: The scores at the points passed.
        best: The adapter at the best of these points, in the same form as `weights`; empty if the last is kept.
    """

    step: int
    losses: list[float]
    rungs: list[float]
    tokens: int
    train_seconds: float
    score_seconds: float
    weights: Weights
    first: Weights
    second: Weights
    points: list[float] = field(default_factory=list)
    best: Weights = field(default_factory=dict)


def folder(adapter: Path) -> Path:
    """Return the checkpoint's folder, a hidden folder beside the adapter's future folder."""
    return adapter.parent / f".{adapter.name}-checkpoint"


def save(adapter: Path, identity: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Write a checkpoint, which replaces an earlier one.

    Args:
        adapter: The folder in which the trial will save its adapter.
        identity: Plain data that determines the training. Only a trial with equal data resumes from the checkpoint.
        checkpoint: The trial's state.
    """
    numbers = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__ if name not in PARTS}
    tensors = {
        f"{part}/{layer}/{letter}": matrix.detach().cpu().contiguous()
        for part in PARTS
        for layer, pair in getattr(checkpoint, part).items()
        for letter, matrix in zip("AB", pair, strict=True)
    }
    with written(folder(adapter)) as draft:
        save_file(tensors, str(draft / FILE), {"identity": json.dumps(identity), "numbers": json.dumps(numbers)})


def load(adapter: Path, identity: dict[str, Any]) -> Checkpoint | None:
    """Return the checkpoint of a training; None if it does not exist, belongs to another training, or is damaged.

    Args:
        adapter: The folder in which the trial will save its adapter.
        identity: Plain data that determines the training.
    """
    try:
        with safe_open(str(folder(adapter) / FILE), framework="pt") as file:
            metadata = file.metadata()
            # Converted to JSON and back, because the saved identity lost what JSON cannot hold: tuples, integer keys.
            if json.loads(metadata["identity"]) != json.loads(json.dumps(identity)):
                return None
            parts: dict[str, Any] = {part: {} for part in PARTS}
            for name in file.keys():  # noqa: SIM118 - no mapping
                if name.endswith("/A"):
                    part, layer, _ = name.split("/")
                    parts[part][layer] = file.get_tensor(name), file.get_tensor(f"{part}/{layer}/B")
            return Checkpoint(**json.loads(metadata["numbers"]), **parts)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        log.warning("The checkpoint of an interrupted trial cannot be read, so the trial starts again: %s", error)
        return None


def remove(adapter: Path) -> None:
    """Remove an adapter's checkpoint, if there is one."""
    shutil.rmtree(folder(adapter), ignore_errors=True)
