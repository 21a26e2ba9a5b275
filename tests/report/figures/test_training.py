"""The figures of a training's course."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from partune.report.analysis.courses import Course
from partune.report.figures.training import at_points, training_loss
from partune.trial.goals import LOSS, SCORE, Goal

POINTS = np.array([[4.0, -2.0], [8.0, -1.5]])


def facts(goal: Goal) -> Any:
    course = Course(np.linspace(3.0, 1.0, 8), POINTS, None)
    courses = {"winner": course, "defaults": Course(course.losses, POINTS[:0], None)}
    return SimpleNamespace(goal=goal, courses=courses, summary={"defaults": None})


@pytest.mark.parametrize(("goal", "traces"), [(LOSS, 3), (SCORE, 2)])
def test_validation_losses_stand_beside_training_losses(goal: Goal, traces: int) -> None:
    data = training_loss(facts(goal))["data"]
    assert len(data) == traces
    assert data[0]["y"] == pytest.approx(np.linspace(3.0, 1.0, 8), abs=1e-3)
    if goal is LOSS:
        assert data[2]["y"] == [2.0, 1.5]


def test_other_scores_have_a_figure_of_their_own() -> None:
    (trace,) = at_points(facts(SCORE))["data"]
    assert (trace["x"], trace["y"], trace["name"]) == ([4.0, 8.0], [-2.0, -1.5], "winner, search items")
