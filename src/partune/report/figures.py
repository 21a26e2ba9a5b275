"""The report's figures, as Plotly's JSON: traces and a layout, without titles (the page has headings and captions).

Colours are Okabe and Ito's (2008), which people with any kind of colour vision tell apart, and differ in their marks
too; scores are shaded by cividis (Nuñez, Anderton and Renslow 2018). What depends on light or dark is the page's.

A trace whose `meta.trials` lists numbers of trials has what is said of these when the pointer is on a mark, and, where
`meta.over` names hyperparameters, their places in the unit cube (None: their numbers): the page holds both once for all
figures, and fills them in. Whatever comes from a study is `plain`, as Plotly reads markup in labels.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from partune.report import words
from partune.report.axes import MOST, short, ticks
from partune.report.cells import Partition, Region
from partune.report.facts import Facts, Part
from partune.report.importance import Importance
from partune.report.sentences import NAMES
from partune.report.slices import Plane
from partune.report.summary import Summary
from partune.space import Space
from partune.trial import Status, Trial

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

HUES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)  # of algorithms

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


# ----- scores


def scores(facts: Facts) -> Figure:
    """Score over trials: phases, standard errors, best so far, base and defaults, further runs, the winner.

    Scores below `floor` lie at the lower edge, as triangles.
    """
    done, n = facts.done, len(facts.trials)
    lines = [facts.scored[name]["score"] for name in ("base", "defaults") if name in facts.scored]
    low = min([floor([trial.score for trial in done]), *lines])
    traces: list[Trace] = []
    for name in ("base", "defaults"):
        if name in facts.scored and n:
            row, (colour, _) = facts.scored[name], SERIES[name]
            dash = "dot" if name == "base" else "dash"
            traces.append(_line([-0.5, n - 0.5], [row["score"]] * 2, NAMES[name], colour, dash))
    shown = [trial for trial in done if trial.score >= low]
    stopped = [trial for trial in facts.trials if trial.status is Status.STOPPED and trial.score >= low]
    below = [t for t in facts.trials if t.status in (Status.DONE, Status.STOPPED) and t.score < low]
    start = [trial for trial in shown if trial.number < facts.n_init]
    search = [trial for trial in shown if trial.number >= facts.n_init]
    traces += _marked(start, "start", SKY, "circle-open")
    traces += _marked(search, "search" if facts.n_init else "trial", BLUE, "circle")
    traces += _marked(stopped, "stopped early", PURPLE, "square-open")
    if below:
        trace = _points([t.number for t in below], [low] * len(below), f"below {words.number(low, 2)}", BLUE, below)
        traces.append({**trace, "marker": _mark(BLUE, "triangle-down", 9)})
    again = [(number, each) for number, runs in facts.again.items() for each in runs if each.status is Status.DONE]
    if again:
        errors = [_stderr(each) for _, each in again]
        x, y = [number for number, _ in again], [max(each.score, low) for _, each in again]
        trace = _points(x, y, "confirmed", PURPLE)
        traces.append({**trace, "error_y": _bars(errors, PURPLE), "marker": _mark(PURPLE, "diamond-open", 9)})
    if facts.best_so_far:
        numbers, best = zip(*facts.best_so_far, strict=True)
        steps = _steps(list(numbers), [max(each, low) for each in best], "best so far")
        traces.append({**steps, "hoverinfo": "skip"})
    traces += _failed(facts, [*lines, *(max(trial.score, low) for trial in done)])
    if (winner := facts.winner) is not None:
        trace = _points([winner.number], [winner.score], "winner", ORANGE, [winner])
        traces.append({**trace, "marker": _mark(ORANGE, "star", 15)})
    axis: dict[str, Any] = {"title": score_name(facts)}
    if not (done or lines):
        axis = {"title": "no score", "showticklabels": False}
    return _figure(traces, x={"title": "trial", **_whole(n)}, y=axis)


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


def _marked(trials: Sequence[Trial], name: str, colour: str, symbol: str) -> list[Trace]:
    """Marks with standard errors; of many trials as one line with gaps, which a browser draws much faster."""
    if not trials:
        return []
    errors = [_stderr(trial) for trial in trials]
    trace = _points([t.number for t in trials], [t.score for t in trials], name, colour, trials)
    if len(trials) < MANY:
        return [{**trace, "error_y": _bars(errors, colour), "marker": _mark(colour, symbol, 8)}]
    x: list[float | None] = []
    y: list[float | None] = []
    for trial, error in zip(trials, errors, strict=True):
        if words.uncertain(error) and error is not None:
            x += [trial.number, trial.number, None]
            y += [_digits(trial.score - error), _digits(trial.score + error), None]
    bars = {**_line(x, y, "standard errors", FAINT, "solid"), "line": {"color": FAINT, "width": 1}, "hoverinfo": "skip"}
    return [*([bars] if x else []), {**trace, "marker": _mark(colour, symbol, 5)}]


def _failed(facts: Facts, scored: Sequence[float]) -> list[Trace]:
    """Crosses below all scores."""
    failed = [trial for trial in facts.trials if trial.status is Status.FAILED]
    if not failed:
        return []
    low, high = min(scored, default=0.0), max(scored, default=1.0)
    y = low - 0.08 * ((high - low) or 1.0)
    trace = _points([t.number for t in failed], [y] * len(failed), "failed", VERMILLION, failed)
    return [{**trace, "marker": _mark(VERMILLION, "x", 8)}]


# ----- hyperparameters


def over_trials(facts: Facts, name: str) -> Figure:
    """One hyperparameter over trials, shaded by the score; the dotted lines are its bounds."""
    done = [trial for trial in facts.done if name in trial.config]
    failed = [trial for trial in facts.trials if trial.status is Status.FAILED and name in trial.config]
    place = facts.space.hyperparameters[name].encode
    traces: list[Trace] = []
    if done:
        traces.append({**_placed(done, None, name), "name": "done", "marker": _shaded(facts, done)})
    if failed:
        traces.append({**_placed(failed, None, name), "name": "failed", "marker": _mark(VERMILLION, "x", 7)})
    if (winner := facts.winner) is not None and name in winner.config:
        trace = _points([winner.number], [place(winner.config[name])], "winner", ORANGE, [winner])
        traces.append({**trace, "marker": _mark(ORANGE, "star", 14)})
    marks = ticks(facts.space.hyperparameters[name])
    figure = _figure(traces, x={"title": "trial", **_whole(len(facts.trials))}, y=_axis(facts.space, name))
    figure["layout"] |= {"shapes": [_bound(tick.u) for tick in (marks[0], marks[-1])], "showlegend": False}
    return figure


def parallel(facts: Facts) -> Figure:
    """Each trial as a line through its hyperparameters and its score; the better ones are drawn last."""
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
                **_line(x, y, label, colour, "solid"),
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
                f"≤ {words.number(low, 3)}",
                *(words.number(score, 3) for score in score_ticks[1:]),
            ],
            "textposition": "middle right",
            "hoverinfo": "skip",
            "showlegend": False,
            "meta": {"halo": True},
        }
    )
    figure = _figure(
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


def importances(found: Importance) -> Figure:
    names = list(found.shares)[::-1]
    shares = [100 * found.shares[name] for name in names]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": shares,
        "y": [plain(short(name, TITLE)) for name in names],
        "text": [f"{share:.0f} %" for share in shares],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": BLUE},
        "hovertemplate": "%{y}: %{x:.0f} %<extra></extra>",
    }
    figure = _figure([trace], x={"title": "share of variance, %", "range": [0, 112]}, y={})
    figure["layout"] |= {"showlegend": False}
    return figure


# ----- the surrogate


def plane(facts: Facts, cut: Plane, uncertain: bool) -> Figure:
    """The mean of the process over two hyperparameters, with the trials; or its standard deviation."""
    values = cut.std if uncertain else cut.mean
    smooth = all(facts.space.hyperparameters[name].values is None for name in (cut.across, cut.up))
    title = "± score" if uncertain else "score"
    trace: Trace = {
        "type": "contour" if smooth else "heatmap",
        "x": cut.x,
        "y": cut.y,
        "z": [[_digits(each) for each in row] for row in values.tolist()],
        "colorscale": UNSURE if uncertain else SCALE,
        "colorbar": _bar(title),
        "hovertemplate": f"{title} %{{z:.4g}}<extra></extra>",
    }
    found = [trial.score for trial in facts.done]
    low, high = (0.0, float(values.max()) or 1.0) if uncertain else ends(found)
    trace |= {"zmin": low, "zmax": high}
    if smooth:
        trace |= {"contours": {"coloring": "heatmap"}, "line": {"width": 0.6, "color": "rgba(255,255,255,0.45)"}}
    traces = [trace, *_places(facts, cut.across, cut.up)]
    figure = _figure(traces, x=_axis(facts.space, cut.across, 4), y=_axis(facts.space, cut.up))
    figure["layout"] |= {"showlegend": False}
    return figure


def _places(facts: Facts, across: str, up: str) -> list[Trace]:
    """The trials over two hyperparameters."""
    there = [trial for trial in facts.done if across in trial.config and up in trial.config]
    small = {"color": "#FFFFFF", "size": 5 if len(there) < MANY else 3, "line": {"color": "#000000", "width": 1}}
    traces = [{**_placed(there, across, up), "name": "trials", "marker": small}]
    if (winner := facts.winner) is not None and across in winner.config and up in winner.config:
        x, y = (facts.space.hyperparameters[name].encode for name in (across, up))
        star = _points([x(winner.config[across])], [y(winner.config[up])], "winner", ORANGE, [winner])
        traces.append({**star, "marker": _mark(ORANGE, "star", 15)})
    return traces


# ----- the partition


def cells(facts: Facts, found: Partition, across: str, up: str) -> Figure:
    """The cells that a plane through the winner cuts, shaded by their score; of balls, their shadows."""
    axes = facts.space.names.index(across), facts.space.names.index(up)
    winner = facts.winner
    point = (0.5,) * facts.space.dimension if winner is None else facts.space.encode(winner.config)
    if found.round:
        traces: list[Trace] = [_outlines([_circle(each, axes) for each in found.regions])]
    else:
        cut = [each for each in found.regions if _holds(each, point, axes)]
        boxes = [_box(each, axes) for each in cut]
        traces = [*_mosaic(facts, cut, axes), _outlines(boxes)]
    figure = _figure([*traces, *_places(facts, across, up)], x=_axis(facts.space, across, 4), y=_axis(facts.space, up))
    figure["layout"] |= {"showlegend": False}
    return figure


def _holds(region: Region, point: Sequence[float], free: tuple[int, int]) -> bool:
    """Whether the plane through a point, along two free axes, cuts a region."""
    return all(
        k in free or low <= u < high or (u == high == 1)
        for k, (low, u, high) in enumerate(zip(region.lower, point, region.upper, strict=True))
    )


def _mosaic(facts: Facts, regions: Sequence[Region], axes: tuple[int, int]) -> list[Trace]:
    """A heat map whose lines are the edges of the cells; the deeper ones lie upon their parents."""
    if all(math.isnan(each.score) for each in regions):
        return []
    x, y = (sorted({edge for each in regions for edge in (each.lower[k], each.upper[k])}) for k in axes)
    z = np.full((len(y) - 1, len(x) - 1), np.nan)
    for each in regions:
        columns = slice(x.index(each.lower[axes[0]]), x.index(each.upper[axes[0]]))
        rows = slice(y.index(each.lower[axes[1]]), y.index(each.upper[axes[1]]))
        z[rows, columns] = each.score if math.isfinite(each.score) else np.nan
    low, high = ends([trial.score for trial in facts.done])
    return [
        {
            "type": "heatmap",
            "x": x,
            "y": y,
            "z": [[None if math.isnan(each) else _digits(each) for each in row] for row in z.tolist()],
            "zmin": low,
            "zmax": high,
            "colorscale": SCALE,
            "colorbar": _bar("score"),
            "hovertemplate": "cell's score %{z:.4g}<extra></extra>",
        }
    ]


def _box(region: Region, axes: tuple[int, int]) -> list[tuple[float, float]]:
    (left, bottom), (right, top) = ([side[k] for k in axes] for side in (region.lower, region.upper))
    return [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]


def _circle(region: Region, axes: tuple[int, int]) -> list[tuple[float, float]]:
    (left, bottom), (right, top) = ([side[k] for k in axes] for side in (region.lower, region.upper))
    angles = np.linspace(0, 2 * np.pi, 49)
    x, y, r = (left + right) / 2, (bottom + top) / 2, (right - left) / 2
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for angle in angles] if top > bottom else []


def _outlines(shapes: Iterable[Sequence[tuple[float, float]]]) -> Trace:
    x: list[float | None] = []
    y: list[float | None] = []
    for shape in dict.fromkeys(map(tuple, shapes)):
        x += [_digits(u) for u, _ in shape] + [None]
        y += [_digits(u) for _, u in shape] + [None]
    return {**_line(x, y, "cells", FAINT, "solid"), "line": {"color": FAINT, "width": 1}, "hoverinfo": "skip"}


def depths(found: Partition) -> Figure:
    """How deep the search was, over trials."""
    traces = []
    for visits, name, colour, symbol in (
        (found.inferred, "inferred, not evaluated", SKY, "circle-open"),
        (found.depths, "evaluated", BLUE, "circle"),
    ):
        if visits:
            x, y = zip(*visits, strict=True)
            traces.append({**_points(list(x), list(y), name, colour), "marker": _mark(colour, symbol, 7)})
    if found.depths:
        numbers, reached = zip(*found.depths, strict=True)
        traces.insert(0, _steps(list(numbers), np.maximum.accumulate(reached).tolist(), "deepest so far"))
    whole = _whole(1 + max((number for number, _ in found.depths), default=0))
    return _figure(traces, x={"title": "trial", **whole}, y={"title": "depth (cuts)", "rangemode": "tozero"})


# ----- is it real?


def sides(facts: Facts) -> Figure:
    """Base, defaults and winner on search items, verdict items and test tasks."""
    places = {"search": "search<br>items", "verdict": "verdict<br>items"}
    places |= {f"test/{task}": f"test:<br>{broken(task)}" for task in facts.tests}
    traces = []
    for k, (name, row) in enumerate(facts.scored.items()):
        label, (colour, symbol) = NAMES[name], SERIES[name]
        given = {"search": row, "verdict": row["verdict"]}
        given |= {f"test/{task}": row["test"].get(task) for task in facts.tests}
        known = [(x, part) for x, part in enumerate(given.values()) if part is not None]
        trace = _points([x + 0.12 * (k - 1) for x, _ in known], [part["score"] for _, part in known], label, colour)
        error = _bars([part["stderr"] for _, part in known], colour, faint=False)
        text = [f"{label}: {words.measured(part['score'], part['stderr'])}" for _, part in known]
        look = {
            "error_y": error,
            "marker": _mark(colour, symbol, 11),
            "text": text,
            "hovertemplate": "%{text}<extra></extra>",
        }
        traces.append({**trace, **look})
    x = {"tickvals": list(range(len(places))), "ticktext": list(places.values()), "range": [-0.5, len(places) - 0.5]}
    return _figure(traces, x=x, y={"title": "score"})


def against_test(facts: Facts, task: str) -> Figure:
    """Score on the search items against a test task's, of every trial that was tested."""
    tested = [
        (facts.trials[row["id"]], row["test"][task])
        for row in facts.summary["trials"]
        if row["status"] == Status.DONE and task in row["test"]
    ]
    trials = [trial for trial, _ in tested]
    trace = _points([t.score for t in trials], [part["score"] for _, part in tested], "trials", BLUE, trials)
    traces = [{**trace, "error_y": _bars([part["stderr"] for _, part in tested], BLUE)}]
    for name, row in facts.scored.items():
        if task in row["test"]:
            label, (colour, symbol) = NAMES[name], SERIES[name]
            point = _points([row["score"]], [row["test"][task]["score"]], label, colour)
            traces.append({**point, "marker": _mark(colour, symbol, 13)})
    return _figure(traces, x={"title": score_name(facts)}, y={"title": f"score on {plain(task)}"})


# ----- time


def spent(parts: Sequence[Part]) -> Figure:
    """One bar of the study's time."""
    unit, size = time_unit(sum(part.seconds for part in parts))
    colours = (BLUE, SKY, PURPLE, GREEN, ORANGE, GREY)
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(part.name),
            "x": [part.seconds / size],
            "y": [""],
            "marker": {"color": colour},
            "hovertemplate": f"{plain(part.name)}: %{{x:.3g}} {unit}<extra></extra>",
        }
        for part, colour in zip(parts, colours, strict=False)
    ]
    figure = _figure(traces, x={"title": f"time of all workers, {unit}"}, y={"visible": False})
    figure["layout"] |= {"barmode": "stack", "bargap": 0.3, "showlegend": True, "legend": {"traceorder": "normal"}}
    return figure


def over_time(facts: Facts) -> Figure:
    """Best score so far against the time that all trials told until then took."""
    told = sorted((t for t in facts.trials if t.observation is not None), key=lambda trial: trial.told or 0)
    seconds = np.cumsum([t.observation.cost.get("seconds", 0.0) for t in told if t.observation is not None])
    unit, size = time_unit(float(seconds[-1]) if len(seconds) else 0.0)
    best = np.maximum.accumulate([t.score if t.status is Status.DONE else -math.inf for t in told])
    known = [(float(s) / size, float(b)) for s, b in zip(seconds, best, strict=True) if math.isfinite(b)]
    trace = _steps([s for s, _ in known], [b for _, b in known], "best so far")
    reach = [0, 1.02 * max((s for s, _ in known), default=1.0) or 1.0]
    figure = _figure(
        [trace], x={"title": f"time of the trials, {unit}", "range": reach}, y={"title": "best score so far"}
    )
    figure["layout"] |= {"showlegend": False}
    return figure


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which so long a time is told, and its seconds."""
    units = (("h", 3600.0, 7200.0), ("min", 60.0, 180.0), ("s", 1.0, 1.0))
    return next(((unit, size) for unit, size, least in units if seconds >= least), ("ms", 0.001))


# ----- several studies


def hue(k: int) -> str:
    """The colour of algorithm k."""
    return HUES[k % len(HUES)]


def dashed(k: int) -> bool:
    """Every other one, so that of two that are the same both are seen."""
    return (k + k // len(HUES)) % 2 == 1


def best_so_far(algorithms: Sequence[Summary], which: str) -> Figure:
    """Best score so far of a comparison's algorithms, with 95 % intervals; which: by_trial or by_seconds."""
    unit, size = ("trials", 1.0) if which == "by_trial" else time_unit(max(a[which][-1]["seconds"] for a in algorithms))
    points = [point for own in algorithms for point in own[which]]
    low = floor([point["mean"] for point in points])
    low = low if math.isfinite(low) else min(_least(point) for point in points)
    high = max(point["mean"] if point["high"] is None else point["high"] for point in points)
    bands, lines = [], []
    for k, own in enumerate(algorithms):
        course = own[which]
        x = [_digits(point["trials" if which == "by_trial" else "seconds"] / size) for point in course]
        line = _line(x, [_digits(point["mean"]) for point in course], own["algorithm"], hue(k), "solid")
        line["line"] |= {"width": 2.4, "shape": "hv", "dash": "dash" if dashed(k) else "solid"}
        lines.append(
            {**line, "hovertemplate": f"{plain(own['algorithm'])}: %{{y:.4g}} after %{{x:.3g}} {unit}<extra></extra>"}
        )
        if course[0]["low"] is not None:
            for edge, fill in (("low", {}), ("high", {"fill": "tonexty", "fillcolor": f"{hue(k)}1F"})):
                band = _line(x, [_digits(point[edge]) for point in course], "", hue(k), "solid")
                band |= {"line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False}
                bands.append({**band, **fill})
    room = 0.04 * (high - low or 1.0)
    figure = _figure(
        [*bands, *lines],
        x={"title": unit if which == "by_trial" else f"time of the trials, {unit}", "rangemode": "tozero"},
        y={"title": "best score so far", "range": [low - room, high + room]},
    )
    figure["layout"]["legend"] = {"traceorder": "normal"}  # not reversed, as it would be of filled traces
    return figure


def _least(point: Summary) -> float:
    return float(point["mean"] if point["low"] is None else point["low"])


def over_epochs(scores: Sequence[Sequence[float | None]], names: Sequence[str], enough: int) -> Figure:
    """Scores of configurations after 1, 2, ... epochs, (n, epochs), None for a failure; a rule at what is enough."""
    epochs = list(range(1, len(scores[0]) + 1))
    traces = [
        {
            **_line(epochs, [None if each is None else _digits(each) for each in row], name, hue(k), "solid"),
            "mode": "lines+markers",
            "marker": _mark(hue(k), "circle", 8),
            "showlegend": False,
            "hovertemplate": f"{plain(name)}<br>%{{y:.4g}} after %{{x}} epochs<extra></extra>",
        }
        for k, (row, name) in enumerate(zip(scores, names, strict=True))
    ]
    figure = _figure(traces, x={"title": "epochs", "dtick": 1, "range": [0.8, len(epochs) + 0.2]}, y={"title": "score"})
    rule = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": enough, "x1": enough}
    figure["layout"]["shapes"] = [{**rule, "line": {"color": FAINT, "dash": "dot", "width": 2}}]
    return figure


def tested(facts: Facts, task: str) -> Figure:
    """Score on a test task over trials, of every trial that was tested."""
    rows = [row for row in facts.summary["trials"] if row["status"] == Status.DONE and task in row["test"]]
    n = len(facts.trials)
    traces: list[Trace] = []
    for name in ("base", "defaults"):
        if name in facts.scored and task in facts.scored[name]["test"]:
            score, dash = facts.scored[name]["test"][task]["score"], "dot" if name == "base" else "dash"
            traces.append(_line([-0.5, n - 0.5], [score] * 2, NAMES[name], SERIES[name][0], dash))
    trials, given = [facts.trials[row["id"]] for row in rows], [row["test"][task] for row in rows]
    trace = _points([t.number for t in trials], [part["score"] for part in given], "trial", PURPLE, trials)
    traces.append({**trace, "error_y": _bars([part["stderr"] for part in given], PURPLE)})
    if (winner := facts.winner) is not None and task in (found := facts.summary["best"]["test"]):
        trace = _points([winner.number], [found[task]["score"]], "winner", ORANGE, [winner])
        traces.append({**trace, "marker": _mark(ORANGE, "star", 15)})
    return _figure(traces, x={"title": "trial", **_whole(n)}, y={"title": f"score on {plain(task)}"})


def apart(figure: Figure, facts: Facts, first: int) -> Figure:
    """The figure for a page of several studies, on which the trials of this one are counted from `first`."""
    encode = {name: each.encode for name, each in facts.space.hyperparameters.items()}
    for trace in figure["data"]:
        meta = trace.get("meta", {})
        numbers = meta.get("trials", [])
        if over := meta.pop("over", None):
            trials = [facts.trials[number] for number in numbers]
            trace["x"], trace["y"] = (
                [t.number if name is None else _digits(encode[name](t.config[name])) for t in trials] for name in over
            )
        if numbers:
            meta["trials"] = [first + number for number in numbers]
    return figure


# ----- what they are made of


def _figure(traces: list[Trace], x: dict[str, Any], y: dict[str, Any]) -> Figure:
    axes = {}
    for name, axis in (("xaxis", x), ("yaxis", y)):
        title = axis.pop("title", None)
        axes[name] = {**axis, **({} if title is None else {"title": {"text": title}}), "zeroline": False}
    return {"data": traces, "layout": axes}


def _points(
    x: Sequence[float], y: Sequence[float], name: str, colour: str, trials: Sequence[Trial] | None = None
) -> Trace:
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [_digits(each) for each in x],
        "y": [_digits(each) for each in y],
        "name": plain(name),
        "marker": _mark(colour, "circle", 7),
    }
    return trace if trials is None else {**trace, "meta": {"trials": [trial.number for trial in trials]}}


def _placed(trials: Sequence[Trial], across: str | None, up: str) -> Trace:
    """Marks at the trials' places in the unit cube, which the page fills in; across: None for their numbers."""
    meta = {"trials": [trial.number for trial in trials], "over": [across, up]}
    return {"type": "scatter", "mode": "markers", "meta": meta}


def _line(x: Sequence[float | None], y: Sequence[float | None], name: str, colour: str, dash: str) -> Trace:
    line = {"color": colour, "width": 1.6, "dash": dash}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": plain(name), "line": line}


def _steps(x: Sequence[float], y: Sequence[float], name: str) -> Trace:
    """The best so far of something: level until there is better."""
    return {**_line(x, y, name, GREEN, "solid"), "line": {"color": GREEN, "width": 2, "shape": "hv"}}


def _mark(colour: str, symbol: str, size: int) -> dict[str, Any]:
    outline = {"color": colour if symbol.endswith("open") else "rgba(0,0,0,0.75)"}
    return {"color": colour, "symbol": symbol, "size": size, "line": {**outline, "width": 1 if size > 7 else 0.5}}


def _shaded(facts: Facts, trials: Sequence[Trial]) -> dict[str, Any]:
    low, high = ends([trial.score for trial in facts.done])
    shade = {"color": [_digits(t.score) for t in trials], "colorscale": SCALE, "cmin": low, "cmax": high}
    return {**shade, "size": 8 if len(trials) < MANY else 5, "line": {"color": FAINT, "width": 1}}


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Between which scores are shaded."""
    if not values:
        return 0.0, 1.0
    low, high = float(np.quantile(values, LOWEST)), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _stderr(trial: Trial) -> float | None:
    return None if trial.observation is None else trial.observation.stderr


def _bars(errors: Sequence[float | None], colour: str, faint: bool = True) -> dict[str, Any]:
    known = [each if each is not None and math.isfinite(each) else None for each in errors]
    look = {"color": colour, "thickness": 1 if faint else 1.6, "width": 0 if faint else 4}
    return {"type": "data", "array": known, "visible": any(known), **look}


def _bar(title: str) -> dict[str, Any]:
    """The scale of a shaded figure."""
    look = {"thickness": 10, "outlinewidth": 0, "nticks": 6, "exponentformat": "e"}
    return {"title": {"text": title, "side": "right"}, **look}


def _axis(space: Space, name: str, most: int = MOST) -> dict[str, Any]:
    """A hyperparameter's axis: the unit cube, with real values at its ticks."""
    marks = ticks(space.hyperparameters[name], most)
    return {
        "title": plain(short(name, TITLE)),
        "tickvals": [tick.u for tick in marks],
        "ticktext": [plain(tick.text) for tick in marks],
        "range": [-0.04, 1.04],
    }


def _whole(n: int) -> dict[str, Any]:
    """An axis of whole numbers 0, ..., n - 1."""
    return {"range": [-0.6, max(n, 2) - 0.4], **({"dtick": 1} if n <= 10 else {"nticks": 10})}


def _bound(u: float) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": u,
        "y1": u,
        "line": {"color": FAINT, "dash": "dot", "width": 1},
    }


def _digits(value: float) -> float:
    return float(f"{value:.5g}")
