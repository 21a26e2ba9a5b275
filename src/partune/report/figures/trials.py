"""Draw the scores over trials: phases (start and search), standard errors, baselines, failures and the winner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from partune.report.facts import Facts
from partune.report.figures import parts
from partune.report.figures.parts import (
    BLUE,
    FAINT,
    MANY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Figure,
    Trace,
    floor,
    score_name,
)
from partune.report.sentences import label
from partune.runtime import rounding
from partune.trial import Status, Trial

# ----- scores


def scores(facts: Facts) -> Figure:
    """Draw the scores over trials: phases, standard errors, best so far, baselines, confirmation runs and the winner.

    Scores below `floor` are drawn as triangles at the lower edge.
    """
    done, n = facts.done, len(facts.trials)
    lines = [row["score"] for name, row in facts.scored.items() if name != "best"]
    low = min([floor([trial.score for trial in done]), *lines])
    traces: list[Trace] = []
    for name in facts.scored:
        if name != "best" and n:
            row, (colour, _) = facts.scored[name], parts.series(facts, name)
            dash = "dot" if name == "base" else "dash"
            traces.append(parts.line([-0.5, n - 0.5], [row["score"]] * 2, label(facts, name), colour, dash))
    shown = [trial for trial in done if trial.score >= low]
    stopped = [trial for trial in facts.trials if trial.status is Status.STOPPED and trial.score >= low]
    below = [t for t in facts.trials if t.status in (Status.DONE, Status.STOPPED) and t.score < low]
    start = [trial for trial in shown if trial.number < facts.n_init]
    search = [trial for trial in shown if trial.number >= facts.n_init]
    traces += _marked(start, "start", SKY, "circle-open")
    traces += _marked(search, "search" if facts.n_init else "trial", BLUE, "circle")
    traces += _marked(stopped, "stopped early", PURPLE, "square-open")
    if below:
        trace = parts.points(
            [t.number for t in below], [low] * len(below), f"below {rounding.number(low, 2)}", BLUE, below
        )
        traces.append({**trace, "marker": parts.mark(BLUE, "triangle-down", 9)})
    again = [(number, run) for number, runs in facts.again.items() for run in runs if run.status is Status.DONE]
    if again:
        errors = [parts.stderr(run) for _, run in again]
        x, y = [number for number, _ in again], [max(run.score, low) for _, run in again]
        trace = parts.points(x, y, "confirmed", PURPLE)
        traces.append({**trace, "error_y": parts.bars(errors, PURPLE), "marker": parts.mark(PURPLE, "diamond-open", 9)})
    if facts.best_so_far:
        numbers, best = zip(*facts.best_so_far, strict=True)
        steps = parts.steps(list(numbers), [max(score, low) for score in best], "best so far")
        traces.append({**steps, "hoverinfo": "skip"})
    traces += _failed(facts, [*lines, *(max(trial.score, low) for trial in done)])
    if (winner := facts.winner) is not None:
        trace = parts.points([winner.number], [winner.score], "winner", ORANGE, [winner])
        traces.append({**trace, "marker": parts.mark(ORANGE, "star", 15)})
    axis: dict[str, Any] = {"title": score_name(facts)}
    if not (done or lines):
        axis = {"title": "no score", "showticklabels": False}
    return parts.figure(traces, x={"title": "trial", **parts.whole(n)}, y=axis)


def _marked(trials: Sequence[Trial], name: str, colour: str, symbol: str) -> list[Trace]:
    """Return marks with standard errors; many standard errors are one line with gaps, which is drawn much faster."""
    if not trials:
        return []
    errors = [parts.stderr(trial) for trial in trials]
    trace = parts.points([t.number for t in trials], [t.score for t in trials], name, colour, trials)
    if len(trials) < MANY:
        return [{**trace, "error_y": parts.bars(errors, colour), "marker": parts.mark(colour, symbol, 8)}]
    x: list[float | None] = []
    y: list[float | None] = []
    for trial, error in zip(trials, errors, strict=True):
        if rounding.uncertain(error) and error is not None:
            x += [trial.number, trial.number, None]
            y += [parts.digits(trial.score - error), parts.digits(trial.score + error), None]
    bars = {
        **parts.line(x, y, "standard errors", FAINT, "solid"),
        "line": {"color": FAINT, "width": 1},
        "hoverinfo": "skip",
    }
    return [*([bars] if x else []), {**trace, "marker": parts.mark(colour, symbol, 5)}]


def _failed(facts: Facts, scored: Sequence[float]) -> list[Trace]:
    """Return the failed trials as crosses below all scores."""
    failed = [trial for trial in facts.trials if trial.status is Status.FAILED]
    if not failed:
        return []
    low, high = min(scored, default=0.0), max(scored, default=1.0)
    y = low - 0.08 * ((high - low) or 1.0)
    trace = parts.points([t.number for t in failed], [y] * len(failed), "failed", VERMILLION, failed)
    return [{**trace, "marker": parts.mark(VERMILLION, "x", 8)}]
