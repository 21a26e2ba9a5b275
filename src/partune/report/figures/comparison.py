"""Draw the figures that compare algorithms, and the figure of the calibration of epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from partune.report.facts import Facts
from partune.report.figures import parts
from partune.report.figures.parts import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Figure,
    floor,
    plain,
    time_unit,
)
from partune.report.plain_data import Summary

HUES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)  # colours of algorithms


def hue(k: int) -> str:
    """Return the colour of algorithm k."""
    return HUES[k % len(HUES)]


def dashed(k: int) -> bool:
    """Return whether the line of algorithm k is dashed. Every second line is, so that equal lines can both be seen."""
    return (k + k // len(HUES)) % 2 == 1


def best_so_far(algorithms: Sequence[Summary], which: str) -> Figure:
    """Draw the best score so far of each algorithm in a comparison, with 95 % intervals.

    Args:
        algorithms: The comparison's algorithms.
        which: The curves to draw: "by_trial" or "by_seconds".
    """
    unit, size = ("trials", 1.0) if which == "by_trial" else time_unit(max(a[which][-1]["seconds"] for a in algorithms))
    points = [point for algorithm in algorithms for point in algorithm[which]]
    low = floor([point["mean"] for point in points])
    low = low if math.isfinite(low) else min(_least(point) for point in points)
    high = max(point["mean"] if point["high"] is None else point["high"] for point in points)
    bands, lines = [], []
    for k, algorithm in enumerate(algorithms):
        course = algorithm[which]
        x = [parts.digits(point["trials" if which == "by_trial" else "seconds"] / size) for point in course]
        line = parts.line(x, [parts.digits(point["mean"]) for point in course], algorithm["algorithm"], hue(k), "solid")
        line["line"] |= {"width": 2.4, "shape": "hv", "dash": "dash" if dashed(k) else "solid"}
        lines.append(
            {
                **line,
                "hovertemplate": f"{plain(algorithm['algorithm'])}: %{{y:.4g}} after %{{x:.3g}} {unit}<extra></extra>",
            }
        )
        if course[0]["low"] is not None:
            for edge, fill in (("low", {}), ("high", {"fill": "tonexty", "fillcolor": f"{hue(k)}1F"})):
                band = parts.line(x, [parts.digits(point[edge]) for point in course], "", hue(k), "solid")
                band |= {"line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False}
                bands.append({**band, **fill})
    room = 0.04 * (high - low or 1.0)
    figure = parts.figure(
        [*bands, *lines],
        x={"title": unit if which == "by_trial" else f"time of the trials, {unit}", "rangemode": "tozero"},
        y={"title": "best score so far", "range": [low - room, high + room]},
    )
    figure["layout"]["legend"] = {"traceorder": "normal"}  # Plotly reverses the order of filled traces
    return figure


def _least(point: Summary) -> float:
    return float(point["mean"] if point["low"] is None else point["low"])


def over_epochs(scores: Sequence[Sequence[float | None]], names: Sequence[str], enough: int) -> Figure:
    """Draw the scores of configurations after 1, 2, ... epochs, and a line at the chosen number of epochs.

    Args:
        scores: The scores, (n, epochs); None for a failed training.
        names: The names of the configurations, (n,).
        enough: The number of epochs that is enough.
    """
    epochs = list(range(1, len(scores[0]) + 1))
    traces = [
        {
            **parts.line(
                epochs, [None if score is None else parts.digits(score) for score in row], name, hue(k), "solid"
            ),
            "mode": "lines+markers",
            "marker": parts.mark(hue(k), "circle", 8),
            "showlegend": False,
            "hovertemplate": f"{plain(name)}<br>%{{y:.4g}} after %{{x}} epochs<extra></extra>",
        }
        for k, (row, name) in enumerate(zip(scores, names, strict=True))
    ]
    figure = parts.figure(
        traces, x={"title": "epochs", "dtick": 1, "range": [0.8, len(epochs) + 0.2]}, y={"title": "score"}
    )
    rule = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": enough, "x1": enough}
    figure["layout"]["shapes"] = [{**rule, "line": {"color": FAINT, "dash": "dot", "width": 2}}]
    return figure


def renumbered(figure: Figure, facts: Facts, first: int) -> Figure:
    """Adapt a figure to a page of several studies, on which the trials of all studies are numbered consecutively.

    Args:
        figure: The figure. It is changed in place and returned.
        facts: The facts of the study that the figure shows.
        first: The number that the study's first trial gets on the page.
    """
    encode = {name: parameter.encode for name, parameter in facts.space.hyperparameters.items()}
    for trace in figure["data"]:
        meta = trace.get("meta", {})
        numbers = meta.get("trials", [])
        if over := meta.pop("over", None):
            trials = [facts.trials[number] for number in numbers]
            trace["x"], trace["y"] = (
                [t.number if name is None else parts.digits(encode[name](t.config[name])) for t in trials]
                for name in over
            )
        if numbers:
            meta["trials"] = [first + number for number in numbers]
    return figure
