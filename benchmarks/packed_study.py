"""Compare whole demo studies: regret against CPU-seconds, with packs of several sizes and with sequential PEFT.

    python benchmarks/packed_study.py --seeds 4 --out packed-study.csv

Every contender runs its studies of 50 trials, and each trial is also scored on the verdict items, which no optimiser
sees. The regret of a study after n trials is the best verdict score that any study of the run ended with, less the
verdict score of the trial that is best on the search items. A trial's scores are the same with either engine (that is
tested, and shown for a few trials of this run), so the trials of all studies are trained in common packs, and each
contender is charged what a trial costs it. That is CPU-seconds per trial, measured in this run for packs of each size
(without neighbours) and for PEFT, one trial at a time, with the fastest micro-batch and scoring batch of those tried;
and the CPU time of its optimiser's proposals, measured on the spot.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import partune as pt
from partune import config
from partune.demo import DIRECTORY
from partune.objectives.finetune import FineTune
from partune.optimizers import optimizer
from partune.trial import Observation, Trial

BUDGET = 50
PARTS = frozenset({"search", "verdict"})
SPACE = pt.SPACES["lora"]


@dataclass
class ChargedStudy:
    """One study of a contender.

    Attributes:
        search: The search scores, by trial.
        verdict: The verdict scores, by trial.
        asked: The CPU-seconds of each trial's proposal.
        trials: The trials.
    """

    search: list[float] = field(default_factory=list)
    verdict: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)


def objective(engine: str, **run: Any) -> FineTune:
    """Return the demo's objective.

    Args:
        engine: Its engine.
        run: Further settings of the section `run`.
    """
    study = config.parse(config.load(DIRECTORY.parent / "study.yaml"))
    changed = study.model_copy(update={"run": study.run.model_copy(update={"engine": engine, **run})})
    return FineTune.of(changed)


class Ours:
    """An optimiser of partune, asked for several configurations at once.

    Args:
        seed: Its seed.
        name: Its name.
    """

    def __init__(self, seed: int, name: str = "bo") -> None:
        self.optimizer = optimizer(name, SPACE, seed=seed)

    def ask(self, n: int) -> list[Any]:
        """Return up to n proposals."""
        return self.optimizer.ask(n)

    def tell(self, asked: list[Any], found: list[Observation]) -> None:
        """Report results.

        Args:
            asked: The proposals.
            found: Their observations.
        """
        for proposal, observation in zip(asked, found, strict=True):
            self.optimizer.tell(proposal, observation)

    @staticmethod
    def config(asked: Any) -> Any:
        """Return a proposal's configuration."""
        return asked.config


class Peer:
    """An Optuna sampler, asked for one configuration at a time.

    Args:
        seed: Its seed.
        name: "TPE" or "GP".
    """

    def __init__(self, seed: int, name: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = {"TPE": optuna.samplers.TPESampler, "GP": optuna.samplers.GPSampler}[name](seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self, n: int) -> list[Any]:
        """Return n trials of Optuna's study."""
        trials = [self.study.ask() for _ in range(n)]
        for trial in trials:
            for name, each in SPACE.hyperparameters.items():
                draw = trial.suggest_int if isinstance(each, pt.Int) else trial.suggest_float
                draw(name, each.low, each.high, log=each.log)
        return trials

    def tell(self, asked: list[Any], found: list[Observation]) -> None:
        """Report results.

        Args:
            asked: The trials.
            found: Their observations.
        """
        import optuna

        for trial, observation in zip(asked, found, strict=True):
            done = np.isfinite(observation.score)
            state = optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.FAIL
            self.study.tell(trial, observation.score if done else None, state)

    @staticmethod
    def config(asked: Any) -> Any:
        """Return a trial's configuration."""
        return dict(asked.params)


def study(tuner: FineTune, optimiser: Any, width: int, seed: int, pool: ThreadPoolExecutor) -> ChargedStudy:
    """Run a study of BUDGET trials, a few at once.

    Args:
        tuner: The objective.
        optimiser: The contender's.
        width: How many trials to run at once.
        seed: The study's seed.
        pool: The threads that trials run in.
    """
    run = ChargedStudy()
    while len(run.search) < BUDGET:
        with PROPOSING:
            began = time.thread_time()
            asked = optimiser.ask(min(width, BUDGET - len(run.search)))
            took = time.thread_time() - began
        first = len(run.search)
        trials = [
            Trial(first + i, optimiser.config(each), seed=1000 * seed + first + i) for i, each in enumerate(asked)
        ]
        found = list(pool.map(lambda trial: tuner.evaluate(trial, None, PARTS), trials))
        optimiser.tell(asked, [each.blinded() for each in found])
        run.trials += trials
        run.search += [each.score for each in found]
        run.verdict += [each.scores.get("verdict", 0.0) for each in found]
        run.asked += [took / len(asked)] * len(asked)
    return run


PROPOSING = threading.Lock()  # one optimiser at a time, so that their CPU times do not mix


def trial_seconds(tuner: FineTune, width: int, repetitions: int) -> list[float]:
    """Return the CPU-seconds per trial of packs without neighbours, over Latin hypercube configurations.

    Args:
        tuner: The objective.
        width: The trials of a pack.
        repetitions: How often to measure.
    """
    found = []
    for repetition in range(repetitions):
        proposals = optimizer("lhs", SPACE, seed=repetition).ask(max(width, 4))[:width]
        trials = [Trial(n, proposal.config, seed=n) for n, proposal in enumerate(proposals)]
        with ThreadPoolExecutor(width) as pool:
            began = time.process_time()
            list(pool.map(tuner.evaluate, trials))
            found.append((time.process_time() - began) / width)
    return found


def tuned_peft() -> tuple[FineTune, str]:
    """Return PEFT's engine with the fastest micro-batch and scoring batch of those tried, and these in words."""
    best: tuple[float, FineTune, str] | None = None
    for micro in (2, 4, 8):
        for batch in (16, 64, 256):
            tuner = objective("peft")
            tuner.config = tuner.config.model_copy(
                update={
                    "training": tuner.config.training.model_copy(update={"micro_batch_size": micro, "steps": 20}),
                    "validation": tuner.config.validation.model_copy(update={"batch_size": batch}),
                }
            )
            trial_seconds(tuner, 1, 1)
            took = min(trial_seconds(tuner, 1, 2))
            if best is None or took < best[0]:
                best = took, tuner, f"micro-batch {micro}, scoring batch {batch}"
    assert best is not None
    _, tuner, words = best
    tuner.config = tuner.config.model_copy(update={"training": tuner.config.training.model_copy(update={"steps": 100})})
    return tuner, words


def curve(run: ChargedStudy, cost: float, width: int, times: list[float], top: float) -> list[float]:
    """Return the regret at some times; nan before the first round has ended.

    Args:
        run: The study.
        cost: The CPU-seconds per trial.
        width: The trials per round.
        times: The times, in CPU-seconds.
        top: The verdict score that regrets are relative to.
    """
    spent, ends = 0.0, []
    for first in range(0, len(run.search), width):
        count = len(run.search[first : first + width])
        spent += sum(run.asked[first : first + count]) + cost * count
        ends.append((spent, first + count))
    found = []
    for moment in times:
        n = max((count for end, count in ends if end <= moment), default=0)
        leader = int(np.argmax(run.search[:n])) if n else None
        found.append(float("nan") if leader is None else top - run.verdict[leader])
    return found


def main() -> None:
    """Measure costs, run every contender's studies, write the curves and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--peers", nargs="*", default=["TPE", "GP"])
    parser.add_argument("--out", default="packed-study.csv")
    arguments = parser.parse_args()

    tuner = objective("packed", pack=16)
    tuner.prepare()
    automatic = objective("packed", pack="auto").count_slots()
    print(f"automatic pack: {automatic}", flush=True)
    costs = {f"K={k}": statistics.median(trial_seconds(tuner, k, 3)) for k in arguments.widths}
    peft, words = tuned_peft()
    costs["peft"] = statistics.median(trial_seconds(peft, 1, 4))
    for name, cost in costs.items():
        print(f"{name}: {cost:.2f} CPU-seconds per trial, {costs['peft'] / cost:.2f} of PEFT's speed", flush=True)
    print(f"PEFT tuned: {words}")

    contenders: dict[str, tuple[Callable[[int], Any], int, float]] = {
        f"packs of {k}, bo": (Ours, k, costs[f"K={k}"]) for k in arguments.widths
    }
    for name in arguments.peers:
        contenders[f"PEFT, Optuna {name}"] = ((lambda seed, name=name: Peer(seed, name)), 1, costs["peft"])
    runs: dict[str, list[ChargedStudy]] = {}
    for name, (make, width, _) in contenders.items():
        began = time.monotonic()
        with ThreadPoolExecutor(arguments.seeds) as studies, ThreadPoolExecutor(arguments.seeds * width) as pool:
            each = lambda seed: study(tuner, make(seed), width, seed, pool)  # noqa: B023, E731
            runs[name] = list(studies.map(each, range(arguments.seeds)))
        last = [run.verdict[int(np.argmax(run.search))] for run in runs[name]]
        print(f"{name}: verdict {np.mean(last):.3f} after 50, {time.monotonic() - began:.0f} s", flush=True)
        score, trial = max(
            ((each.verdict[n], each.trials[n]) for each in runs[name] for n in range(BUDGET)), key=lambda pair: pair[0]
        )
        print(f"  best verdict score of a trial {score:.3f}: seed {trial.seed}, {dict(trial.config)}", flush=True)
    if 1 in arguments.widths:
        contenders["PEFT, bo"], runs["PEFT, bo"] = (Ours, 1, costs["peft"]), runs["packs of 1, bo"]

    top = max(run.verdict[int(np.argmax(run.search))] for each in runs.values() for run in each)
    times = [5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0]
    with open(arguments.out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["contender", "seed", "seconds", "regret"])
        print(f"regret (best verdict score {top:.3f}) at CPU-seconds", *(f"{t:.0f}" for t in times), sep="\t")
        for name, (_, width, cost) in contenders.items():
            curves = [curve(run, cost, width, times, top) for run in runs[name]]
            for seed, values in enumerate(curves):
                writer.writerows([name, seed, moment, value] for moment, value in zip(times, values, strict=True))
            means = np.mean(curves, axis=0)
            errors = np.std(curves, axis=0, ddof=1) / np.sqrt(len(curves)) if len(curves) > 1 else np.zeros(len(means))
            cells = [f"{m:.3f}±{e:.3f}" for m, e in zip(means, errors, strict=True)]
            print(name, *cells, sep="\t", flush=True)


if __name__ == "__main__":
    main()
