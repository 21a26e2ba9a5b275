"""A study for the tests of trackers: every other trial fails, and the others have the course of a training."""

from __future__ import annotations

import numpy as np

from partune.space import Float, Int, Space
from partune.trial import Config, Observation
from partune.trial.names import TRAINING_LOSS

SPACE = Space(learning_rate=Float(1e-5, 1e-2, log=True), lora_r=Int(2, 64))


def curve(config: Config) -> list[float]:
    """The training losses of a configuration."""
    return [float(config["lora_r"]) / (1 + step) for step in range(4)]


def scored(config: Config) -> Observation:
    """A score that is the rank; odd ranks fail."""
    if config["lora_r"] % 2:
        raise ArithmeticError("an odd rank")
    return Observation({"score": float(config["lora_r"])}, items={TRAINING_LOSS: np.array(curve(config))})
