"""Draw training curves: the loss over steps, and the scores at points of the training."""

from __future__ import annotations

from partune.report.facts import Facts
from partune.report.figures import parts
from partune.report.figures.parts import BLUE, ORANGE, Figure, Trace
from partune.report.sentences import label

COLOURS = {"defaults": BLUE, "winner": ORANGE}


def training_loss(facts: Facts) -> Figure:
    """Draw the training loss of defaults and winner, and their validation loss if that is the score.

    Args:
        facts: The facts of the study.
    """
    traces: list[Trace] = []
    for name, course in facts.courses.items():
        steps, losses = course.smoothed
        digits = [parts.digits(loss) for loss in losses]
        traces.append(parts.line(steps.tolist(), digits, f"{label(facts, name)}, training", COLOURS[name], "solid"))
    if facts.goal.lower_is_better:
        traces += _points(facts)
    return parts.figure(traces, {"title": "optimiser steps"}, {"title": "loss per trained token (nats)"})


def at_points(facts: Facts) -> Figure:
    """Draw the scores of defaults and winner at points of their training.

    Args:
        facts: The facts of the study.
    """
    return parts.figure(_points(facts), {"title": "optimiser steps"}, {"title": "score, some search items"})


def _points(facts: Facts) -> list[Trace]:
    traces = []
    for name, course in facts.courses.items():
        if len(course.points):
            steps, scores = course.points.T
            shown = [facts.goal.shown(score) for score in scores]
            marks = parts.points(steps.tolist(), shown, f"{label(facts, name)}, search items", COLOURS[name])
            traces.append({**marks, "mode": "lines+markers", "line": {"dash": "dot", "color": COLOURS[name]}})
    return traces
