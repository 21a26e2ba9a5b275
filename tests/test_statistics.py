"""The verdict: its false alarms, its power, and the tests it stands on, against closed forms and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from partune.statistics import LEVEL, Verdict, bootstrap, compare, mcnemar, verdict

Array = np.ndarray[Any, Any]


def test_mcnemar_is_the_binomial_tail() -> None:
    differences = np.array([1] * 14 + [-1] * 5 + [0] * 100)
    tail = sum(math.comb(19, k) for k in range(14, 20)) / 2**19
    assert mcnemar(differences) == pytest.approx(tail, rel=1e-12)


def test_no_change_is_no_evidence() -> None:
    assert mcnemar(np.zeros(50)) == 1.0
    assert bootstrap([np.zeros(50)]) == 1.0


def test_a_uniform_gain_is_certain() -> None:
    assert bootstrap([np.full(50, 0.25)]) == 0.0
    assert bootstrap([np.full(50, 0.1)]) <= 1e-3  # its variance is rounding, not 0


def test_the_paired_standard_error_and_gain() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, 300).astype(float), rng.integers(0, 2, 300).astype(float)
    found = compare({"task": a}, {"task": b})
    assert found.gain == pytest.approx(a.mean() - b.mean())
    assert found.stderr == pytest.approx((a - b).std(ddof=1) / math.sqrt(300))
    assert found.interval == pytest.approx((found.gain - 1.96 * found.stderr, found.gain + 1.96 * found.stderr))
    assert found.test.startswith("McNemar")


def test_several_tasks_weigh_the_same_whatever_their_size() -> None:
    winner = {"small": np.array([1.0, 1, 1, 0]), "large": np.zeros(400)}
    reference = {"small": np.zeros(4), "large": np.zeros(400)}
    found = compare(winner, reference)
    assert found.gain == pytest.approx(0.75 / 2)
    assert found.items == 404
    assert found.test.startswith("paired bootstrap")


def test_the_comparison_needs_the_same_items() -> None:
    with pytest.raises(ValueError, match="same items"):
        compare({"task": np.zeros(3)}, {"task": np.zeros(4)})
    with pytest.raises(ValueError, match="same items"):
        compare({"task": np.zeros(3)}, {"other": np.zeros(3)})
    with pytest.raises(ValueError, match="two items"):
        compare({"task": np.zeros(1)}, {"task": np.zeros(1)})


def test_the_bootstrap_keeps_its_level_and_agrees_with_the_t_test() -> None:
    rng = np.random.default_rng(2)
    false_alarms = sum(bootstrap([rng.exponential(size=60) - 1.0], resamples=400) <= LEVEL for _ in range(400))
    assert false_alarms <= 36  # 5 % of 400 is 20; the binomial's 99.9 % point is 34, the shape's skew adds little
    shifted = rng.normal(0.3, 1.0, 200)
    z = shifted.mean() / (shifted.std(ddof=1) / math.sqrt(200))
    assert bootstrap([shifted]) == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=0.01)


# ----- whole studies, simulated


def studies(effect: float, runs: int, items: int = 500, metric: str = "accuracy", seed: int = 0) -> list[Verdict]:
    """Verdicts on winners whose true gain over base and defaults is `effect` standard errors of the paired difference.

    Correlated answers, as of a fine-tuned model and its base: a tenth of the items changes by chance.
    """
    rng = np.random.default_rng(seed)
    churn = 0.10
    gain = effect * math.sqrt(churn / items)
    found = []
    for _ in range(runs):
        if metric == "accuracy":
            base = (rng.random(items) < 0.5).astype(float)
            changed = rng.random((2, items))
            up, down = churn + gain, churn - gain  # of the wrong, of the right: half of the items each
            winner = np.where(base == 0, changed[0] < up, changed[0] >= down).astype(float)
            # Defaults are another draw of what the base is; only the winner has the gain.
            defaults = base
        else:
            base = rng.normal(size=items)
            spread = 0.5
            winner = base + rng.normal(effect * spread / math.sqrt(items), spread, items)
            defaults = base
        found.append(verdict({"t": winner}, {"t": base}, {"t": defaults}))
    return found


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_where_nothing_is_there_at_most_one_study_in_twenty_says_better(metric: str) -> None:
    runs = 2000 if metric == "accuracy" else 150
    said = sum(bool(each.better_than) for each in studies(0.0, runs, metric=metric))
    assert said <= LEVEL * runs + 2.6 * math.sqrt(LEVEL * (1 - LEVEL) * runs)  # one-sided 99.5 %


def test_the_fixed_sequence_needs_no_correction() -> None:
    """Independent defaults: two chances for a false "better", still at most one study in twenty."""
    rng = np.random.default_rng(3)
    said = 0
    for _ in range(1500):
        base, defaults, winner = (rng.random((3, 400)) < 0.5).astype(float)
        said += bool(verdict({"t": winner}, {"t": base}, {"t": defaults}).better_than)
    assert said <= LEVEL * 1500 + 2.6 * math.sqrt(LEVEL * (1 - LEVEL) * 1500)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_an_effect_of_2_8_standard_errors_is_found_in_four_studies_of_five(metric: str) -> None:
    runs = 2000 if metric == "accuracy" else 200
    found = sum(each.better_than == ("base", "defaults") for each in studies(2.8, runs, metric=metric))
    assert found >= 0.80 * runs - 2.6 * math.sqrt(0.8 * 0.2 * runs) * (metric == "loss")


def test_the_sentence_says_what_was_shown() -> None:
    same = np.array([0.0, 1] * 100)
    better = np.where(np.arange(200) % 4 == 0, 1.0, same)
    assert verdict({"t": same}, {"t": same}, {"t": same}).sentence.startswith("NOT SHOWN BETTER than the untouched")
    found = verdict({"t": better}, {"t": same}, {"t": better})
    assert found.better_than == ("base",)
    assert "NOT SHOWN BETTER than the defaults" in found.sentence
    both = verdict({"t": better}, {"t": same}, {"t": same})
    assert both.better_than == ("base", "defaults")
    assert both.sentence.startswith("BETTER than the untouched base model (gain +0.2500")
    assert verdict({"t": better}, {"t": same}, None).better_than == ("base",)
