"""The surfaces of the demo's landscape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from partune.bench.search import landscape, problems
from partune.bench.search.landscape import Landscape, Surface, error, fitted
from partune.space import Float, Space


def test_a_surface_through_exact_values_is_interpolation_and_stays_within_their_range() -> None:
    points = np.random.default_rng(0).random((60, 2))
    values = np.sin(5 * points[:, 0]) + points[:, 1]
    surface = Surface(points, values, np.diag([2.0, 1.0]), 0.0)
    np.testing.assert_allclose(surface(points), values, atol=1e-8)
    far = surface(np.random.default_rng(1).random((200, 2)) * 3 - 1)
    assert values.min() <= far.min() <= far.max() <= values.max()


def test_a_surface_keeps_a_cliff_in_the_scores_own_units() -> None:
    points = np.random.default_rng(0).random((200, 1))
    scores = np.where(points[:, 0] < 0.9, points[:, 0], -50.0)  # far down the log scale
    surface = Surface(points, scores, np.eye(1), 0.0)
    np.testing.assert_allclose(surface(points), scores, atol=1e-6)


def test_the_fit_finds_which_axis_matters_and_smooths_noise() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((120, 2))
    truth = np.sin(8 * points[:, 0])
    space = Space(x=Float(0, 1), y=Float(0, 1))
    axes, exact = fitted(space, points, truth, np.eye(2))
    assert axes[0, 0] > 2 * axes[1, 1]
    noisy = truth + 0.3 * rng.standard_normal(120)
    axes, smoothing = fitted(space, points, noisy, np.eye(2))
    assert smoothing > exact
    others = rng.random((200, 2))
    missed = Surface(points, noisy, axes, smoothing)(others) - np.sin(8 * others[:, 0])
    assert np.sqrt(np.mean(missed**2)) < 0.2  # less than the noise of one row


@pytest.mark.slow
def test_a_shear_makes_a_ridge_that_runs_askew_an_axis_of_its_own() -> None:
    points = np.random.default_rng(0).random((150, 2))
    scores = np.sin(6 * (points[:, 0] + points[:, 1]))
    space = Space(x=Float(0, 1), y=Float(0, 1))
    sheared = np.array([[1.0, 1.0], [0.0, 1.0]])  # x, x + y
    found = [error(points, scores, *fitted(space, points, scores, axes)) for axes in (np.eye(2), sheared)]
    assert found[1] < found[0] / 3


def test_a_landscape_is_read_and_judged_by_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).random((200, 5))
    search, verdict = points[:, 0], points[:, 1].copy()
    verdict[0] = np.nan  # diverged
    path = tmp_path / "landscape.npz"
    common = {"axes": np.stack([np.eye(5)] * 2), "smoothing": np.full(2, 1e-6), "noise": 0.01, "chance": 0.25}
    np.savez_compressed(path, points=points, search=search[:, None], verdict=verdict, **common)
    monkeypatch.setattr(landscape, "FILE", path)
    problem = problems._demo(("lora",))
    inner = problem.space.decode([0.5, 0.8, 0.5, 0.5, 0.5])
    u = problem.space.encode(inner)
    assert problem.truth(inner) == pytest.approx(u[1], abs=0.05)
    draws = [problem.evaluate(inner, np.random.default_rng(n)) for n in range(200)]
    assert np.mean(draws) == pytest.approx(u[0], abs=0.05)
    assert np.std(draws) == pytest.approx(0.01, rel=0.3)
    assert problem.optimum - problem.scale == pytest.approx(0.5, abs=0.1)  # a median configuration
    assert Landscape.shipped().best == problem.optimum
