"""What the figures are made of: traces, marks, bars and axes."""

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


LOWEST = 0.1  # quantile of the scores at which shading begins: a few very bad scores would else take all of it


SERIES = {  # colour, mark
    "base": (GREY, "circle"),
    "defaults": (BLUE, "square"),
    "best": (ORANGE, "star"),
}


def plain(text: object) -> str:
    """Text that Plotly shows as it is."""
    return html.escape(str(text), quote=False)


def broken(name: str) -> str:
    """A name in lines of few characters."""
    return "<br>".join(plain(short(part, 9)) for part in name.replace("-", "-_").split("_"))


def floor(values: Sequence[float]) -> float:
    """The least score that is drawn in its place: a few very bad ones would else squeeze all others together."""
    if not values:
        return -math.inf
    tenth, best = float(np.quantile(values, LOWEST)), max(values)
    low = tenth - (best - tenth)
    return low if min(values) < low else -math.inf


def score_name(facts: Facts) -> str:
    metric = facts.summary["loaded"].get("scoring", {}).get("metric")
    return "score" if metric is None else f"score: {plain(metric)}, search items"


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which so long a time is told, and its seconds."""
    units = (("h", 3600.0, 7200.0), ("min", 60.0, 180.0), ("s", 1.0, 1.0))
    return next(((unit, size) for unit, size, least in units if seconds >= least), ("ms", 0.001))


def figure(traces: list[Trace], x: dict[str, Any], y: dict[str, Any]) -> Figure:
    axes = {}
    for name, axis in (("xaxis", x), ("yaxis", y)):
        title = axis.pop("title", None)
        axes[name] = {**axis, **({} if title is None else {"title": {"text": title}}), "zeroline": False}
    return {"data": traces, "layout": axes}


def points(
    x: Sequence[float], y: Sequence[float], name: str, colour: str, trials: Sequence[Trial] | None = None
) -> Trace:
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [digits(each) for each in x],
        "y": [digits(each) for each in y],
        "name": plain(name),
        "marker": mark(colour, "circle", 7),
    }
    return trace if trials is None else {**trace, "meta": {"trials": [trial.number for trial in trials]}}


def placed(trials: Sequence[Trial], across: str | None, up: str) -> Trace:
    """Marks at the trials' places in the unit cube, which the page fills in; across: None for their numbers."""
    meta = {"trials": [trial.number for trial in trials], "over": [across, up]}
    return {"type": "scatter", "mode": "markers", "meta": meta}


def line(x: Sequence[float | None], y: Sequence[float | None], name: str, colour: str, dash: str) -> Trace:
    line = {"color": colour, "width": 1.6, "dash": dash}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": plain(name), "line": line}


def steps(x: Sequence[float], y: Sequence[float], name: str) -> Trace:
    """The best so far of something: level until there is better."""
    return {**line(x, y, name, GREEN, "solid"), "line": {"color": GREEN, "width": 2, "shape": "hv"}}


def mark(colour: str, symbol: str, size: int) -> dict[str, Any]:
    outline = {"color": colour if symbol.endswith("open") else "rgba(0,0,0,0.75)"}
    return {"color": colour, "symbol": symbol, "size": size, "line": {**outline, "width": 1 if size > 7 else 0.5}}


def shaded(facts: Facts, trials: Sequence[Trial]) -> dict[str, Any]:
    low, high = ends([trial.score for trial in facts.done])
    shade = {"color": [digits(t.score) for t in trials], "colorscale": SCALE, "cmin": low, "cmax": high}
    return {**shade, "size": 8 if len(trials) < MANY else 5, "line": {"color": FAINT, "width": 1}}


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Between which scores are shaded."""
    if not values:
        return 0.0, 1.0
    low, high = float(np.quantile(values, LOWEST)), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def stderr(trial: Trial) -> float | None:
    return None if trial.observation is None else trial.observation.stderr


def bars(errors: Sequence[float | None], colour: str, faint: bool = True) -> dict[str, Any]:
    known = [each if each is not None and math.isfinite(each) else None for each in errors]
    look = {"color": colour, "thickness": 1 if faint else 1.6, "width": 0 if faint else 4}
    return {"type": "data", "array": known, "visible": any(known), **look}


def bar(title: str) -> dict[str, Any]:
    """The scale of a shaded figure."""
    look = {"thickness": 10, "outlinewidth": 0, "nticks": 6, "exponentformat": "e"}
    return {"title": {"text": title, "side": "right"}, **look}


def axis(space: Space, name: str, most: int = MOST) -> dict[str, Any]:
    """A hyperparameter's axis: the unit cube, with real values at its ticks."""
    marks = ticks(space.hyperparameters[name], most)
    return {
        "title": plain(short(name, TITLE)),
        "tickvals": [tick.u for tick in marks],
        "ticktext": [plain(tick.text) for tick in marks],
        "range": [-0.04, 1.04],
    }


def whole(n: int) -> dict[str, Any]:
    """An axis of whole numbers 0, ..., n - 1."""
    return {"range": [-0.6, max(n, 2) - 0.4], **({"dtick": 1} if n <= 10 else {"nticks": 10})}


def bound(u: float) -> dict[str, Any]:
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
    return float(f"{value:.5g}")
