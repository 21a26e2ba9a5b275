"""Compare rules for how many trials to run at once on workers with many slots: time and regret (docs/scaling.md).

    python benchmarks/worker_slots.py --seeds 6

A worker that holds k trials takes 1 + c (k - 1) times as long for each: with c = 1 packs gain nothing, with c = 0
neighbours are free. Studies are real (`Study.run`, `bo`); only the workers' time is simulated, in units of the time of
a trial that has its worker to itself.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Collection
from concurrent.futures import Future
from statistics import fmean, stdev
from typing import Any, ClassVar

import numpy as np

from partune.bench.search.problems import SUITES, Problem
from partune.objectives.synthetic import SYNTHETIC
from partune.runtime.threads import torch_threads
from partune.study import Study
from partune.trial import Config
from partune.workers.base import Workers

WORKERS, SLOTS = 4, 16
CV = 0.02  # the coefficient of variation of the trials' lengths
RULES: dict[str, Callable[[int, int], float]] = {  # the most trials at once, by budget and what remains of it
    "every slot": lambda budget, remaining: math.inf,
    "half the budget": lambda budget, remaining: budget / 2,
    "a quarter of the budget": lambda budget, remaining: budget / 4,
    "half of what remains": lambda budget, remaining: remaining / 2,
    "a quarter of what remains": lambda budget, remaining: remaining / 4,
}
CASES = [*itertools.product((50, 100), RULES), (150, "every slot"), (200, "every slot")]


class Packs(Workers):
    """Workers on a virtual clock, whose trials share their worker's speed.

    Args:
        most: Called with the trials that remain, returns how many may run at once.
        c: By how much each neighbour slows a trial down.
        seed: The seed of the trials' lengths.
    """

    remote: ClassVar[bool] = True

    def __init__(self, most: Callable[[int], float], c: float, seed: int) -> None:
        self._most, self._c = most, c
        self._packs: list[dict[Future[Any], tuple[float, Any]]] = [{} for _ in range(WORKERS)]  # work left, result
        self._remaining = 0
        self._rng = np.random.default_rng(seed)
        self.now = 0.0

    @property
    def count(self) -> int:
        """How many trials may run at once by the rule."""
        return min(WORKERS * SLOTS, max(WORKERS, math.ceil(min(self._most(self._remaining), WORKERS * SLOTS))))

    def clock(self) -> float:
        """Return the virtual time."""
        return self.now

    def remain(self, trials: int) -> None:
        """Take note of how many trials remain."""
        self._remaining = trials

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function at once, on the worker with the fewest trials; its future is settled in virtual time.

        Args:
            fn: The function.
            args: Its arguments.
            kwargs: Its keyword arguments.
        """
        future: Future[Any] = Future()
        min(self._packs, key=len)[future] = (1 + CV * self._rng.standard_normal(), fn(*args, **kwargs))
        return future

    def first(self, futures: Collection[Future[Any]]) -> set[Future[Any]]:
        """Advance the clock to the next end of a trial, and return the futures that have ended."""
        slow = [1 + self._c * (len(pack) - 1) for pack in self._packs]
        took = min(each * left for each, pack in zip(slow, self._packs, strict=True) for left, _ in pack.values())
        self.now += took
        for each, pack in zip(slow, self._packs, strict=True):
            for future, (left, result) in list(pack.items()):
                pack[future] = left - took / each, result
                if pack[future][0] < 1e-9:
                    future.set_result(pack.pop(future)[1])
        return {future for future in futures if future.done()}

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing, as nothing runs.

        Args:
            wait: Changes nothing here.
            cancel_futures: Changes nothing here.
        """


def problem(name: str) -> Problem:
    """Return the demo's landscape ("lora") or a synthetic function."""
    if name == "lora":
        return SUITES["demo"].make(["lora"])
    function = SYNTHETIC[name]
    return Problem(function.space, function, function.optimum)


def study(name: str, budget: int, rule: str, c: float, seed: int) -> tuple[float, float]:
    """Run a study and return its makespan and the regret of the trial with the best score.

    Args:
        name: The problem.
        budget: The study's trials.
        rule: How many trials may run at once.
        c: By how much each neighbour slows a trial down.
        seed: The seed.
    """
    searched, rng = problem(name), np.random.default_rng([seed, 7])

    def score(config: Config) -> float:
        return searched.evaluate(config, rng)

    workers = Packs(lambda remaining: RULES[rule](budget, remaining), c, seed)
    with torch_threads(1):
        trials = Study(searched.space, score, "bo", seed, workers=workers).run(budget).trials
    first = max(trials, key=lambda trial: trial.score)
    return workers.now, searched.optimum - searched.truth(first.config)


def main() -> None:
    """Run every rule on every problem and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    seeds = parser.parse_args().seeds
    print("| problem | c | trials | under way | time | regret |\n|---|---|---|---|---|---|")
    for name, c, (budget, rule) in itertools.product(("hartmann6", "lora"), (0.05, 0.24), CASES):
        runs = [study(name, budget, rule, c, seed) for seed in range(seeds)]
        regrets = [regret for _, regret in runs]
        error = stdev(regrets) / math.sqrt(seeds) if seeds > 1 else math.nan
        took = fmean(each for each, _ in runs)
        print(f"| {name} | {c} | {budget} | {rule} | {took:.2f} | {fmean(regrets):.4f} ± {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
