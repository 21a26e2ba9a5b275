"""Cuts through the surrogate, against the function that it was fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from partune import Choice, Float, Int, Space, Study
from partune.report.analysis.slices import FINE, Model, grid
from tests.support.studies import PLANE, hill


def test_the_mean_is_the_function_and_its_error_covers_the_rest() -> None:
    study = Study(PLANE, lambda config: hill(config).score, "sobol").run(60)
    plane = Model(PLANE, study.trials, study.best).plane("x", "y")
    assert plane.mean.shape == plane.std.shape == (len(plane.y), len(plane.x)) == (FINE, FINE)
    truth = np.array([[hill(PLANE.decode((x, y))).score for x in plane.x] for y in plane.y])
    error = np.abs(plane.mean - truth)
    assert error.mean() < 0.02 < 0.01 * np.ptp(truth)
    assert (error < 3 * plane.std + 0.01).mean() > 0.9


def test_the_far_lower_tail_is_in_units_of_the_score() -> None:
    """The process sees it on a log scale, the reader does not."""

    def cliff(config: dict[str, float]) -> float:
        return -1000.0 if config["x"] < -3 else 1 - config["x"] / 50

    study = Study(PLANE, cliff, "sobol").run(64)
    model = Model(PLANE, study.trials, study.best)
    plane = model.plane("x", "y")
    assert plane.mean.min() == pytest.approx(-1000)
    assert plane.mean.max() == pytest.approx(1, abs=0.2)


def test_the_other_hyperparameters_are_the_winners() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1), k=Choice(["low", "high"]))
    study = Study(space, lambda c: c["x"] + 10 * (c["k"] == "high"), "sobol").run(40)
    assert study.best.config["k"] == "high"
    assert Model(space, study.trials, study.best).plane("x", "y").mean.min() > 8


def test_what_is_conditional_is_inactive_where_its_parent_is() -> None:
    space = Space(k=Choice(["adamw", "sgd"]), m=Float(0, 1, when={"k": "sgd"}), x=Float(0, 1))
    study = Study(space, lambda c: 5 + c.get("m", 0) if c["k"] == "sgd" else c["x"], "sobol").run(40)
    model = Model(space, study.trials, study.best)
    assert model.names == ["k", "m", "x"]
    plane = model.plane("m", "k")
    adamw = plane.mean[plane.y.index(0.25)]
    assert np.ptp(adamw) == pytest.approx(0, abs=1e-9)
    other = next(trial for trial in study.trials if trial.config["k"] == "adamw")
    assert Model(space, study.trials, other).names == ["k", "x"]


def test_a_grid_has_every_value_where_they_are_few() -> None:
    assert len(grid(Int(1, 4))) == 4
    assert len(grid(Choice(["a", "b"]))) == 2
    assert len(grid(Int(1, 1000))) == FINE
    assert len(grid(Float(0, 1))) == FINE
