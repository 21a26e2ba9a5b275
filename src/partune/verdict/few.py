"""Find the power of a verdict on few items by drawing answers and applying its tests to them.

With few items that differ, the distribution of a gain is not normal: it has few possible values, and sign flips have
few possible p-values. So scores are drawn, and the tests of `paired.compare` are applied to all draws at once.

Numbers are drawn as `variation` says: the parts of a score are normal, and shared by all models, by the runs of
a configuration, by the items of a run, or by nothing. Answers are right if such a number exceeds a threshold.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from partune.verdict import tetrachoric
from partune.verdict.behrens_fisher import tails
from partune.verdict.flips import EXACT
from partune.verdict.variation import Variation

DRAWS = 800
MOST = 5000  # the largest number of items times runs to draw for each study
SIGNS = 4000  # random sign flips, if there are too many items to enumerate all
BLOCK = 200  # the number of draws whose sign flips are in memory at once

Array = np.ndarray[Any, Any]


def shown(
    gain: float,
    weights: Array,
    runs: tuple[int, int],
    level: float,
    variation: Variation,
    reference: int,
) -> Array:
    """Return in which drawn studies the verdict shows a gain over one reference, (draws,) of bool.

    The same random numbers are drawn for every gain and for every number of draws, so that the share grows with the
    gain, and the winner's scores are those of the same runs for every reference.

    Args:
        gain: The true gain of the winner.
        weights: (n,), the weights of the items, which sum to 1.
        runs: The numbers of runs of the winner and of the reference.
        level: The significance level.
        variation: How scores vary.
        reference: 0 for the base model, or the number of a trained baseline.
    """
    winner, other = _scores(gain, len(weights), runs, variation, reference)
    effects = weights * (winner.mean(axis=1) - other.mean(axis=1))  # (draws, n)
    found = effects.sum(axis=1)
    better = found > 0
    if max(runs) > 1:
        better &= _error_chances(found, weights, winner, other) <= level
    better &= 0.5 ** (effects != 0).sum(axis=1) <= level  # fewer items that differ show nothing
    better[better] = flip_chances(effects[better]) <= level
    return np.asarray(better)


def _scores(
    gain: float, items: int, runs: tuple[int, int], variation: Variation, reference: int
) -> tuple[Array, Array]:
    """Draw the scores of both sides, (draws, runs, n)."""
    trained = reference > 0
    if variation.shape == "losses":
        variation = _of_logarithms(variation)
    alike = min(variation.same, variation.alike if trained else variation.base)
    shape = (DRAWS, 1, items)
    rng = np.random.default_rng(0)
    shared = math.sqrt(alike) * rng.standard_normal(shape)
    sides = []
    for count, draws, varies in zip(runs, (rng, np.random.default_rng([1, reference])), (True, trained), strict=True):
        own = math.sqrt(variation.same - alike) * draws.standard_normal(shape)
        noise = math.sqrt(1 - variation.same) * draws.standard_normal((DRAWS, count, items))
        # The base model has no seeds, and a comparison of two adapters is not about other seeds.
        seeds = variation.seeds * draws.standard_normal((DRAWS, count, 1)) * (varies and max(runs) > 1)
        sides.append(shared + own + noise + seeds)
    if variation.shape == "losses":
        return -_losses(sides[0], gain, variation), -_losses(sides[1], 0.0, variation)
    if not variation.answers:
        return variation.mean + gain + variation.deviation(gain) * sides[0], variation.mean + variation.spread * sides[
            1
        ]
    thresholds = (-tetrachoric.quantile(right) for right in (variation.mean + gain, variation.mean))
    winner, other = ((side > t).astype(float) for side, t in zip(sides, thresholds, strict=True))
    return winner, other


def _of_logarithms(variation: Variation) -> Variation:
    """Return how the logarithms of lognormal losses vary, in units of their deviation.

    A seed multiplies all losses. The correlations are taken to be those of the losses, which are a little lower.
    """
    deviation = math.sqrt(math.log1p((variation.spread / variation.mean) ** 2))
    return replace(variation, seeds=variation.seeds * variation.spread / -variation.mean / deviation)


def _losses(drawn: Array, gain: float, variation: Variation) -> Array:
    """Return lognormal losses, whose mean and deviation the variation says, from normal numbers."""
    ratio = math.log1p((variation.spread / variation.mean) ** 2)
    return (-variation.mean - gain) * np.exp(math.sqrt(ratio) * drawn - ratio / 2)


def flip_chances(effects: Array) -> Array:
    """Return the p-value of a gain by sign flips for each draw (see `flips`), (draws,), from effects, (draws, n)."""
    order = np.argsort(-np.abs(effects), axis=1)
    sorted_ = np.take_along_axis(effects, order, axis=1)  # items that do not differ come last
    exact = np.arange(2 ** min(EXACT, effects.shape[1]))[:, None] >> np.arange(min(EXACT, effects.shape[1]))
    many = (sorted_ != 0).sum(axis=1) > EXACT
    chances = np.ones(len(effects))
    # The p-values of few items are few, so that those near the level must be exact.
    chances[~many] = _share_reached(sorted_[~many, :EXACT], 1.0 - 2.0 * (exact & 1))
    if many.any():
        signs = np.random.default_rng(1).choice([-1.0, 1.0], (SIGNS, effects.shape[1]))
        chances[many] = (1 + SIGNS * _share_reached(sorted_[many], signs)) / (1 + SIGNS)
    return chances


def _share_reached(effects: Array, signs: Array) -> Array:
    """Return the share of sign combinations whose sum is at least the observed one, for each draw, (draws,).

    Args:
        effects: (draws, n), the differences of the items.
        signs: (combinations, n), the signs.
    """
    sizes = np.abs(effects)
    observed = effects.sum(axis=1) - 1e-6 * sizes.sum(axis=1)
    shares = np.empty(len(effects))
    for start in range(0, len(effects), BLOCK):
        part = slice(start, start + BLOCK)
        shares[part] = (sizes[part] @ signs.T >= observed[part, None]).mean(axis=1)
    return shares


def _error_chances(gains: Array, weights: Array, winner: Array, reference: Array) -> Array:
    """Return the p-value of a gain by the test of Behrens and Fisher for each draw (see `variance`), (draws,)."""
    n = len(weights)
    squares = weights**2 * n / (n - 1)

    def variance(values: Array) -> Array:
        """Return the variance of the weighted mean of the last axis."""
        return np.asarray((values - values.mean(axis=-1, keepdims=True)) ** 2 @ squares)

    items = variance(winner.mean(axis=1) - reference.mean(axis=1))
    parts, dfs, rest = [], [], np.zeros(len(gains))
    for side in (winner, reference):
        runs = side.shape[1]
        if runs > 1:
            parts.append((side @ weights).var(axis=1, ddof=1) / runs)
            dfs.append(runs - 1.0)
            rest += variance(side - side.mean(axis=1, keepdims=True)).sum(axis=1) / (runs - 1) / runs
    tiny = np.finfo(float).tiny
    of_runs = sum(parts)
    squared = sum(part**2 / df for part, df in zip(parts, dfs, strict=True))
    df = np.divide(of_runs**2, squared, out=np.full(len(gains), max(dfs)), where=squared > 0)
    left = np.maximum(tiny, items - rest)
    return tails(gains, (left, np.maximum(of_runs, tiny)), (np.full(len(gains), n - 1.0), df))
