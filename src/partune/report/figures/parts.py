"""Make the parts of figures in Plotly's format: traces, marks, bars and axes."""

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
Figure = dict[str, Any]  # has the keys data and layout

ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILLION, PURPLE, GREY = "#D55E00", "#CC79A7", "#8C8C8C"
SCALE = "Cividis"
# The colours of standard deviations: pale means a small standard deviation.
UNSURE = [[0, "#F7F4F9"], [0.5, "#B9A0CC"], [1, "#542788"]]
FAINT = "rgba(140,140,140,0.65)"
MANY = 300  # from this many trials on, marks are small
TITLE = 22  # the largest number of characters of an axis's title
# The quantile of the scores at which shading begins. A few very bad scores would otherwise take up the whole scale.
LOWEST = 0.1
SERIES = {  # the colour and the mark of each row of `Facts.scored`
    "base": (GREY, "circle"),
    "defaults": (BLUE, "square"),
    "best": (ORANGE, "star"),
}


# The colours, marks and dashes of second and further baselines. Their numbers have no common factor, so that each of
# many baselines has its own pair of colour and mark.
FURTHER = (PURPLE, SKY, GREY)
MARKS = ("diamond", "triangle-up", "pentagon", "triangle-down", "hexagon")
DASHES = ("dot", "dashdot", "longdash", "longdashdot")


def series(facts: Facts, name: str) -> tuple[str, str]:
    """Return the colour and the mark of a row of `Facts.scored`.

    Args:
        facts: The facts of the study.
        name: The name of the row.
    """
    if name in SERIES:
        return SERIES[name]
    number = _number(facts, name)
    return FURTHER[number % len(FURTHER)], MARKS[number % len(MARKS)]


def dash(facts: Facts, name: str) -> str:
    """Return the dash style of the training curves of a row of `Facts.scored`.

    Args:
        facts: The facts of the study.
        name: The name of the row.
    """
    known = {"best": "solid", "defaults": "dash"}
    return known[name] if name in known else DASHES[_number(facts, name) % len(DASHES)]


def _number(facts: Facts, name: str) -> int:
    """Return the index of a row among those of the further baselines."""
    return [other for other in facts.scored if other not in SERIES].index(name)


def plain(text: object) -> str:
    """Return a text escaped, so that Plotly shows it literally."""
    return html.escape(str(text), quote=False)


def broken(name: str) -> str:
    """Return a name broken into short lines."""
    return "<br>".join(plain(short(part, 9)) for part in name.replace("-", "-_").split("_"))


def floor(values: Sequence[float]) -> float:
    """Return the smallest score that is drawn at its true height; -inf if every score is drawn so.

    Smaller scores are drawn at the lower edge. A few very bad scores would otherwise squeeze all others together.
    """
    if not values:
        return -math.inf
    tenth, best = float(np.quantile(values, LOWEST)), max(values)
    low = tenth - (best - tenth)
    return low if min(values) < low else -math.inf


def score_name(facts: Facts) -> str:
    """Return the title of an axis that shows scores."""
    metric = facts.summary["loaded"].get("scoring", {}).get("metric")
    if metric is None:
        return "score"
    what = facts.goal.axis if facts.goal.lower_is_better else f"score: {plain(metric)}"
    return f"{what}, search items"


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit that suits a duration, and the number of seconds in the unit."""
    units = (("h", 3600.0, 7200.0), ("min", 60.0, 180.0), ("s", 1.0, 1.0))
    return next(((unit, size) for unit, size, least in units if seconds >= least), ("ms", 0.001))


def figure(traces: list[Trace], x: dict[str, Any], y: dict[str, Any]) -> Figure:
    """Return a figure with two axes.

    Args:
        traces: The traces to draw.
        x: The settings of the x axis. Its "title" is a plain string, not Plotly's mapping.
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
        x: The x coordinates, (n,).
        y: The y coordinates, (n,).
        name: The name in the legend.
        colour: The colour of the marks.
        trials: The trials that the marks stand for; the page shows their hover texts. None if there are none.
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
    """Return marks of trials, whose coordinates the page fills in.

    Args:
        trials: The trials.
        across: The name of the hyperparameter on the x axis; None for the trial's number.
        up: The name of the hyperparameter on the y axis.
    """
    meta = {"trials": [trial.number for trial in trials], "over": [across, up]}
    return {"type": "scatter", "mode": "markers", "meta": meta}


def line(x: Sequence[float | None], y: Sequence[float | None], name: str, colour: str, dash: str) -> Trace:
    """Return a line through points; None in x and y is a gap.

    Args:
        x: The x coordinates, (n,).
        y: The y coordinates, (n,).
        name: The name in the legend.
        colour: The colour of the line.
        dash: Plotly's name of the dash style, such as "solid".
    """
    line = {"color": colour, "width": 1.6, "dash": dash}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": plain(name), "line": line}


def steps(x: Sequence[float], y: Sequence[float], name: str) -> Trace:
    """Return the step line of a best score so far, which is level until there is a better score.

    Args:
        x: The x coordinates at which the best score may change, (n,).
        y: The best score from each x on, (n,).
        name: The name in the legend.
    """
    return {**line(x, y, name, GREEN, "solid"), "line": {"color": GREEN, "width": 2, "shape": "hv"}}


def mark(colour: str, symbol: str, size: int) -> dict[str, Any]:
    """Return the style of a mark.

    Args:
        colour: The colour of the mark.
        symbol: Plotly's name of the mark's shape.
        size: The width of the mark, in pixels.
    """
    outline = {"color": colour if symbol.endswith("open") else "rgba(0,0,0,0.75)"}
    return {"color": colour, "symbol": symbol, "size": size, "line": {**outline, "width": 1 if size > 7 else 0.5}}


def shaded(facts: Facts, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the style of marks of trials that are shaded by score.

    Args:
        facts: The facts of the study. All its scores set the scale.
        trials: The trials whose marks are shaded.
    """
    low, high = ends([trial.score for trial in facts.done])
    shade = {"color": [digits(t.score) for t in trials], "colorscale": SCALE, "cmin": low, "cmax": high}
    return {**shade, "size": 8 if len(trials) < MANY else 5, "line": {"color": FAINT, "width": 1}}


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and highest score of a figure's colour scale."""
    if not values:
        return 0.0, 1.0
    low, high = float(np.quantile(values, LOWEST)), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def stderr(trial: Trial) -> float | None:
    """Return the standard error of a trial's score; None if there is none."""
    return None if trial.observation is None else trial.observation.stderr


def bars(errors: Sequence[float | None], colour: str, faint: bool = True) -> dict[str, Any]:
    """Return error bars.

    Args:
        errors: The standard errors, (n,). None and values that are not finite have no bar.
        colour: The colour of the bars.
        faint: Whether to draw the bars thin and without caps.
    """
    known = [error if error is not None and math.isfinite(error) else None for error in errors]
    look = {"color": colour, "thickness": 1 if faint else 1.6, "width": 0 if faint else 4}
    return {"type": "data", "array": known, "visible": any(known), **look}


def bar(title: str) -> dict[str, Any]:
    """Return the colour bar beside a shaded figure."""
    look = {"thickness": 10, "outlinewidth": 0, "nticks": 6, "exponentformat": "e"}
    return {"title": {"text": title, "side": "right"}, **look}


def axis(space: Space, name: str, most: int = MOST) -> dict[str, Any]:
    """Return a hyperparameter's axis, which spans [0, 1] and has real values at its ticks.

    Args:
        space: The study's space.
        name: The hyperparameter's name.
        most: The largest number of ticks, approximately.
    """
    marks = ticks(space.hyperparameters[name], most)
    return {
        "title": plain(short(name, TITLE)),
        "tickvals": [tick.u for tick in marks],
        "ticktext": [plain(tick.text) for tick in marks],
        "range": [-0.04, 1.04],
    }


def whole(n: int) -> dict[str, Any]:
    """Return an axis for the integers 0, ..., n - 1."""
    return {"range": [-0.6, max(n, 2) - 0.4], **({"dtick": 1} if n <= 10 else {"nticks": 10})}


def bound(u: float) -> dict[str, Any]:
    """Return a dotted horizontal line at a y coordinate in [0, 1]."""
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
    """Return a number with five significant digits. No figure needs more, and the page is half as long."""
    return float(f"{value:.5g}")
