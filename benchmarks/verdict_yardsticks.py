"""Count false verdicts for each yardstick: losses, labels, exact matches and a function's numbers.

    OMP_NUM_THREADS=1 python benchmarks/verdict_yardsticks.py --studies 2000

The winner, the defaults and the base model are equally good: every run of each draws its answers in the same way. As in
a study with `seeds: 4`, four fresh runs of the winner are compared with five runs of the defaults and with one of the
base model on the verdict items, by `verdict.paired.compare` at the level of the first look. A training run shifts all
items by a normal draw (the luck of a seed), and every run shifts each item by one of its own.

    loss      items are rows of 1 + lognormal(2.5, 1) tokens, which are their weights; an item's loss per token is
              lognormal, a run multiplies it by a factor near 1, and short rows vary more: by 1 / sqrt(tokens)
    labels    70 % of the items are answered correctly with probability .9, the others with .1
    match     exact matches of generated answers: items are right with probability beta(.3, 2), so that most never are
    function  numbers from 0 to 1, many of them exactly 0 or 1, as an overlap of words is
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import binom, binomtest

from partune.verdict.paired import compare, level
from partune.verdict.runs import Runs

ITEMS = (5, 20, 100, 500, 2000)
Array = np.ndarray
World = Callable[[int, Array, np.random.Generator], tuple[Array, Array]]


def loss(n: int, luck: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw minus the losses of runs, (runs, n), and the weights of the rows, (n,).

    Args:
        n: The number of rows.
        luck: (runs, 1), the luck of each run, as a share of the loss.
        rng: The source of the draws.
    """
    tokens = 1 + np.floor(rng.lognormal(2.5, 1.0, n))
    rows = rng.lognormal(0.3, 0.6, n)
    own = rng.normal(0.0, 0.3, (len(luck), n)) / np.sqrt(tokens)
    return -rows * np.exp(luck + own), tokens


def answers(chances: Array, luck: Array, rng: np.random.Generator) -> Array:
    """Draw right (1) and wrong (0) answers of runs, (runs, n).

    Args:
        chances: (n,), the probability of a right answer to each item.
        luck: (runs, 1), the luck of each run, in probability.
        rng: The source of the draws.
    """
    shifted = np.clip(chances + luck, 0.0, 1.0)
    return (rng.random(shifted.shape) < shifted).astype(float)


def labels(n: int, luck: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw right and wrong labels; see `loss` for the arguments."""
    return answers(np.where(rng.random(n) < 0.7, 0.9, 0.1), luck, rng), np.ones(n)


def match(n: int, luck: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw exact matches, most of which are rare; see `loss` for the arguments."""
    return answers(rng.beta(0.3, 2.0, n), luck, rng), np.ones(n)


def function(n: int, luck: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw numbers from 0 to 1, many of them at the ends; see `loss` for the arguments."""
    rows = rng.normal(0.4, 0.6, n)
    values = rows + luck + rng.normal(0.0, 0.25, (len(luck), n))
    return np.clip(values, 0.0, 1.0), np.ones(n)


WORLDS: dict[str, World] = {"loss": loss, "labels": labels, "match": match, "function": function}


def false_verdicts(world: World, n: int, sd: float, studies: int, seeds: int) -> list[int]:
    """Return how many studies without an effect call the winner better and worse than the defaults and than the base.

    Args:
        world: Draws runs.
        n: The number of verdict items.
        sd: The standard deviation of a run's luck.
        studies: The number of studies.
        seeds: The number of fresh runs.
    """
    found = []
    for study in range(studies):
        rng = np.random.default_rng([study, n, round(1000 * sd), seeds])
        luck = np.concatenate([rng.normal(0.0, sd, (2 * seeds + 1, 1)), np.zeros((1, 1))])
        values, weights = world(n, luck, rng)
        winner, defaults, base = (
            Runs.of([{"rows": run} for run in side], {"rows": weights})
            for side in (values[:seeds], values[seeds:-1], values[-1:])
        )
        found += [compare(winner, defaults, level(1), trained=True).relation, compare(winner, base, level(1)).relation]
    return [sides.count(relation) for sides in (found[::2], found[1::2]) for relation in ("better", "worse")]


def gains(studies: int, seeds: int) -> None:
    """Print how often the winner is called better than the defaults, and how often the interval contains the gain.

    The winner and the defaults answer as in `verdict_errors`: right or wrong, on 384 items.

    Args:
        studies: The number of studies per row.
        seeds: The number of fresh runs.
    """
    print("| luck of a run | gain | BETTER than defaults | interval contains the gain |")
    print("|---|---|---|---|")
    for sd, gain in ((0.0, 0.0), (0.01, 0.0), (0.02, 0.0), (0.03, 0.0), (0.0, 0.03), (0.01, 0.03), (0.03, 0.03)):
        better = covered = 0
        for study in range(studies):
            rng = np.random.default_rng([study, round(1000 * sd), round(1000 * gain), seeds])
            luck = rng.normal(0.0, sd, (2 * seeds + 1, 1))
            luck[:seeds] += gain
            values = answers(np.where(rng.random(384) < 0.7, 0.904, 0.096), luck, rng)
            winner, defaults = (Runs.of([{"t": run} for run in side]) for side in (values[:seeds], values[seeds:]))
            found = compare(winner, defaults, level(1), trained=True)
            better += found.better
            covered += found.interval[0] <= gain <= found.interval[1]
        cells = []
        for count in (better, covered):
            low, high = binomtest(count, studies).proportion_ci(method="exact")
            cells.append(f"{count / studies:.3f} ({low:.3f} .. {high:.3f})")
        print(f"| {sd} | {gain} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print a table of false verdicts, with 95 % intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="number of studies per row; a quarter at 2,000 items")
    parser.add_argument("--sd", type=float, nargs="*", default=[0.0, 0.02], help="standard deviations of a run's luck")
    parser.add_argument("--items", type=int, nargs="*", default=list(ITEMS), help="numbers of verdict items")
    parser.add_argument("--seeds", type=int, default=4, help="number of fresh runs")
    parser.add_argument(
        "--gain", action="store_true", help="also gains: the rates of whole studies, without the search"
    )
    arguments = parser.parse_args()
    if arguments.gain:
        gains(arguments.studies, arguments.seeds)
        return
    print(f"{arguments.seeds} fresh runs; percent of studies with a false verdict, at the level of the first look")
    print("| yardstick | luck of a run | items | studies | BETTER than defaults | WORSE | BETTER than base | WORSE |")
    print("|---|---|---|---|---|---|---|---|")
    for name, world in WORLDS.items():
        for sd in arguments.sd:
            for n in arguments.items:
                studies = arguments.studies // (4 if n >= 2000 else 1)
                cells = []
                for count in false_verdicts(world, n, sd, studies, arguments.seeds):
                    low, high = binomtest(count, studies).proportion_ci(method="exact")
                    cells.append(f"{100 * count / studies:.1f} ({100 * low:.1f} to {100 * high:.1f})")
                print(f"| {name} | {sd} | {n:,} | {studies:,} | {' | '.join(cells)} |", flush=True)
    most = binom.ppf(0.975, arguments.studies, 0.05) / arguments.studies
    print(f"\nA level of 5 % would show at most {100 * most:.1f} % in 39 of 40 rows of {arguments.studies:,} studies.")


if __name__ == "__main__":
    main()
