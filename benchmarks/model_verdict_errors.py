"""Count how often `partune verdict` is wrong about two simulated models, whose true gain is known.

    OMP_NUM_THREADS=1 python benchmarks/model_verdict_errors.py --pairs 2000

Each pair of models answers the same items once. Scores are of four kinds:

- right: right or wrong. B is right on an item with a chance of its own (Beta(2, 1)), and A answers one item in five
  anew with the same chance.
- rare: right or wrong, and A and B differ on few items, on which A only loses if it is worse.
- shares: scores from 0 to 1, such as ROUGE (Beta(2, 3) for B, plus normal noise of .1 for A).
- skewed: scores from 0 to 1. A gains a little on most items and loses much on one in ten.

In the first table A is as good as B: the share of BETTER or WORSE is that of false answers. In the second, A is worse
by the margin: the share of "no worse within the margin" (or BETTER) is that of false answers. In the third, three tasks
and their mean are answered together, with a margin; any false answer counts. docs/verdict.md has the tables.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import binomtest

from partune.verdict.models import bounded
from partune.verdict.models.answers import Question, answers
from partune.verdict.models.pairing import Measure, Paired

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, int, float], tuple[Array, Array]]

SIZES = (5, 20, 100, 500, 2000)
MARGIN = 0.05
MEASURE = Measure("score", "none", True)


def right(rng: np.random.Generator, n: int, loss: float) -> tuple[Array, Array]:
    """Return the right-or-wrong answers of A and B.

    Args:
        rng: The generator.
        n: The number of items.
        loss: How much less accurate A is.
    """
    chances = rng.beta(2, 1, n)
    b = rng.random(n) < chances
    a = np.where(rng.random(n) < 0.2, rng.random(n) < chances, b)
    return (a & (rng.random(n) >= loss * 1.5)).astype(float), b.astype(float)  # A is right on two items in three


def rare(rng: np.random.Generator, n: int, loss: float) -> tuple[Array, Array]:
    """Return right-or-wrong answers that rarely differ.

    Args:
        rng: The generator.
        n: The number of items.
        loss: How much less accurate A is.
    """
    luck, b = rng.random(n), np.ones(n)
    b[luck < 0.02] = 0.0  # won by A
    a = np.where((luck >= 0.02) & (luck < 0.04 + loss), 0.0, 1.0)
    return a, b


def shares(rng: np.random.Generator, n: int, loss: float) -> tuple[Array, Array]:
    """Return scores from 0 to 1.

    Args:
        rng: The generator.
        n: The number of items.
        loss: How much lower A's are.
    """
    b = 0.2 + 0.6 * rng.beta(2, 3, n)
    return b + np.clip(rng.normal(0, 0.07, n), -0.14, 0.14) - loss, b


def skewed(rng: np.random.Generator, n: int, loss: float) -> tuple[Array, Array]:
    """Return scores from 0 to 1 of which A gains little often and loses much rarely.

    Args:
        rng: The generator.
        n: The number of items.
        loss: How much lower A's are.
    """
    b = rng.uniform(0.5, 0.9, n)
    return b + np.where(rng.random(n) < 0.9, 0.05, -0.45) * rng.uniform(0.5, 1, n) - loss, b


KINDS: dict[str, Draw] = {"right": right, "rare": rare, "shares": shares, "skewed": skewed}
SLOWER = {"shares": 4, "skewed": 4}  # kinds whose tests take longer: so many times fewer pairs


def question(draw: Draw, rng: np.random.Generator, n: int, loss: float, task: str = "t") -> Question:
    """Return a question about a task with drawn scores.

    Args:
        draw: Draws the scores of A and B.
        rng: The generator.
        n: The number of items.
        loss: How much worse A is.
        task: The name of the task.
    """
    a, b = draw(rng, n, loss)
    documents = tuple(f"{task}{number}" for number in range(n))
    return Question(task, "task", [Paired(task, MEASURE, documents, np.ones(n), a[None], b[None])], [1.0])


def share(count: int, of: int) -> str:
    """Return a share in percent with its 95 % interval (Clopper and Pearson).

    Args:
        count: How many have the property.
        of: How many there are.
    """
    low, high = binomtest(count, of).proportion_ci(0.95)
    return f"{100 * count / of:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def differences(pairs: int) -> None:
    """Print how often equal models are told apart.

    Args:
        pairs: The number of pairs per row; a quarter of it for scores that are not right or wrong.
    """
    print("\nequal models: BETTER or WORSE, in percent")
    for name, draw in KINDS.items():
        times = pairs // SLOWER.get(name, 1)
        for n in SIZES:
            said = 0
            for seed in range(times):
                (found,) = answers([question(draw, np.random.default_rng([0, n, seed]), n, 0.0)])
                said += found.relation != "open"
            print(f"| {name} | {n:,} | {share(said, times)} |", flush=True)


def margins(pairs: int) -> None:
    """Print how often a model that is worse by the margin is called no worse or better.

    Args:
        pairs: The number of pairs per row; a quarter of it for scores that are not right or wrong.
    """
    print(f"\nworse by the margin of {MARGIN}: NO WORSE or BETTER; and with no difference: NO WORSE; in percent")
    for name, draw in KINDS.items():
        times = pairs // SLOWER.get(name, 1)
        for n in SIZES:
            wrong = seen = 0
            for seed in range(times):
                for loss in (MARGIN, 0.0):
                    rng = np.random.default_rng([1, n, seed])
                    (found,) = answers([question(draw, rng, n, loss)], MARGIN)
                    if loss:
                        wrong += found.within_margin or found.relation == "better"
                    else:
                        seen += found.within_margin
            print(f"| {name} | {n:,} | {share(wrong, times)} | {share(seen, times)} |", flush=True)


def tasks(pairs: int) -> None:
    """Print how often any answer on three tasks of 20, 100 and 500 items and on their mean is false.

    Args:
        pairs: The number of pairs per row; a quarter of it for scores that are not right or wrong.
    """
    print("\nthree tasks and their mean, with a margin: any false answer, in percent")
    for name, draw in KINDS.items():
        times = pairs // SLOWER.get(name, 1)
        for losses in ((0.0, 0.0, 0.0), (0.0, MARGIN, MARGIN)):
            wrong = 0
            for seed in range(times):
                rng = np.random.default_rng([2, seed])
                asked = [
                    question(draw, rng, n, loss, f"t{number}")
                    for number, (n, loss) in enumerate(zip((20, 100, 500), losses, strict=True))
                ]
                mean = Question("mean", "mean", [each.parts[0] for each in asked], [1 / 3] * 3)
                truth = (*losses, sum(losses) / 3)
                wrong += any(
                    found.relation == "better"
                    or (loss == 0 and found.relation == "worse")
                    or (loss == MARGIN and found.within_margin)
                    for found, loss in zip(answers([*asked, mean], MARGIN), truth, strict=True)
                )
            print(f"| {name} | {', '.join(f'{loss:g}' for loss in losses)} | {share(wrong, times)} |", flush=True)


TABLES = {"differences": differences, "margins": margins, "tasks": tasks}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--table", choices=TABLES, action="append")
    arguments = parser.parse_args()
    for chosen in arguments.table or TABLES:
        began = time.perf_counter()
        with mock.patch.object(bounded, "interval", return_value=(math.nan, math.nan)):  # it takes the longest
            TABLES[chosen](arguments.pairs)
        print(f"{time.perf_counter() - began:.0f} s", flush=True)
