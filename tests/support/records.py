"""Records of a small study, and what goes into them."""

from __future__ import annotations

import numpy as np

from partune import Choice, Float, Int, Observation, Space
from partune.trial import Trial

SPACE = Space(
    learning_rate=Float(1e-6, 1e-2, log=True),
    lora_r=Int(2, 64, log=True),
    dropout=Float(0, 0.5),
    optimizer=Choice(["adamw", "sgd"]),
    momentum=Float(0.0, 0.99, when={"optimizer": "sgd"}),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
)


HEADER = {"algorithm": "soo", "options": {}, "seed": 0}


def proposed(number: int, point: tuple[float, ...] = (0.5,) * 6) -> Trial:
    config = SPACE.decode(point)
    notes = ({"point": [0.1, 0.2], "mean": 1 / 3},)
    return Trial(number, config, point, seed=2**32 - 1 - number, notes=notes, told_before=number).started()


def finished(trial: Trial, score: float = 0.1 + 0.2) -> Trial:
    items = {"search/t/acc": np.array([1.0, 0.0])}
    observation = Observation({"score": score, "verdict": 1.0}, 0.01, cost={"seconds": 1.5}, items=items)
    return trial.finished(observation, told=trial.number)
