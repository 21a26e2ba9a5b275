"""Compare the predicted power of the verdict with the share of simulated studies whose verdict is BETTER.

    OMP_NUM_THREADS=1 python benchmarks/verdict_power.py

Each study draws answers of a base model, of runs of the defaults and of fresh runs of a winner that is better than both
by a known gain, and compares them with the code of the verdict (`verdict.paired.compare`, at the level of the first
look). The prediction (`verdict.power`) knows the numbers of items and runs, the gain, and how scores vary, measured on
40,000 other items of the same kind; it does not know how answers are drawn, which is not its own model:

    choices   70 % of the items are answered rightly with probability .9, the others with .1
    match     exact matches of generated answers: items are right with probability beta(.3, 2), so that most never are
    loss      items are rows of 1 + lognormal(2.5, 1) tokens, which are their weights; an item's loss per token is
              lognormal, a run multiplies it by a factor near 1, and short rows vary more: by 1 / sqrt(tokens)
    function  numbers from 0 to 1, many of them exactly 0 or 1, as an overlap of words is

Each configuration treats a fifth of the items in its own way (for losses and numbers: shifts each item by a draw of its
own). A gain and the luck of a seed shift the log-odds of answers, the logarithm of losses, or numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from partune.verdict import tetrachoric
from partune.verdict.paired import compare, level
from partune.verdict.power import Design, chance, chance_in_order, smallest
from partune.verdict.runs import Runs
from partune.verdict.variation import Variation, density

MANY = 40_000
LUCK = 0.08  # the standard deviation of a run's luck, in units of the shifts
Array = np.ndarray


class Items(NamedTuple):
    """Items, and how a configuration answers them.

    Attributes:
        weights: (n,), the weights of the items.
        fresh: Draws what another configuration does with the items, (n,): a chance in log-odds, or a mean.
        answers: Draws the scores of runs, (runs, n), from these numbers and the shifts of the runs, (runs, 1).
    """

    weights: Array
    fresh: Callable[[], Array]
    answers: Callable[[Array, Array], Array]


def choices(n: int, rng: np.random.Generator) -> Items:
    """Draw items with choices.

    Args:
        n: The number of items.
        rng: The source of all draws.
    """
    return _answered(lambda size: np.where(rng.random(size) < 0.7, 0.9, 0.1), n, rng)


def match(n: int, rng: np.random.Generator) -> Items:
    """Draw items that are answered in free text; see `choices` for the arguments."""
    return _answered(lambda size: np.clip(rng.beta(0.3, 2.0, size), 1e-6, 1 - 1e-6), n, rng)


def _answered(chances: Callable[[int], Array], n: int, rng: np.random.Generator) -> Items:
    shared = chances(n)

    def fresh() -> Array:
        return logit(np.where(rng.random(n) < 0.2, chances(n), shared))

    def answers(odds: Array, shifts: Array) -> Array:
        right = expit(odds + shifts)
        return (rng.random(right.shape) < right).astype(float)

    return Items(np.ones(n), fresh, answers)


def loss(n: int, rng: np.random.Generator) -> Items:
    """Draw rows with their numbers of tokens; see `choices` for the arguments."""
    tokens = 1 + np.floor(np.random.default_rng(n).lognormal(2.5, 1.0, n))  # the plan knows them
    rows = rng.normal(0.3, 0.6, n)

    def answers(logarithms: Array, shifts: Array) -> Array:
        own = rng.normal(0.0, 0.3, (len(shifts), n)) / np.sqrt(tokens)
        return -np.exp(logarithms - shifts + own)

    return Items(tokens, lambda: rows + rng.normal(0.0, 0.1, n), answers)


def function(n: int, rng: np.random.Generator) -> Items:
    """Draw items that a function scores from 0 to 1; see `choices` for the arguments."""
    rows = rng.normal(0.4, 0.6, n)

    def answers(means: Array, shifts: Array) -> Array:
        return np.clip(means + shifts + rng.normal(0.0, 0.25, (len(shifts), n)), 0.0, 1.0)

    return Items(np.ones(n), lambda: rows + rng.normal(0.0, 0.2, n), answers)


WORLDS: dict[str, Callable[[int, np.random.Generator], Items]] = {
    "choices": choices,
    "match": match,
    "loss": loss,
    "function": function,
}


def runs_of(items: Items, scores: Array) -> Runs:
    """Return the scores of runs, (runs, n), as the verdict takes them.

    Args:
        items: The items.
        scores: The scores.
    """
    return Runs.of([{"t": run} for run in scores], {"t": items.weights})


class Kind(NamedTuple):
    """A kind of items: how its scores vary, and which shift gives which gain."""

    variation: Variation
    shift_of: Callable[[float], float]


def known(world: str, luck: float = LUCK) -> Kind:
    """Measure a kind of items on many of them.

    Args:
        world: The name of the kind.
        luck: The standard deviation of a run's luck.
    """

    def mean(shift: float) -> float:
        """Return the mean score of configurations with a shift; the same draws for every shift."""
        items = WORLDS[world](MANY, np.random.default_rng(5))
        scores = items.answers(items.fresh(), np.full((4, 1), shift))
        return float(scores.mean(axis=0) @ items.weights / items.weights.sum())

    items = WORLDS[world](MANY, np.random.default_rng(4))
    sides = [runs_of(items, items.answers(items.fresh(), np.zeros((count, 1)))) for count in (2, 2, 1)]
    variation = Variation.of(*sides)
    assert variation is not None
    # The base model answers as another configuration does, with one run.
    alpha = luck * (mean(0.1) - mean(-0.1)) / 0.2
    unit = density(tetrachoric.quantile(variation.mean)) if variation.answers else variation.spread
    zero = mean(0.0)
    return Kind(
        dataclasses.replace(variation, seeds=alpha / unit),
        lambda gain: float(brentq(lambda shift: mean(shift) - zero - gain, 0.0, 30.0, xtol=1e-4)),
    )


def simulated(
    world: str, n: int, shift: float, seeds: int, luck: float, studies: int, first: int = 0
) -> tuple[float, float, float]:
    """Return the shares of studies that are BETTER than the base model, than the defaults, and than both.

    Args:
        world: The name of the kind of items.
        n: The number of items.
        shift: By how much the winner is better.
        seeds: The number of fresh runs; 0 to compare single adapters.
        luck: The standard deviation of a run's luck.
        studies: The number of studies.
        first: The number of the first study. These numbers are the seeds.
    """
    counts = np.zeros(3)
    for study in range(first, first + studies):
        rng = np.random.default_rng([study, n, seeds, round(1e6 * shift)])
        items = WORLDS[world](n, rng)
        sides = []
        for count, gain, varies in ((seeds or 1, shift, True), (seeds + 1, 0.0, True), (1, 0.0, False)):
            own_luck = rng.normal(0.0, luck if varies and seeds else 0.0, (count, 1))
            sides.append(runs_of(items, items.answers(items.fresh(), gain + own_luck)))
        winner, defaults, base = sides
        over_base = compare(winner, base, level(1)).better
        over_defaults = compare(winner, defaults, level(1), seeds > 0).better
        counts += over_base, over_defaults, over_base and over_defaults
    base_share, defaults_share, both = counts / studies
    return float(base_share), float(defaults_share), float(both)


def predicted(gain: float, design: Design, variation: Variation) -> tuple[float, float, float]:
    """Return the predicted shares in the order of `simulated`.

    Args:
        gain: The gain of the winner.
        design: The items and runs.
        variation: How scores vary.
    """
    return (
        chance(gain, design, variation, False),
        chance(gain, design, variation, True),
        chance_in_order(gain, design, variation, 1),
    )


def design_of(world: str, n: int, seeds: int) -> Design:
    """Return the design of a verdict.

    Args:
        world: The name of the kind of items.
        n: The number of items.
        seeds: The number of fresh runs.
    """
    weights = WORLDS[world](n, np.random.default_rng(0)).weights
    return Design(weights / weights.sum(), seeds)


def cells(items: list[int]) -> list[tuple[int, int, int]]:
    """Return the numbers of items, fresh runs and studies of the table's rows, fewer of the expensive ones."""
    return [
        (n, seeds, 1000 if n <= 100 else 500)
        for n in items
        for seeds in ((4, 0) if n < 100 else (4, 2, 0) if n <= 100 else (4, 2) if n <= 500 else (4,))
    ]


def main() -> None:
    """Print a table of predicted and simulated shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="*", default=[20, 100, 500, 2000], help="numbers of verdict items")
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), help="kinds of items")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the numbers of studies")
    parser.add_argument("--first", type=int, default=0, help="the number of the first study, for other random numbers")
    arguments = parser.parse_args()
    began = time.process_time()
    print("| scores | items | fresh runs | true gain | BETTER than base: predicted, real | than defaults | than both |")
    print("|---|---|---|---|---|---|---|")
    errors = []
    for world in arguments.worlds:
        kind = known(world)
        for place, (n, seeds, studies) in enumerate(cells(arguments.items)):
            design = design_of(world, n, seeds)
            most = smallest(design, kind.variation) or (1 - kind.variation.mean) * 0.8
            for share in (1.0, 0.65) if n <= 100 else ((1.0, 0.65)[place % 2],):
                gain = share * most
                count = max(2, round(arguments.scale * studies))
                real = simulated(world, n, kind.shift_of(gain), seeds, LUCK, count, arguments.first)
                said = predicted(gain, design, kind.variation)
                errors += [abs(a - b) for a, b in zip(said, real, strict=True)]
                pairs = [f"{100 * a:.0f}, {100 * b:.0f}" for a, b in zip(said, real, strict=True)]
                print(f"| {world} | {n:,} | {seeds} | {gain:.3f} | {' | '.join(pairs)} |", flush=True)
    noise, within = math.sqrt(0.25 / 500), np.mean(np.array(errors) <= 0.05)
    print(
        f"\n{len(errors)} pairs: mean difference {100 * np.mean(errors):.1f} points, largest {100 * max(errors):.1f}, "
        f"{100 * within:.0f} % within 5 (a share of 500 studies has a standard error of up to {100 * noise:.1f}); "
        f"{time.process_time() - began:.0f} s of CPU time"
    )


if __name__ == "__main__":
    main()
