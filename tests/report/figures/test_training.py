"""The figures of a training's course."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from partune.report.analysis.courses import Course
from partune.report.figures.training import at_points, training_loss
from partune.trial.goals import LOSS, SCORE, Goal, text_loss

POINTS = np.array([[4.0, -2.0], [8.0, -1.5]])


def facts(goal: Goal) -> Any:
    course = Course(np.linspace(3.0, 1.0, 8), POINTS, None)
    courses = {"best": course, "defaults": Course(course.losses, POINTS[:0], None)}
    return SimpleNamespace(goal=goal, courses=courses, summary={"defaults": None}, scored=["base", *courses])


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


def test_losses_in_another_unit_are_not_drawn_beside_training_losses() -> None:
    goal = text_loss("word_perplexity")
    assert goal is not None
    assert len(training_loss(facts(goal))["data"]) == 2
    figure = at_points(facts(goal))
    assert figure["data"][0]["y"] == [2.0, 1.5]
    assert "loss per word, some search items" in str(figure["layout"]["yaxis"]["title"])


def test_each_of_several_baselines_can_be_told_without_colours() -> None:
    several = facts(SCORE)
    for name in ("peft", "unsloth", "today", "mine"):
        several.courses[name] = several.courses["best"]
        several.scored.append(name)
    lines = training_loss(several)["data"]
    assert [line["name"].removesuffix(", training") for line in lines] == [
        "winner", "defaults", "peft", "unsloth", "today", "mine",
    ]  # fmt: skip
    assert len({line["line"]["dash"] for line in lines}) == 6
    marked = at_points(several)["data"]
    assert len({(trace["marker"]["symbol"]) for trace in marked}) == 5
