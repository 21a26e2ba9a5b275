"""Draw training curves: the loss over steps, and the scores at points of the training."""

from __future__ import annotations

from partune.report.facts import Facts
from partune.report.figures import parts
from partune.report.figures.parts import Figure, Trace
from partune.report.sentences import label
from partune.trial.goals import LOSS


def training_loss(facts: Facts) -> Figure:
    """Draw the training loss of baselines and winner, and their validation loss if that is the score.

    Args:
        facts: The facts of the study.
    """
    traces: list[Trace] = []
    for name, course in facts.courses.items():
        steps, losses = course.smoothed
        digits = [parts.digits(loss) for loss in losses]
        colour, _ = parts.series(facts, name)
        called = f"{label(facts, name)}, training"
        traces.append(parts.line(steps.tolist(), digits, called, colour, parts.dash(facts, name)))
    if facts.goal == LOSS:  # in the same unit as the training loss
        traces += _points(facts)
    return parts.figure(traces, {"title": "optimiser steps"}, {"title": "loss per trained token (nats)"})


def at_points(facts: Facts) -> Figure:
    """Draw the scores of baselines and winner at points of their training.

    Args:
        facts: The facts of the study.
    """
    title = f"{facts.goal.name}, some search items"
    return parts.figure(_points(facts), {"title": "optimiser steps"}, {"title": title})


def _points(facts: Facts) -> list[Trace]:
    traces = []
    for name, course in facts.courses.items():
        if len(course.points):
            steps, scores = course.points.T
            shown = [facts.goal.shown(score) for score in scores]
            colour, symbol = parts.series(facts, name)
            marks = parts.points(steps.tolist(), shown, f"{label(facts, name)}, search items", colour)
            line = {"dash": parts.dash(facts, name), "color": colour}
            traces.append({**marks, "mode": "lines+markers", "marker": parts.mark(colour, symbol, 9), "line": line})
    return traces
