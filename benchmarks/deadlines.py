"""Count how often a study with a limit in hours ends in time: whole studies of simulated trainings on a clock.

    OMP_NUM_THREADS=1 python benchmarks/deadlines.py --studies 40

Every study is real (`Study.run` with its baselines, search, confirmations, fresh runs, verdict and record); only the
trainings are simulated. A training takes 12 s, times a factor that either follows from its rank (a hyperparameter that
costs time, as epochs do) or is drawn anew for each run. `time.time` and `time.monotonic` are replaced by a clock that
only trainings and scorings move. docs/hours.md has the table.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from partune.objectives.base import Anchored
from partune.space import Float, Int, Space
from partune.study import Budget, Study, Watcher
from partune.trial import Config, Observation, Trial

SPACE = Space(learning_rate=Float(1e-5, 1e-2, log=True), lora_r=Int(2, 64, log=True))
MINUTES, TRAINING, SCORING, ITEMS = 10, 12.0, 2.0, 384
MIDDLE, WIDTH = math.log(math.sqrt(2 * 64)), math.log(64 / 2) / 2  # of the logarithm of the rank

Durations = Callable[[Trial], float]


class Clock:
    """The time in seconds; it moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Simulated(Anchored):
    """Trainings that take a clock's time. Their accuracy depends on the learning rate.

    Args:
        clock: The clock.
        durations: Returns the seconds of a trial's training.
        seed: The seed of the answers.
    """

    def __init__(self, clock: Clock, durations: Durations, seed: int) -> None:
        self.clock, self.durations, self.seed, self.runs = clock, durations, seed, 0

    @property
    def defaults(self) -> Config:
        """The field's defaults."""
        return {"learning_rate": 2e-4, "lora_r": 16}

    @property
    def zero(self) -> Config:
        """The defaults with learning rate 0."""
        return {**self.defaults, "learning_rate": 0.0}

    @property
    def summary(self) -> dict[str, Any]:
        """What a study records of the scoring."""
        return {"scoring": {"metric": "acc"}}

    def check(self, searched: Space) -> None:
        """Accept any space."""

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        """Train and score a trial."""
        return self._scored(trial, self.durations(trial))

    def score_base(self) -> Observation:
        """Score the base model."""
        return self._scored(None, SCORING)

    def score_zero(self, trial: Trial) -> Observation:
        """Return the base model's answers."""
        return self._scored(None, SCORING)

    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        """Train and score the defaults."""
        return self._scored(trial, self.durations(trial))

    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        """Train and score a fresh run."""
        return self._scored(trial, self.durations(trial))

    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        """Score the winner."""
        return self._scored(trial, SCORING)

    def disagreement(self, base: Observation, zero: Observation) -> str | None:
        """Find none."""
        return None

    def _scored(self, trial: Trial | None, seconds: float) -> Observation:
        self.clock.now += seconds
        self.runs += 1
        rate = 0.0 if trial is None else float(trial.config["learning_rate"])
        accuracy = 0.5 + (0.3 * math.exp(-(math.log10(rate / 1e-3) ** 2)) if rate else 0.0)
        draw = np.random.default_rng([self.seed, self.runs])
        items = {f"{part}/t/acc": (draw.random(ITEMS) < accuracy).astype(float) for part in ("search", "verdict")}
        score, verdict = (float(each.mean()) for each in items.values())
        stderr = math.sqrt(score * (1 - score) / ITEMS)
        scores = {"score": score, "score_stderr": stderr, "verdict": verdict, "verdict_stderr": stderr}
        return Observation(scores, stderr, cost={"seconds": seconds}, items=items)


class Silent(Watcher):
    """A watcher that drops the notes."""

    def noted(self, line: str) -> None:
        """Drop a note."""


def by_rank(spread: float, seed: int) -> Durations:
    """Return durations that follow from the rank; the factor is exp(spread) at both ends of its range."""
    return lambda trial: (
        TRAINING * math.exp(spread * (math.log(float(trial.config.get("lora_r", 11))) - MIDDLE) / WIDTH)
    )


def by_chance(spread: float, seed: int) -> Durations:
    """Return durations that are drawn for each run; the logarithm of the factor has this standard deviation."""
    return lambda trial: TRAINING * math.exp(spread * np.random.default_rng([seed, trial.seed]).standard_normal())


def run(durations: Durations, seed: int, confirm: int) -> tuple[float, int, bool]:
    """Run a study of ten minutes.

    Args:
        durations: Returns the seconds of a trial's training.
        seed: The study's seed.
        confirm: The number of trials to confirm.

    Returns:
        The share of the ten minutes that passed, the number of trials, and whether there is a verdict.
    """
    clock = Clock()
    time.time = time.monotonic = clock  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        objective = Simulated(clock, durations, seed)
        study = Study(SPACE, objective, "lhs", seed, Path(folder) / "s", confirm=confirm, watcher=Silent())
        began = clock.now
        study.run(Budget(hours=MINUTES / 60))
        study.close()
        return (clock.now - began) / (60 * MINUTES), len(study.trials), study.verdict is not None


def main() -> None:
    """Run the studies and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=40)
    arguments = parser.parse_args()
    print("| durations | confirm | time used: median (smallest to largest) | over 1.05 | trials | verdicts |")
    print("|---|---|---|---|---|---|")
    for kind, spread in ((by_rank, 0.3), (by_rank, 0.7), (by_chance, 0.1), (by_chance, 0.3), (by_chance, 0.6)):
        for confirm in (0, 3):
            ends = [run(kind(spread, seed), seed, confirm) for seed in range(arguments.studies)]
            used = [end[0] for end in ends]
            trials = [end[1] for end in ends]
            print(
                f"| {kind.__name__.replace('_', ' ')}, {spread} | {confirm} "
                f"| {np.median(used):.2f} ({min(used):.2f} to {max(used):.2f}) "
                f"| {sum(share > 1.05 for share in used)} of {len(used)} "
                f"| {min(trials)} to {max(trials)} | {sum(end[2] for end in ends)} of {len(ends)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
