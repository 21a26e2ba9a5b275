"""Bayesian optimisation: its design, its search for the acquisition's maximum, and its replay."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers import bayes
from partune.optimizers.acquisition import acquisition, leaders
from partune.optimizers.bayes import GPBO
from partune.optimizers.sampling import LatinHypercube
from partune.optimizers.surrogate import Surrogate
from partune.space import Choice, Float, Int, Space
from tests.support.drive import drive

BRANIN = SYNTHETIC["branin"]

SMALL: dict[str, Any] = {"n_init": 6, "look": 32, "rounds": 2}


def test_refinement_climbs(surrogate: Surrogate) -> None:
    """From few points each round ends no lower than the one before, and near the maximum that many points find."""
    log_ei, best = acquisition(surrogate), leaders(surrogate)
    tops = []
    for rounds in (0, 2, 8):
        optimizer = GPBO(BRANIN.space, look=16, rounds=rounds)
        tops.append(log_ei(optimizer._best(log_ei, best, np.random.default_rng(0))[:1])[0])
    assert tops == sorted(tops)
    assert tops[-1] > log_ei(np.random.default_rng(1).random((20_000, 2))).max() - 0.01


def test_only_configurations_are_looked_at() -> None:
    """Integers and choices are rounded before the acquisition sees them."""
    space = Space(rank=Int(2, 9), kind=Choice(["a", "b", "c"]), rate=Float(1e-6, 1e-2, log=True))
    seen: list[Any] = []

    def spy(points: Any) -> Any:
        seen.extend(points)
        return -points.sum(axis=1)

    GPBO(space, look=64)._best(spy, np.array([[0.5, 0.5, 0.5]]), np.random.default_rng(0))
    assert len(seen) > 100
    assert all(space.encode(space.decode(point)) == pytest.approx(tuple(point), abs=1e-9) for point in seen)


def test_begins_with_the_latin_hypercube() -> None:
    design = drive(LatinHypercube(BRANIN.space, seed=5, size=6), BRANIN, budget=6)
    trials = drive(GPBO(BRANIN.space, seed=5, **SMALL), BRANIN, budget=7)
    assert [trial.point for trial in trials[:6]] == [trial.point for trial in design]


def test_samples_on_while_there_is_no_score() -> None:
    optimizer = GPBO(BRANIN.space, **SMALL)
    unscored = optimizer.ask(15)
    stream = LatinHypercube(BRANIN.space, size=6).ask(15)
    assert [proposal.point for proposal in unscored] == [proposal.point for proposal in stream]


def test_the_process_is_trained_on_the_points_really_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space(rank=Int(2, 9), kind=Choice(["a", "b", "c"]), rate=Float(1e-6, 1e-2, log=True))
    trained: list[tuple[float, ...]] = []

    class Spy(Surrogate):
        def __init__(self, space: Space, points: Sequence[Any], scores: Sequence[float], errors: Any) -> None:
            trained.extend(points)
            super().__init__(space, points, scores, errors)

    monkeypatch.setattr(bayes, "Surrogate", Spy)
    trials = drive(GPBO(space, **SMALL), lambda config: -abs(float(config["rank"]) - 5), budget=12)
    assert trained
    assert all(space.encode(space.decode(point)) == tuple(point) for point in trained)
    assert {trial.point for trial in trials[:-1]} == set(trained)


def test_the_seed_reaches_the_search_after_the_initial_design() -> None:
    optimizer = GPBO(BRANIN.space, seed=0, **SMALL)
    for proposal in optimizer.ask(6):
        optimizer.tell(proposal, BRANIN(proposal.config))
    other = GPBO(BRANIN.space, seed=1, **SMALL)
    for proposal, twin in zip(optimizer.proposals, other.ask(6), strict=True):
        other.proposals[twin.number] = proposal  # the same history
        other.tell(proposal, BRANIN(proposal.config))
    assert optimizer.ask()[0].point != other.ask()[0].point


def test_believing_what_is_pending_spreads_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearest_pair(seed: int) -> float:
        optimizer = GPBO(BRANIN.space, seed=seed, **SMALL)
        for proposal in optimizer.ask(6):
            optimizer.tell(proposal, BRANIN(proposal.config))
        batch = np.array([proposal.point for proposal in optimizer.ask(3)])
        return float(np.linalg.norm(batch[:, None] - batch[None], axis=-1)[np.triu_indices(3, 1)].min())

    believing = [nearest_pair(seed) for seed in range(3)]
    monkeypatch.setattr(Surrogate, "believing", lambda surrogate, points: surrogate)
    ignoring = [nearest_pair(seed) for seed in range(3)]
    assert min(believing) > 1e-3
    assert np.median(believing) > 10 * np.median(ignoring)


def test_a_replay_fits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = drive(GPBO(BRANIN.space, **SMALL), BRANIN, budget=10)

    def fit(*data: object) -> None:
        raise AssertionError("a replay fitted a process")

    monkeypatch.setattr(bayes, "Surrogate", fit)
    optimizer = GPBO(BRANIN.space, **SMALL)
    optimizer.replay(trials)
    assert optimizer.proposals == [trial.proposal for trial in trials]


@pytest.mark.slow
def test_finds_the_optimum_of_branin() -> None:
    """Regret below 0.15 after 30 evaluations, of a range of 300, on each of three seeds."""
    for seed in range(3):
        trials = drive(GPBO(BRANIN.space, seed=seed), BRANIN, budget=30)
        assert BRANIN.optimum - max(trial.score for trial in trials) < 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_init": 0}, "n_init >= 1"), ({"look": 100}, "power of two"), ({"rounds": -1}, "rounds >= 0")],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GPBO(BRANIN.space, **options)
