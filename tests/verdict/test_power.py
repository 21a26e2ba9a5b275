"""The predicted power of the verdict, against enumeration, closed forms and the code of the verdict itself."""

from __future__ import annotations

import itertools
import math
import runpy
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from partune.verdict.paired import level
from partune.verdict.power import LIKELY, Design, chance, chance_in_order, joint, smallest
from partune.verdict.variation import Variation
from tests.support import ROOT

SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "verdict_power.py"))
CHOICES = Variation(same=0.96, alike=0.93, base=0.83, seeds=0.02, shape="answers", mean=0.75)
NUMBERS = Variation(same=0.9, alike=0.8, base=0.6, seeds=0.1, shape="numbers", spread=2.0)


def test_the_power_of_mcnemars_test_is_the_sum_over_all_outcomes() -> None:
    n, gain = 12, 0.2
    differ = CHOICES.terms(gain, True).pair + gain**2
    won, lost = (differ + gain) / 2, (differ - gain) / 2
    power = 0.0
    for wins, losses in itertools.product(range(n + 1), repeat=2):
        if wins + losses <= n and binom.sf(wins - 1, wins + losses, 0.5) <= level(1):
            ways = math.comb(n, wins) * math.comb(n - wins, losses)
            power += ways * won**wins * lost**losses * (1 - differ) ** (n - wins - losses)
    assert chance(gain, Design.equal(n, 0), CHOICES, True) == pytest.approx(power, abs=1e-6)


def test_many_items_and_one_run_give_the_z_test() -> None:
    design, gain = Design.equal(50_000, 0), 0.016
    deviation = math.sqrt(NUMBERS.terms(gain, True).pair / 50_000)
    expected = norm.cdf(gain / deviation - norm.isf(level(1)))
    assert 0.2 < expected < 0.95
    assert chance(gain, design, NUMBERS, True) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("items", [0, 1, 4])
def test_too_few_items_show_nothing(items: int) -> None:
    design = Design(np.full(items, 1 / max(1, items)), 4)
    assert chance(0.2, design, CHOICES, True) == 0.0
    assert chance_in_order(0.2, design, CHOICES, 1) == 0.0
    assert smallest(design, CHOICES, 1) is None


def test_a_gain_that_cannot_be_is_not_shown() -> None:
    assert chance(0.3, Design.equal(400, 4), CHOICES, True) == 0.0
    assert chance_in_order(0.3, Design.equal(400, 4), CHOICES, 2) == 0.0
    assert smallest(Design.equal(400, 4), replace(CHOICES, mean=0.999), 0) is None


@pytest.mark.slow
def test_more_items_runs_and_gain_show_more_and_more_baselines_less() -> None:
    design = Design.equal(500, 4)
    now = chance_in_order(0.04, design, CHOICES, 1)
    assert 0.3 < now < 0.95
    assert chance_in_order(0.05, design, CHOICES, 1) > now
    assert chance_in_order(0.04, design.with_items(800), CHOICES, 1) > now
    assert chance_in_order(0.04, Design.equal(500, 8), CHOICES, 1) > now
    assert chance_in_order(0.04, design, CHOICES, 2) < now
    assert now < min(chance(0.04, design, CHOICES, False), chance(0.04, design, CHOICES, True))
    assert chance(0.04, replace(design, look=2), CHOICES, False) < chance(0.04, design, CHOICES, False)


@pytest.mark.parametrize(("variation", "seeds"), [(CHOICES, 0), (CHOICES, 4), (NUMBERS, 4)])
def test_the_smallest_gain_is_shown_in_four_studies_of_five(variation: Variation, seeds: int) -> None:
    design = Design.equal(600, seeds)
    gain = smallest(design, variation, 0)
    assert gain is not None
    assert chance(gain, design, variation, False) == pytest.approx(LIKELY, abs=0.01)


def test_seeds_without_any_variation_of_items_bound_what_items_can_do() -> None:
    noisy = replace(NUMBERS, seeds=0.5)
    few_items, many = (smallest(Design.equal(items, 4), noisy, 0) for items in (5_000, 50_000))
    assert few_items is not None
    assert many is not None
    assert many > 0.9 * few_items


def test_joint_probabilities_of_independent_and_of_identical_events() -> None:
    assert joint([0.8, 0.6], [0.0, 0.0]) == pytest.approx(0.48, abs=1e-6)
    assert joint([0.8, 0.6], [0.999, 0.999]) == pytest.approx(0.6, abs=0.02)
    assert joint([0.8, 0.0], [0.5, 0.5]) == 0.0
    assert joint([1.0, 0.7], [0.5, 0.5]) == pytest.approx(0.7, abs=1e-6)


def test_weights_count_as_their_effective_number() -> None:
    weights = np.array([3.0, 1.0, 1.0, 1.0])
    design = Design(weights / weights.sum(), 4)
    assert design.effective == pytest.approx(36 / 12)
    larger = design.with_items(400)
    assert larger.items == 400
    assert larger.weights.sum() == pytest.approx(1.0)
    assert larger.effective / 400 == pytest.approx(0.75, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "n", "seeds", "gain"), [("choices", 100, 4, 0.08), ("function", 60, 2, 0.2)])
def test_the_prediction_is_what_the_code_of_the_verdict_does(world: str, n: int, seeds: int, gain: float) -> None:
    """benchmarks/verdict_power.py has the whole grid."""
    kind = SCRIPT["known"](world)
    said = SCRIPT["predicted"](gain, SCRIPT["design_of"](world, n, seeds), kind.variation)
    real = SCRIPT["simulated"](world, n, kind.shift_of(gain), seeds, SCRIPT["LUCK"], studies := 250)
    for predicted, share in zip(said, real, strict=True):
        assert 0.05 < predicted < 0.97
        assert share == pytest.approx(predicted, abs=0.05 + 3 * math.sqrt(0.25 / studies))
