"""The power on few items: the drawn studies, tested at once, against the code of the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from partune.verdict import few
from partune.verdict.flips import sign_flips
from partune.verdict.paired import compare, level
from partune.verdict.runs import Runs
from partune.verdict.variation import Shape, Variation

KINDS = {
    "answers": Variation(0.9, 0.8, 0.6, 0.1, "answers", mean=0.3),
    "losses": Variation(0.9, 0.8, 0.6, 0.1, "losses", mean=-2.0, spread=1.0),
    "numbers": Variation(0.9, 0.8, 0.6, 0.1, "numbers", mean=1.0, spread=2.0),
}
GAINS = {"answers": 0.3, "losses": 0.3, "numbers": 0.9}


def test_flips_of_many_draws_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    effects = rng.choice([-0.5, -0.25, 0.0, 0.0, 0.25, 0.75], (40, 16))
    effects[0] = 0.0
    found = few.flip_chances(effects)
    exact = np.array([sign_flips(each)[0] for each in effects])
    few_items = (effects != 0).sum(axis=1) <= 13
    assert 5 < few_items.sum() < 40
    assert found[few_items] == pytest.approx(exact[few_items])
    assert found == pytest.approx(exact, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["answers", "losses", "numbers"])
@pytest.mark.parametrize(("runs", "reference"), [((4, 5), 1), ((4, 1), 0), ((1, 1), 1)])
def test_the_verdict_says_the_same_of_each_draw(
    shape: Shape, runs: tuple[int, int], reference: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few, "DRAWS", 60)
    weights = np.linspace(1.0, 2.0, 12)
    weights /= weights.sum()
    found = few.shown(GAINS[shape], weights, runs, level(1), KINDS[shape], reference)
    sides = few._scores(GAINS[shape], len(weights), runs, KINDS[shape], reference)
    judged = []
    for draw in range(60):
        winner, other = (Runs.of([{"t": run} for run in side[draw]], {"t": weights}) for side in sides)
        judged.append(compare(winner, other, level(1), reference > 0 and runs[0] > 1).better)
    assert 5 < sum(judged) < 60
    assert found.tolist() == judged


def test_drawn_scores_vary_as_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "DRAWS", 400)
    for shape, known in KINDS.items():
        winner, other = few._scores(0.2, 100, (2, 3), known, 1)
        assert winner.shape == (400, 2, 100)
        assert winner.mean() - other.mean() == pytest.approx(0.2, abs=0.02)
        if shape != "answers":
            assert other.std() == pytest.approx(known.spread, rel=0.03)


def test_the_winner_has_the_same_scores_against_all_baselines() -> None:
    first, one = few._scores(0.2, 10, (4, 5), KINDS["numbers"], 1)
    second, two = few._scores(0.2, 10, (4, 5), KINDS["numbers"], 2)
    assert (first == second).all()
    assert (one != two).any()


def test_a_seed_multiplies_drawn_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "DRAWS", 2000)
    known = KINDS["losses"]
    winner, _ = few._scores(0.0, 40, (2, 2), replace(known, seeds=0.0), 1)
    lucky, _ = few._scores(0.0, 40, (2, 2), known, 1)
    ratios = np.log(lucky / winner)
    assert ratios.std(axis=2).max() < 1e-9
    assert ratios[..., 0].std() * -known.mean == pytest.approx(known.seeds * known.spread, rel=0.05)
