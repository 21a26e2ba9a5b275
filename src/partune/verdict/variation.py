"""How the scores of items vary between models and between seeds: what the power of a verdict depends on.

The model of scores is that of `variance`: item i gets, from run s of configuration c,

    y[c, s, i] = mu[c] + alpha[c, s] + beta[i] + gamma[c, i] + epsilon[c, s, i]

With V the variance of beta + gamma + epsilon over the items, its parts are given by correlations of an item's scores:

    same  = 1 - Var(epsilon) / V                     between two runs of one configuration
    alike = same - Var(gamma) / V                    between runs of two configurations
    base  = the same for a configuration and the untouched base model, which is further away
    seeds = SD(alpha) / sqrt(V)                      what seeds add to the means of runs

How the spread of the scores changes when a model gets better depends on what the scores are (`Shape`):

    answers   right or wrong: y is a latent variable (see `tetrachoric`) with V = 1. Its correlations do not depend on
              the share of right answers, so they hold for a base model and for a better winner.
    shares    numbers from 0 to 1: the variance is proportional to m (1 - m), with m their mean
    losses    minus a loss: a better model divides all losses by the same number, and so their standard deviation
    numbers   others: the spread stays
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from partune.verdict import tetrachoric
from partune.verdict.runs import Runs
from partune.verdict.variance import joined_small, spread

Array = np.ndarray[Any, Any]
Shape = Literal["answers", "shares", "losses", "numbers"]


class Terms(NamedTuple):
    """The variances of a comparison's terms, per item or per run.

    Attributes:
        gamma: What the two configurations answer differently to an item.
        winner: What a run of the winner answers differently to an item (epsilon).
        reference: The same for the reference; 0 for the base model.
        seeds: What the seed of a run adds to its mean (alpha).
        seeds_reference: The same for the reference; 0 for the base model.
    """

    gamma: float
    winner: float
    reference: float
    seeds: float
    seeds_reference: float

    @property
    def pair(self) -> float:
        """The variance of an item's difference between single runs."""
        return self.gamma + self.winner + self.reference


@dataclass(frozen=True)
class Variation:
    """How scores vary: the correlations above, and the scores' own spread.

    Attributes:
        same: The correlation between two runs of one configuration.
        alike: The correlation between runs of two configurations, at most `same`.
        base: The correlation between runs of a configuration and the base model, at most `same`.
        seeds: The standard deviation of the means of runs that is due to seeds, relative to that of items.
        shape: What the scores are.
        mean: The mean score of the reference; for answers, its share of right ones.
        spread: The standard deviation of the reference's scores over items; for answers, it follows from `mean`.
    """

    same: float
    alike: float
    base: float
    seeds: float
    shape: Shape
    mean: float = 0.5
    spread: float = 1.0

    @classmethod
    def of(cls, winner: Runs, reference: Runs, base: Runs) -> Self | None:
        """Measure how scores vary in the runs of a study; None if a side has a single run, or a score never varies.

        Args:
            winner: The fresh runs of the winner.
            reference: The runs of a trained baseline.
            base: The run of the base model.
        """
        sides = _known(winner, reference, base)
        if min(len(winner), len(reference)) < 2 or sides[0].values.shape[1] < 2:
            return None
        winner, reference, base = sides
        shape = shape_of(np.concatenate([side.values for side in sides]))
        effective = 1 / float((reference.weights**2).sum())
        correlated = _latent if shape == "answers" else _linear
        try:
            same, alike, against_base = (
                float(np.mean([correlated(a, b, reference) for a, b in pairs]))
                for pairs in (
                    (*_pairs(winner), *_pairs(reference)),
                    itertools.product(winner.values, reference.values),
                    itertools.product(winner.values, base.values),
                )
            )
        except ZeroDivisionError:
            return None
        mean, spread_ = float(np.mean(reference.values @ reference.weights)), _deviation(reference)
        luck = []
        for side in (winner, reference):
            noise = np.mean([_variance(a - b, side) for a, b in _pairs(side)]) / 2 / effective
            luck.append(float((side.values @ side.weights).var(ddof=1)) - float(noise))
        unit = density(tetrachoric.quantile(mean)) if shape == "answers" else spread_
        seeds = math.sqrt(max(0.0, float(np.mean(luck)))) / unit
        return cls(same, min(same, alike), min(same, against_base), seeds, shape, mean, spread_)

    def at(self, base: Runs) -> Self:
        """Return the same correlations at the scores of a base model: their spread, or the share of right answers.

        Args:
            base: The run of the base model.
        """
        (base,) = _known(base)
        mean = float(np.mean(base.values @ base.weights))
        return replace(self, shape=shape_of(base.values), mean=mean, spread=_deviation(base))

    @property
    def answers(self) -> bool:
        """Whether answers are right or wrong."""
        return self.shape == "answers"

    @property
    def most(self) -> float:
        """The largest possible gain."""
        return {"answers": 1 - self.mean, "shares": 1 - self.mean, "losses": -self.mean}.get(self.shape, math.inf)

    def terms(self, gain: float, trained: bool) -> Terms:
        """Return the variances of the terms of a comparison.

        Args:
            gain: The true gain of the winner, at most `most`.
            trained: Whether the reference is a trained baseline, not the base model.
        """
        alike = self.alike if trained else self.base
        if not self.answers:
            own = [self.deviation(gain) ** 2, self.spread**2]
            noise, seeds = ([factor * v for v in own] for factor in (1 - self.same, self.seeds**2))
            pair = sum(own) - 2 * alike * math.sqrt(own[0] * own[1])
            gamma = max(0.0, pair - noise[0] - noise[1] * trained)
            return Terms(gamma, noise[0], noise[1] * trained, seeds[0], seeds[1] * trained)
        quantiles = [tetrachoric.quantile(share) for share in (self.mean + gain, self.mean)]
        shares = [0.5 * math.erfc(-t / math.sqrt(2)) for t in quantiles]
        own = [share * (1 - share) for share in shares]
        winner, reference = (
            max(0.0, v - tetrachoric.covariance(t, t, self.same)) for v, t in zip(own, quantiles, strict=True)
        )
        pair = sum(own) - 2 * tetrachoric.covariance(quantiles[0], quantiles[1], alike)
        luck, luck_reference = ((self.seeds * density(t)) ** 2 for t in quantiles)
        return Terms(
            max(0.0, pair - winner - reference * trained), winner, reference * trained, luck, luck_reference * trained
        )

    def deviation(self, gain: float) -> float:
        """Return the standard deviation of the scores, not answers, of a model that is better than the reference."""
        if self.shape == "losses":
            return self.spread * max(0.0, 1 + gain / self.mean)
        if self.shape == "shares" and 0 < self.mean < 1:
            better = min(1.0, self.mean + gain)
            return self.spread * math.sqrt(better * (1 - better) / self.mean / (1 - self.mean))
        return self.spread

    def differing(self, trained: bool) -> float:
        """Return the share of items to which two equally good models answer differently, in single runs."""
        return self.terms(0.0, trained).pair


def density(t: float) -> float:
    """Return the density of the normal distribution, by which a small latent shift changes the share of answers."""
    return math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)


def shape_of(values: Array) -> Shape:
    """Return what scores are, as far as they show it."""
    if np.isin(values, (0.0, 1.0)).all():
        return "answers"
    if (values < 0).all():
        return "losses"
    return "shares" if (values >= 0).all() and (values <= 1).all() else "numbers"


def _known(*sides: Runs) -> list[Runs]:
    """Return the sides on the items that have a score in all runs."""
    known = ~np.isnan(np.concatenate([side.values for side in sides])).any(axis=0)
    return [side.among(known) for side in sides]


def _pairs(side: Runs) -> Iterator[tuple[Array, Array]]:
    return itertools.combinations(side.values, 2)


def _linear(a: Array, b: Array, side: Runs) -> float:
    """Return the correlation of two runs' numbers over items, from 0 to 1; ZeroDivisionError if one does not vary."""
    first, second = _variance(a, side), _variance(b, side)
    return min(1.0, max(0.0, (first + second - _variance(a - b, side)) / 2 / math.sqrt(first * second)))


def _latent(a: Array, b: Array, side: Runs) -> float:
    """Return the correlation of the latent variables of two runs' answers."""
    first, second = (tetrachoric.quantile(float(run @ side.weights)) for run in (a, b))
    return tetrachoric.correlation(first, second, float((a * b) @ side.weights))


def _variance(values: Array, side: Runs) -> float:
    """Return the variance of items: that of their weighted mean, times the effective number of items 1 / sum w^2."""
    total = float(spread(values[None], side.weights, joined_small(side.strata)).sum())
    return total / float((side.weights**2).sum())


def _deviation(side: Runs) -> float:
    return math.sqrt(float(np.mean([_variance(run, side) for run in side.values])))
