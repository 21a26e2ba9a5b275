"""Fine-tunings of a tiny model, as the tests of objective and engines ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune.finetune import training as trainings
from partune.finetune.packed.residents import Residents
from partune.objectives.finetune import FineTune
from partune.space import Float, Int, Space
from partune.trial import Observation

SPACE = Space(learning_rate=Float(1e-5, 1e-1, log=True), lora_r=Int(2, 8))


# Where an engine trains, for tests that break it or look on.
TRAINING = {"packed": (Residents, "step"), "peft": (trainings, "accumulate")}


@pytest.fixture
def make(folders: dict[str, Path], data_file: Path, task_file: Path) -> Any:
    def build(**changes: Any) -> FineTune:
        settings: dict[str, Any] = {"model": folders["llama"], "data": data_file, "task": task_file}
        settings["training"] = {"steps": 3, "batch_size": 4}
        settings["run"] = {"device": "cpu", "pack": 2} | changes.pop("run", {})
        return FineTune(**settings | changes)

    return build


@pytest.fixture(scope="module", params=list(TRAINING))
def tuner(
    folders: dict[str, Path], data_file: Path, task_file: Path, test_file: Path, request: pytest.FixtureRequest
) -> FineTune:
    """One resident objective for the tests that only ask, with each engine."""
    training, run = {"steps": 3, "batch_size": 4}, {"device": "cpu", "engine": request.param, "pack": 2}
    return FineTune(folders["llama"], data_file, task_file, test=test_file, training=training, run=run)


def same(a: Observation, b: Observation) -> bool:
    shared = [name for name in a.items if name in b.items]
    return bool(shared) and all(np.array_equal(a.items[name], b.items[name], equal_nan=True) for name in shared)


def near(a: Observation, b: Observation) -> bool:
    """The same but for the last bits, as a pack's products are not summed in PEFT's order."""
    shared = [name for name in a.items if name in b.items]
    return bool(shared) and all(np.allclose(a.items[n], b.items[n], atol=1e-4, equal_nan=True) for n in shared)
