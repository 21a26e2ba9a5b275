"""Count how often a verdict is wrong and how often it sees a gain: whole studies on a landscape whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/verdict_errors.py --studies 400

Every study is real (`Study.run` with its baselines, search, winner rule, fresh runs and record); only the answers are
drawn. All configurations but the defaults have one true accuracy, `gain` above theirs, on 384 search and 384 verdict
items. The seeds of a run shift its accuracy by a normal draw with the seeds' standard deviation, and every run draws
its own answers. 70 % of the items are answered correctly with probability .904 and 30 % with .096, so that without
noise of seeds the gain of one adapter over another has the standard error of a real study, .021. docs/report.md has
the table.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from partune.objectives.base import Anchored
from partune.space import Float, Int, Space
from partune.study import Study
from partune.trial import Config, Observation, Trial
from partune.verdict.paired import Comparison, compare
from partune.verdict.winner import on_verdict_items

SPACE = Space(
    learning_rate=Float(1e-5, 1e-2, log=True),
    lora_r=Int(2, 64, log=True),
    lora_alpha=Int(1, 64, log=True),
    lora_dropout=Float(0.0, 0.5),
    weight_decay=Float(1e-5, 1e-1, log=True),
)
DEFAULTS = {"learning_rate": 2e-4, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "weight_decay": 0.01}
ITEMS = 384
BASE = -0.3  # the base's accuracy less the defaults'
RIGHT = 0.904


class Flat(Anchored):
    """A fine-tuning whose configurations are all equally good.

    Args:
        sd: The standard deviation of the accuracy over seeds.
        gain: How much more accurate they are than the defaults.
        world: The seed of the items and answers.
    """

    def __init__(self, sd: float, gain: float, world: int) -> None:
        self.sd, self.gain, self.world = sd, gain, world
        rng = np.random.default_rng([world, 0])
        self.chances = {
            part: np.where(rng.random(ITEMS) < 0.7, RIGHT, 1 - RIGHT) for part in ("search", "verdict", "test")
        }

    @property
    def defaults(self) -> Config:
        """The field's defaults."""
        return DEFAULTS

    @property
    def zero(self) -> Config:
        return {**self.defaults, "learning_rate": 0.0}

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the study's record says of the objective."""
        return {"scoring": {"metric": "acc"}}

    def check(self, searched: Space) -> None:
        """Accept any space."""

    def evaluate(
        self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = frozenset({"search"})
    ) -> Observation:
        """Return drawn answers to the items of some parts.

        Args:
            trial: The trial.
            adapter: Where its adapter belongs; None to keep none.
            parts: The parts to score.
        """
        if adapter is not None:
            adapter.mkdir(parents=True, exist_ok=True)
        if not trial.config["learning_rate"]:
            return self._answers(BASE, [0], parts)
        seeds = [trial.seed, 0 if trial.order is None else trial.order]
        luck = np.random.default_rng([self.world, 1, *seeds]).normal(0, self.sd)
        return self._answers(luck + self.gain * (dict(trial.config) != DEFAULTS), [1, *seeds], parts)

    def score_base(self) -> Observation:
        """Return the base's observation."""
        return self._answers(BASE, [0], ("search", "verdict"))

    def score_zero(self, trial: Trial) -> Observation:
        """Return the observation with learning rate 0."""
        return self.evaluate(trial)

    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        """Return the observation of the defaults on all items.

        Args:
            trial: The trial.
            adapter: Where its adapter belongs.
        """
        return self.evaluate(trial, adapter, ("search", "verdict"))

    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        """Return the observation of a fresh run on all items.

        Args:
            trial: The trial.
            adapter: Where its adapter belongs.
        """
        return self.evaluate(trial, adapter, ("search", "verdict"))

    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        """Return the observation of the winner on all items.

        Args:
            trial: The trial.
            adapter: Where its adapter belongs.
        """
        return self.evaluate(trial, adapter, ("search", "verdict"))

    def disagreement(self, base: Observation, zero: Observation) -> str | None:
        """Return that the check with learning rate 0 agrees with the base.

        Args:
            base: The base's observation.
            zero: The observation with learning rate 0.
        """
        return None

    def _answers(self, shift: float, seeds: list[int], parts: Collection[str]) -> Observation:
        scores, items = {}, {}
        for place, part in enumerate(("search", "verdict")):
            if part in parts:
                draws = np.random.default_rng([self.world, 2, place, *seeds]).random(ITEMS)
                right = (draws < self.chances[part] + shift).astype(float)
                name = "score" if part == "search" else part
                items[f"{part}/t/acc"], scores[name] = right, float(right.mean())
                scores[f"{name}_stderr"] = float(right.std(ddof=1) / math.sqrt(ITEMS))
        return Observation(scores, scores["score_stderr"], items=items)


@dataclass(frozen=True)
class Outcome:
    """What a study said of its winner against the defaults.

    Attributes:
        verdicts: The comparison at each look.
        adapters: The comparison of two adapters alone.
        better: Whether the verdict was BETTER, at each look.
    """

    verdicts: list[Comparison]
    adapters: Comparison
    better: list[bool]


def run(sd: float, gain: float, world: int, trials: int, algorithm: str, budgets: Iterable[int] = ()) -> Outcome:
    """Run one study, and continue it to further budgets, with a look at each.

    Args:
        sd: The standard deviation of the accuracy over seeds.
        gain: How much more accurate all configurations are than the defaults.
        world: The seed of the study, its items and answers.
        trials: The trials at the first look.
        algorithm: Its algorithm.
        budgets: The trials at further looks.
    """
    with tempfile.TemporaryDirectory() as folder:
        study = Study(SPACE, Flat(sd, gain, world), algorithm, seed=world, directory=Path(folder) / "s")
        verdicts, better = [], []
        for budget in (trials, *budgets):
            found = study.run(budget).verdict
            assert found is not None
            assert found.over_defaults is not None
            verdicts.append(found.over_defaults)
            better.append("defaults" in found.better_than)
            if len(verdicts) == 1:
                sides = [study.record.items("anchors", study.anchors[name].number) for name in ("winner", "defaults")]
                adapters = compare(*(on_verdict_items([side], "acc") for side in sides))
        study.close()
    return Outcome(verdicts, adapters, better)


def interval(count: int, of: int) -> str:
    """Return a share with its 95 % interval (Clopper and Pearson 1934).

    Args:
        count: How many have the property.
        of: How many there are.
    """
    from scipy.stats import binomtest

    low, high = binomtest(count, of).proportion_ci(0.95)
    return f"{count / of:.3f} ({low:.3f}..{high:.3f})"


def table(studies: int, trials: int, algorithm: str) -> None:
    """Print the rates of verdicts for several gains and standard deviations of seeds.

    Args:
        studies: The studies per row.
        trials: The trials per study.
        algorithm: Their algorithm.
    """
    print(f"{studies} studies per row, {trials} trials by {algorithm}; BETTER than the defaults, and coverage at 95 %")
    print(
        f"{'seed sd':>7} {'gain':>5}  {'4 fresh runs: better':>22} {'coverage':>22}  {'adapters: better':>22} coverage"
    )
    for sd, gain in ((0.0, 0.0), (0.01, 0.0), (0.02, 0.0), (0.03, 0.0), (0.0, 0.03), (0.01, 0.03), (0.03, 0.03)):
        began = time.perf_counter()
        found = [run(sd, gain, world, trials, algorithm) for world in range(studies)]
        cells = []
        for sides in ([each.verdicts[0] for each in found], [each.adapters for each in found]):
            covered = sum(side.interval[0] <= gain <= side.interval[1] for side in sides)
            cells += [interval(sum(side.better for side in sides), studies), interval(covered, studies)]
        print(f"{sd:>7} {gain:>5}  {cells[0]:>22} {cells[1]:>22}  {cells[2]:>22} {cells[3]}", end="  ")
        print(f"{(time.perf_counter() - began) / studies:.2f} s per study", flush=True)


def looks(studies: int, trials: int, algorithm: str, sd: float) -> None:
    """Print how often a study that is looked at seven times says BETTER although there is no gain.

    Args:
        studies: How many studies to run.
        trials: The trials at the first look.
        algorithm: Their algorithm.
        sd: The standard deviation of the accuracy over seeds.
    """
    budgets = [trials + 5 * step for step in range(1, 7)]
    found = [run(sd, 0.0, world, trials, algorithm, budgets) for world in range(studies)]
    ever, first = sum(any(each.better) for each in found), sum(each.better[0] for each in found)
    print(f"seed sd {sd}, seven looks, {trials} to {budgets[-1]} trials, {studies} studies:", end=" ")
    print(f"BETTER at any look {interval(ever, studies)}, at the first {interval(first, studies)}", flush=True)


def most(studies: int, share: float) -> int:
    """Return the largest count that a true share explains at 99 %, one-sided.

    Args:
        studies: How many studies there are.
        share: The true share.
    """
    return int(binom(studies, share).ppf(0.99))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--algorithm", default="auto")
    parser.add_argument("--looks", action="store_true", help="look seven times instead")
    given = parser.parse_args()
    if given.looks:
        for deviation in (0.0, 0.02):
            looks(given.studies, given.trials, given.algorithm, deviation)
    else:
        table(given.studies, given.trials, given.algorithm)
