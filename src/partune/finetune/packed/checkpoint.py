"""Where a trial stands between two of its steps, in a folder: what was broken off goes on from there.

The batches follow from the study's seed and dropout's masks from trial, step and position, so that step, adapter and
optimiser state are all that a training consists of: one that goes on ends as an unbroken one does.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from partune.finetune.adapter import written

if TYPE_CHECKING:
    from partune.finetune.packed.adapters import Weights

FILE = "state.safetensors"
PARTS = ("weights", "first", "second")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A trial after some of its optimiser steps.

    Attributes:
        step: Steps taken.
        losses: Of those steps.
        rungs: Scores at the rungs that it passed.
        tokens: Tokens read so far.
        train_seconds: Its share of the training time so far.
        score_seconds: Its share of the scoring time so far.
        weights: Adapter, A (d_in, r) and B (r, d_out) by layer.
        first: First moments, the same way; empty where no step is left.
        second: Second moments, the same way; empty where no step is left.
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


def folder(adapter: Path) -> Path:
    """Return the checkpoint's folder: beside the adapter that the trial will have, hidden as drafts are."""
    return adapter.parent / f".{adapter.name}-checkpoint"


def save(adapter: Path, identity: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Write a checkpoint over one that is there.

    Args:
        adapter: Folder of the adapter that the trial will have.
        identity: What decides the training, as plain data; another training does not go on from here.
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
    """Return the checkpoint of a training; None where there is none that can be read.

    Args:
        adapter: Folder of the adapter that the trial will have.
        identity: What decides the training, as plain data.
    """
    try:
        with safe_open(str(folder(adapter) / FILE), framework="pt") as file:
            metadata = file.metadata()
            # Through JSON and back, so that both have lost what JSON cannot keep: tuples and integer keys.
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
        log.warning("What was saved of a trial that was broken off cannot be read, it starts again: %s", error)
        return None


def remove(adapter: Path) -> None:
    """Remove an adapter's checkpoint, if there is one."""
    shutil.rmtree(folder(adapter), ignore_errors=True)
