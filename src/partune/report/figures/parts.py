"""What the figures are made of: traces, marks, bars and axes, as Plotly takes them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from partune.report.facts import Facts
from partune.report.figures.axes import MOST, short, ticks
from partune.space import Space
from partune.trial import Trial

Trace = dict[str, Any]
Figure = dict[str, Any]  # data, layout

ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILLION, PURPLE, GREY = "#D55E00", "#CC79A7", "#8C8C8C"
SCALE = "Cividis"
UNSURE = [[0, "#F7F4F9"], [0.5, "#B9A0CC"], [1, "#542788"]]  # of standard deviations: pale where the process is sure
FAINT = "rgba(140,140,140,0.65)"
MANY = 300  # trials, from which marks are small
TITLE = 22  # characters of an axis's title, at most
LOWEST = 0.1  # quantile of the scores at which shading begins, as a few very bad scores would take all of it otherwise
SERIES = {  # colour, mark
    "base": (GREY, "circle"),
    "defaults": (BLUE, "square"),
    "best": (ORANGE, "star"),
}


def plain(text: object) -> str:
    """Return text that Plotly shows as it is."""
    return html.escape(str(text), quote=False)


def broken(name: str) -> str:
    """Return a name in lines of few characters."""
    return "<br>".join(plain(short(part, 9)) for part in name.replace("-", "-_").split("_"))


def floor(values: Sequence[float]) -> float:
    """Return the least score that is drawn in its place; -inf where all are.

    A few very bad scores would squeeze all others together otherwise, so they lie at the lower edge.
    """
    if not values:
        return -math.inf
    tenth, best = float(np.quantile(values, LOWEST)), max(values)
    low = tenth - (best - tenth)
    return low if min(values) < low else -math.inf


def score_name(facts: Facts) -> str:
    """Return the title of the score's axis."""
    metric = facts.summary["loaded"].get("scoring", {}).get("metric")
    return "score" if metric is None else f"score: {plain(metric)}, search items"


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit in which a duration is told, and its seconds."""
    units = (("h", 3600.0, 7200.0), ("min", 60.0, 180.0), ("s", 1.0, 1.0))
    return next(((unit, size) for unit, size, least in units if seconds >= least), ("ms", 0.001))


def figure(traces: list[Trace], x: dict[str, Any], y: dict[str, Any]) -> Figure:
    """Return a figure with two axes.

    Args:
        traces: What is drawn.
        x: The settings of the x axis; "title" is a text.
        y: The settings of the y axis.
    """
    axes = {}
    for name, axis in (("xaxis", x), ("yaxis", y)):
        title = axis.pop("title", None)
        axes[name] = {**axis, **({} if title is None else {"title": {"text": title}}), "zeroline": False}
    return {"data": traces, "layout": axes}


def points(
    x: Sequence[float], y: Sequence[float], name: str, colour: str, trials: Sequence[Trial] | None = None
) -> Trace:
    """Return marks at points.

    Args:
        x: Where they are across, (n,).
        y: Where they are up, (n,).
        name: Their name in the legend.
        colour: Their colour.
        trials: The trials that they stand for, of which the page tells where the pointer is.
    """
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [digits(value) for value in x],
        "y": [digits(value) for value in y],
        "name": plain(name),
        "marker": mark(colour, "circle", 7),
    }
    return trace if trials is None else {**trace, "meta": {"trials": [trial.number for trial in trials]}}


def placed(trials: Sequence[Trial], across: str | None, up: str) -> Trace:
    """Return marks at trials, whose places the page fills in.

    Args:
        trials: The trials.
        across: The name of the hyperparameter on the x axis; None for the trial's number.
        up: The name of the one on the y axis.
    """
    meta = {"trials": [trial.number for trial in trials], "over": [across, up]}
    return {"type": "scatter", "mode": "markers", "meta": meta}


def line(x: Sequence[float | None], y: Sequence[float | None], name: str, colour: str, dash: str) -> Trace:
    """Return a line through points; None in x and y is a gap.

    Args:
        x: Where they are across, (n,).
        y: Where they are up, (n,).
        name: Its name in the legend.
        colour: Its colour.
        dash: Plotly's name of the stroke, such as "solid".
    """
    line = {"color": colour, "width": 1.6, "dash": dash}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": plain(name), "line": line}


def steps(x: Sequence[float], y: Sequence[float], name: str) -> Trace:
    """Return the line of a best so far: level until there is better.

    Args:
        x: Where it changes, (n,).
        y: The best from there on, (n,).
        name: Its name in the legend.
    """
    return {**line(x, y, name, GREEN, "solid"), "line": {"color": GREEN, "width": 2, "shape": "hv"}}


def mark(colour: str, symbol: str, size: int) -> dict[str, Any]:
    """Return the look of a mark.

    Args:
        colour: Its colour.
        symbol: Plotly's name of its shape.
        size: Its width, in pixels.
    """
    outline = {"color": colour if symbol.endswith("open") else "rgba(0,0,0,0.75)"}
    return {"color": colour, "symbol": symbol, "size": size, "line": {**outline, "width": 1 if size > 7 else 0.5}}


def shaded(facts: Facts, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the look of trials' marks that are shaded by their scores.

    Args:
        facts: What is on record; all its scores set the scale.
        trials: The trials.
    """
    low, high = ends([trial.score for trial in facts.done])
    shade = {"color": [digits(t.score) for t in trials], "colorscale": SCALE, "cmin": low, "cmax": high}
    return {**shade, "size": 8 if len(trials) < MANY else 5, "line": {"color": FAINT, "width": 1}}


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return between which scores a figure is shaded."""
    if not values:
        return 0.0, 1.0
    low, high = float(np.quantile(values, LOWEST)), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def stderr(trial: Trial) -> float | None:
    """Return the standard error of a trial's score; None where it has none."""
    return None if trial.observation is None else trial.observation.stderr


def bars(errors: Sequence[float | None], colour: str, faint: bool = True) -> dict[str, Any]:
    """Return error bars.

    Args:
        errors: Standard errors, (n,); None and values that are not finite have no bar.
        colour: Their colour.
        faint: Draw them thin and without caps.
    """
    known = [error if error is not None and math.isfinite(error) else None for error in errors]
    look = {"color": colour, "thickness": 1 if faint else 1.6, "width": 0 if faint else 4}
    return {"type": "data", "array": known, "visible": any(known), **look}


def bar(title: str) -> dict[str, Any]:
    """Return the scale beside a shaded figure."""
    look = {"thickness": 10, "outlinewidth": 0, "nticks": 6, "exponentformat": "e"}
    return {"title": {"text": title, "side": "right"}, **look}


def axis(space: Space, name: str, most: int = MOST) -> dict[str, Any]:
    """Return a hyperparameter's axis: the unit cube, with real values at its ticks.

    Args:
        space: The study's space.
        name: The hyperparameter's name.
        most: About how many ticks there may be.
    """
    marks = ticks(space.hyperparameters[name], most)
    return {
        "title": plain(short(name, TITLE)),
        "tickvals": [tick.u for tick in marks],
        "ticktext": [plain(tick.text) for tick in marks],
        "range": [-0.04, 1.04],
    }


def whole(n: int) -> dict[str, Any]:
    """Return an axis of whole numbers 0, ..., n - 1."""
    return {"range": [-0.6, max(n, 2) - 0.4], **({"dtick": 1} if n <= 10 else {"nticks": 10})}


def bound(u: float) -> dict[str, Any]:
    """Return a dotted line across a figure, at a place in [0, 1]."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": u,
        "y1": u,
        "line": {"color": FAINT, "dash": "dot", "width": 1},
    }


def digits(value: float) -> float:
    """Return a number with five significant digits: no figure shows more, and the page is half as long."""
    return float(f"{value:.5g}")
