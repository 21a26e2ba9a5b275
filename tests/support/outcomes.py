"""Experiments for the tests: of a function, and of a simulated fine-tuning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from partune import Float, Int, Space, Study
from partune.experiment.calibration import Ladder
from partune.experiment.findings import Outcome
from partune.experiment.protocol import CALIBRATION, Plan, composed
from partune.trial import Observation, Trial
from tests.support.simulated import SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 4e-3, log=True), lora_r=Int(2, 64, log=True))
SEEDS = (0, 1, 2, 3, 4)
BUDGET = 6


class Tested(SimulatedTuning):
    """Scores the test task for every trial."""

    def evaluate(
        self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = ("search", "test")
    ) -> Observation:
        observation = super().evaluate(trial, adapter, {*parts, "test"})
        return dataclasses.replace(observation, cost={"seconds": 1.0})


def tuned(folder: Path, gains: dict[str, float], upper: str | None = None, seeds: tuple[int, ...] = SEEDS) -> Outcome:
    """gains: how much each algorithm's studies can gain."""
    given: dict[str, Any] = {
        "model": "m",
        "data": "d.json",
        "validation": {"tasks": ["v"]},
        "test": {"tasks": ["t"]},
        "space": SPACE.describe(),
        "search": {"budget": BUDGET},
        "protocol": {
            **({} if upper is None else {"upper": upper}),
            "algorithms": list(gains),
            "seeds": list(seeds),
            "calibration": 3,
            "most_epochs": 2,
            "out": str(folder),
        },
    }
    plan = Plan(composed(given, {}))
    for name, own in plan.studies(None).items():
        search = own.search
        objective = Tested(gain=gains[search.algorithm])
        Study(
            SPACE, objective, search.algorithm, seed=search.seed, directory=folder / name, options=search.options
        ).run(BUDGET).close()
    ladder = Space({**SPACE.hyperparameters, "epochs": Int(1, 2)})
    learning = {"options": {"configurations": 3}, "seed": seeds[0], "directory": folder / CALIBRATION}
    Study(ladder, lambda c: math.log(c["learning_rate"]) * c["epochs"], Ladder, **learning).run(6).close()
    return Outcome.read(plan)
