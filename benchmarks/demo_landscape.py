"""Measure the demo's landscape: what configurations score on a factory made by `python -m partune.demo.make`.

    python benchmarks/demo_landscape.py [--files DIR] [--configurations 32] [--seed 0]

Prints a Markdown table by bands of the learning rate: untouched base, the field's defaults, random configurations of
the demo's own space, and the best of these trained again with fresh seeds. No optimiser is involved.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partune import Observation, Trial, config, optimizer
from partune.demo import DIRECTORY
from partune.objectives.finetune import FineTune
from partune.space import Space

ALL = frozenset({"search", "verdict", "test"})


def objective(files: Path) -> tuple[FineTune, Space]:
    """Return the objective and the space of the demo's study, on the files of a factory."""
    mapping = config.load(DIRECTORY.parent / "study.yaml")
    mapping["model"] = str(files / "model")
    mapping["data"]["path"] = str(files / "instructions.jsonl")
    for part in ("validation", "test"):
        mapping[part]["tasks"] = [str(files / "tasks" / Path(task).name) for task in mapping[part]["tasks"]]
    study = config.parse(mapping)
    return FineTune.of(study), Space.parse(study.space or "lora")


def scores(observation: Observation) -> tuple[float, float]:
    """Return the validation score over all items and the test score; chance if the trial diverged."""
    if not observation.scores:
        return 0.25, 0.25
    test = next(
        v
        for k, v in observation.scores.items()
        if k.startswith("test/") and k.count("/") == 1 and f"{k}_stderr" in observation.scores
    )
    halves = [
        observation.items[name].mean()
        for part in ("search", "verdict")
        for name in observation.items
        if name.startswith(f"{part}/") and name.endswith("/acc_norm")
    ]
    return float(statistics.fmean(halves)), test


def row(name: str, scores: Sequence[tuple[float, float]]) -> str:
    """Return a row of the table: the means and maxima of some trials' validation and test scores.

    Args:
        name: What the trials are.
        scores: Validation and test score of each.
    """
    cells = [f"{statistics.fmean(column):.3f} / {max(column):.3f}" for column in zip(*scores, strict=True)]
    return f"| {name} | {len(scores)} | {' | '.join(cells)} |"


def main() -> None:
    """Score the base, the defaults and random configurations, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, default=DIRECTORY)
    parser.add_argument("--configurations", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tuner, space = objective(options.files)
    tuner.check(space)

    def run(configuration: Any, seed: int) -> tuple[tuple[float, float], Observation]:
        observation = tuner.evaluate(Trial(0, configuration, seed=seed), parts=ALL)
        return scores(observation), observation

    print("| learning rate | n | validation mean / max | test mean / max |\n|---|---|---|---|")
    print(row("untouched base", [scores(tuner.score_base(ALL))]), flush=True)
    print(row("the field's defaults (4 seeds)", [run(tuner.defaults, seed)[0] for seed in range(4)]), flush=True)
    for rate in (1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2):
        print(row(f"the defaults, but {rate:g}", [run({**tuner.defaults, "learning_rate": rate}, 0)[0]]), flush=True)
    found = []
    seconds = []
    for proposal in optimizer("random", space, seed=options.seed).ask(options.configurations):
        score, observation = run(proposal.config, proposal.number)
        seconds.append(observation.cost["seconds"])
        found.append((float(proposal.config["learning_rate"]), score, proposal.config))
    edges = [1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    for low, high in itertools.pairwise(edges):
        band = [score for rate, score, _ in found if low <= rate < high]
        if band:
            print(row(f"random, {low:g} - {high:g}", band))
    best = max(found, key=lambda each: each[1][0])
    again = [run(best[2], 1000 + seed)[0] for seed in range(4)]
    print(row("the best of these, 4 fresh seeds", again))
    print(f"\nBest: {dict(best[2])}")
    for name, column in zip(("validation", "test"), zip(*again, strict=True), strict=True):
        print(f"Standard deviation over its seeds, {name}: {statistics.stdev(column):.3f}")
    print(f"Median seconds per trial, all items of both tasks: {statistics.median(seconds):.1f}")


if __name__ == "__main__":
    main()
