"""Draw the figures about hyperparameters: over trials, parallel coordinates, importances, planes of the surrogate."""

from __future__ import annotations

import numpy as np

from partune.report.analysis.importance import Importance
from partune.report.analysis.slices import Plane
from partune.report.facts import Facts
from partune.report.figures import parts
from partune.report.figures.axes import short, ticks
from partune.report.figures.parts import (
    BLUE,
    FAINT,
    MANY,
    ORANGE,
    SCALE,
    SKY,
    TITLE,
    UNSURE,
    VERMILLION,
    Figure,
    Trace,
    broken,
    ends,
    plain,
)
from partune.runtime import rounding
from partune.trial import Status


def over_trials(facts: Facts, name: str) -> Figure:
    """Draw one hyperparameter over trials, shaded by the score, with dotted lines at its bounds.

    Args:
        facts: The facts of the study.
        name: The hyperparameter's name.
    """
    done = [trial for trial in facts.done if name in trial.config]
    failed = [trial for trial in facts.trials if trial.status is Status.FAILED and name in trial.config]
    encode = facts.space.hyperparameters[name].encode
    traces: list[Trace] = []
    if done:
        traces.append({**parts.placed(done, None, name), "name": "done", "marker": parts.shaded(facts, done)})
    if failed:
        traces.append({**parts.placed(failed, None, name), "name": "failed", "marker": parts.mark(VERMILLION, "x", 7)})
    if (winner := facts.winner) is not None and name in winner.config:
        trace = parts.points([winner.number], [encode(winner.config[name])], "winner", ORANGE, [winner])
        traces.append({**trace, "marker": parts.mark(ORANGE, "star", 14)})
    marks = ticks(facts.space.hyperparameters[name])
    figure = parts.figure(
        traces, x={"title": "trial", **parts.whole(len(facts.trials))}, y=parts.axis(facts.space, name)
    )
    figure["layout"] |= {"shapes": [parts.bound(tick.u) for tick in (marks[0], marks[-1])], "showlegend": False}
    return figure


def parallel(facts: Facts) -> Figure:
    """Draw each trial as a line through its hyperparameters and its score, with better trials on top."""
    names = list(facts.space.names)
    low, high = ends([trial.score for trial in facts.done])
    ordered = sorted(facts.done, key=lambda trial: trial.score)
    n = len(ordered)
    half, tenth = n - n // 2, n - max(1, n // 10)
    classes = (
        (ordered[:half] if n > 2 else [], "worse half", FAINT, 1.0),
        (ordered[half:tenth] if n > 2 else ordered[:tenth], "better half", SKY, 1.3),
        (ordered[tenth:], "best tenth", BLUE, 2.2),
        ([facts.winner] if facts.winner is not None else [], "winner", ORANGE, 3.5),
    )
    traces = []
    for trials, label, colour, width in classes:
        if not trials:
            continue
        x: list[float | None] = []
        y: list[float | None] = []
        for trial in trials:
            x += [*range(len(names) + 1), None]
            y += [
                facts.space.hyperparameters[k].encode(v) if (v := trial.config.get(k)) is not None else None
                for k in names
            ]
            y += [(max(trial.score, low) - low) / (high - low), None]
        traces.append(
            {
                **parts.line(x, y, label, colour, "solid"),
                "line": {"color": colour, "width": width if n < 200 else width / 2},
                "hoverinfo": "skip",
            }
        )
    marks = [(k, tick) for k, name in enumerate(names) for tick in ticks(facts.space.hyperparameters[name], 5)]
    score_ticks = np.linspace(low, high, 5).tolist()
    traces.append(
        {
            "type": "scatter",
            "mode": "text",
            "x": [*(k for k, _ in marks), *[len(names)] * 5],
            "y": [*(tick.u for _, tick in marks), *np.linspace(0, 1, 5).tolist()],
            "text": [
                *(plain(tick.text) for _, tick in marks),
                f"≤ {rounding.number(low, 3)}",
                *(rounding.number(score, 3) for score in score_ticks[1:]),
            ],
            "textposition": "middle right",
            "hoverinfo": "skip",
            "showlegend": False,
            "meta": {"halo": True},
        }
    )
    figure = parts.figure(
        traces,
        x={
            "tickvals": list(range(len(names) + 1)),
            "ticktext": [*map(broken, names), "score"],
            "range": [-0.45, len(names) + 0.9],
            "side": "bottom",
            "showgrid": True,
        },
        y={"visible": False, "range": [-0.06, 1.06]},
    )
    figure["layout"]["margin"] = {"l": 8, "r": 8, "t": 8, "b": 40}
    return figure


def importances(importance: Importance) -> Figure:
    """Draw the hyperparameters' shares of the scores' variance as bars."""
    names = list(importance.shares)[::-1]
    shares = [100 * importance.shares[name] for name in names]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": shares,
        "y": [plain(short(name, TITLE)) for name in names],
        "text": [rounding.percent(share / 100) for share in shares],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": BLUE},
        "hovertemplate": "%{y}: %{x:.0f} %<extra></extra>",
    }
    figure = parts.figure([trace], x={"title": "share of variance, %", "range": [0, 112]}, y={})
    figure["layout"] |= {"showlegend": False}
    return figure


def plane(facts: Facts, cut: Plane, uncertain: bool) -> Figure:
    """Draw the surrogate's mean or standard deviation over two hyperparameters, with the trials as dots.

    Args:
        facts: The facts of the study.
        cut: The plane through the surrogate.
        uncertain: Whether to draw the standard deviation instead of the mean.
    """
    values = cut.std if uncertain else cut.mean
    smooth = all(facts.space.hyperparameters[name].values is None for name in (cut.across, cut.up))
    title = "± score" if uncertain else "score"
    trace: Trace = {
        "type": "contour" if smooth else "heatmap",
        "x": cut.x,
        "y": cut.y,
        "z": [[parts.digits(value) for value in row] for row in values.tolist()],
        "colorscale": UNSURE if uncertain else SCALE,
        "colorbar": parts.bar(title),
        "hovertemplate": f"{title} %{{z:.4g}}<extra></extra>",
    }
    scores = [trial.score for trial in facts.done]
    low, high = (0.0, float(values.max()) or 1.0) if uncertain else ends(scores)
    trace |= {"zmin": low, "zmax": high}
    if smooth:
        trace |= {"contours": {"coloring": "heatmap"}, "line": {"width": 0.6, "color": "rgba(255,255,255,0.45)"}}
    traces = [trace, *dots(facts, cut.across, cut.up)]
    figure = parts.figure(traces, x=parts.axis(facts.space, cut.across, 4), y=parts.axis(facts.space, cut.up))
    figure["layout"] |= {"showlegend": False}
    return figure


def dots(facts: Facts, across: str, up: str) -> list[Trace]:
    """Return the marks of the trials over two hyperparameters, with a star for the winner.

    Args:
        facts: The facts of the study.
        across: The name of the hyperparameter on the x axis.
        up: The name of the hyperparameter on the y axis.
    """
    existing = [trial for trial in facts.done if across in trial.config and up in trial.config]
    small = {"color": "#FFFFFF", "size": 5 if len(existing) < MANY else 3, "line": {"color": "#000000", "width": 1}}
    traces = [{**parts.placed(existing, across, up), "name": "trials", "marker": small}]
    if (winner := facts.winner) is not None and across in winner.config and up in winner.config:
        x, y = (facts.space.hyperparameters[name].encode for name in (across, up))
        star = parts.points([x(winner.config[across])], [y(winner.config[up])], "winner", ORANGE, [winner])
        traces.append({**star, "marker": parts.mark(ORANGE, "star", 15)})
    return traces
