"""How scores vary, measured on drawn scores whose variation is known, and what it says of comparisons."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from partune.verdict.runs import Runs
from partune.verdict.variation import Shape, Variation, density, shape_of

MANY = 20_000
LATENT = Variation(same=0.9, alike=0.8, base=0.6, seeds=0.0, shape="numbers", mean=0.0, spread=1.0)


def drawn(known: Variation, shift: float = 0.0, counts: tuple[int, int] = (2, 2)) -> list[np.ndarray]:
    """Draw the latent scores of runs of a winner and a trained reference, and of the base model, (runs, n)."""
    rng = np.random.default_rng(0)
    shared = math.sqrt(known.base) * rng.normal(size=MANY)
    tuned = shared + math.sqrt(known.alike - known.base) * rng.normal(size=MANY)
    sides = []
    for count, gain in zip(counts, (shift, 0.0), strict=True):
        own = math.sqrt(known.same - known.alike) * rng.normal(size=MANY)
        noise = math.sqrt(1 - known.same) * rng.normal(size=(count, MANY))
        sides.append(gain + tuned + own + noise)
    return [*sides, shared + math.sqrt(1 - known.base) * rng.normal(size=(1, MANY))]


def runs(values: np.ndarray) -> Runs:
    return Runs.of([{"task": run} for run in values])


def test_the_variation_of_numbers_is_measured() -> None:
    found = Variation.of(*map(runs, drawn(LATENT)))
    assert found is not None
    assert found.shape == "numbers"
    assert (found.same, found.alike, found.base) == pytest.approx((0.9, 0.8, 0.6), abs=0.02)
    assert found.spread == pytest.approx(1.0, abs=0.01)
    assert found.seeds < 0.02


@pytest.mark.parametrize("right", [0.5, 0.85])
def test_the_variation_of_answers_is_that_of_their_latent_numbers(right: float) -> None:
    threshold = float(np.quantile(drawn(LATENT)[1], 1 - right))
    found = Variation.of(*(runs((side > threshold).astype(float)) for side in drawn(LATENT, 0.3)))
    assert found is not None
    assert found.answers
    assert found.mean == pytest.approx(right, abs=0.01)
    assert (found.same, found.alike, found.base) == pytest.approx((0.9, 0.8, 0.6), abs=0.03)


def test_what_seeds_add_is_measured() -> None:
    winner, reference, base = drawn(LATENT)
    luck = np.linspace(-0.3, 0.3, 2)[:, None]  # a standard deviation of .424 over the two runs of each side
    found = Variation.of(runs(winner + luck), runs(reference + luck), runs(base))
    assert found is not None
    assert found.seeds == pytest.approx(0.3 * math.sqrt(2), abs=0.02)


def test_single_runs_and_constant_scores_measure_nothing() -> None:
    winner, reference, base = drawn(LATENT)
    assert Variation.of(runs(winner[:1]), runs(reference), runs(base)) is None
    constant = np.full((2, 50), 0.5)
    assert Variation.of(runs(constant), runs(constant), runs(constant[:1])) is None


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_terms_of_answers_are_the_variances_of_drawn_ones(trained: bool, shift: float) -> None:
    winner, reference, base = ((side > 0.4).astype(float) for side in drawn(LATENT, shift))
    other = reference if trained else base
    gain = float(winner.mean() - other.mean())
    known = Variation(0.9, 0.8, 0.6, 0.0, "answers", mean=float(other.mean()))
    found = known.terms(gain, trained)
    assert found.pair == pytest.approx((winner[0] - other[0]).var(), abs=0.015)
    assert found.winner == pytest.approx((winner[0] - winner[1]).var() / 2, abs=0.01)
    assert found.reference == pytest.approx((reference[0] - reference[1]).var() / 2 if trained else 0.0, abs=0.01)
    assert found.pair >= abs(gain) - gain**2 - 0.01  # a gain needs items that differ


def test_the_differing_answers_of_equal_models() -> None:
    first, second = ((side[0] > 1.0) for side in drawn(LATENT)[:2])
    known = Variation(0.9, 0.8, 0.6, 0.0, "answers", mean=float(second.mean()))
    assert known.differing(True) == pytest.approx((first != second).mean(), abs=0.01)
    assert known.differing(False) > known.differing(True)


@pytest.mark.parametrize(
    ("shape", "mean", "most", "deviation"),
    [("losses", -2.0, 2.0, 0.75), ("shares", 0.5, 0.5, 0.0), ("numbers", 3.0, math.inf, 1.5)],
)
def test_a_better_model_has_another_spread(shape: Shape, mean: float, most: float, deviation: float) -> None:
    known = replace(LATENT, shape=shape, mean=mean, spread=1.5)
    assert known.most == most
    assert known.deviation(0.0) == 1.5
    assert known.deviation({"losses": 1.0, "shares": 0.5, "numbers": 7.0}[shape]) == pytest.approx(deviation)


def test_the_base_model_gives_mean_and_spread() -> None:
    values = np.array([[-1.0, -3.0, np.nan, -2.0]])
    found = replace(LATENT, shape="losses").at(runs(values))
    assert (found.mean, found.spread, found.same) == (-2.0, 1.0, LATENT.same)


def test_shapes_are_recognised() -> None:
    assert shape_of(np.array([0.0, 1.0])) == "answers"
    assert shape_of(np.array([-0.2, -1.0])) == "losses"
    assert shape_of(np.array([0.0, 0.4])) == "shares"
    assert shape_of(np.array([-0.5, 0.4])) == "numbers"
    assert density(0.0) == pytest.approx(1 / math.sqrt(2 * math.pi))
