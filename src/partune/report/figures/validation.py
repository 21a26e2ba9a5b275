"""Draw scores on search items beside those on held-out items and test tasks."""

from __future__ import annotations

from partune.report.facts import Facts
from partune.report.figures import parts
from partune.report.figures.parts import (
    BLUE,
    ORANGE,
    PURPLE,
    Figure,
    Trace,
    broken,
    plain,
    score_name,
)
from partune.report.sentences import label
from partune.trial import Status


def sides(facts: Facts) -> Figure:
    """Draw the scores of base, defaults and winner on search items, held-out items and test tasks."""
    places = {"search": "search<br>items", "verdict": "held-out<br>items"}
    places |= {f"test/{task}": f"test:<br>{broken(task)}" for task in facts.tests}
    traces = []
    for k, (name, row) in enumerate(facts.scored.items()):
        called, (colour, symbol) = label(facts, name), parts.series(facts, name)
        given = {"search": row, "verdict": row["verdict"]}
        given |= {f"test/{task}": row["test"].get(task) for task in facts.tests}
        known = [(x, part) for x, part in enumerate(given.values()) if part is not None]
        trace = parts.points(
            [x + 0.12 * (k - 1) for x, _ in known], [part["score"] for _, part in known], called, colour
        )
        error = parts.bars([part["stderr"] for _, part in known], colour, faint=False)
        goals = [
            facts.goal_on(place.removeprefix("test/")) if place.startswith("test/") else facts.goal
            for place, part in given.items()
            if part is not None
        ]
        text = [
            f"{called}: {goal.measured(part['score'], part['stderr'])}"
            for goal, (_, part) in zip(goals, known, strict=True)
        ]
        look = {
            "error_y": error,
            "marker": parts.mark(colour, symbol, 11),
            "text": text,
            "hovertemplate": "%{text}<extra></extra>",
        }
        traces.append({**trace, **look})
    x = {"tickvals": list(range(len(places))), "ticktext": list(places.values()), "range": [-0.5, len(places) - 0.5]}
    return parts.figure(traces, x=x, y={"title": "score"})


def against_test(facts: Facts, task: str) -> Figure:
    """Draw the score on a test task over the score on the search items, for each trial that has both.

    Args:
        facts: The facts of the study.
        task: The test task's name.
    """
    tested = [
        (facts.trials[row["id"]], row["test"][task])
        for row in facts.summary["trials"]
        if row["status"] == Status.DONE and task in row["test"]
    ]
    trials = [trial for trial, _ in tested]
    trace = parts.points([t.score for t in trials], [part["score"] for _, part in tested], "trials", BLUE, trials)
    traces = [{**trace, "error_y": parts.bars([part["stderr"] for _, part in tested], BLUE)}]
    for name, row in facts.scored.items():
        if task in row["test"]:
            called, (colour, symbol) = label(facts, name), parts.series(facts, name)
            point = parts.points([row["score"]], [row["test"][task]["score"]], called, colour)
            traces.append({**point, "marker": parts.mark(colour, symbol, 13)})
    return parts.figure(traces, x={"title": score_name(facts)}, y={"title": _axis(facts, task)})


def tested(facts: Facts, task: str) -> Figure:
    """Draw the score on a test task over trials, for each trial that has one.

    Args:
        facts: The facts of the study.
        task: The test task's name.
    """
    rows = [row for row in facts.summary["trials"] if row["status"] == Status.DONE and task in row["test"]]
    n = len(facts.trials)
    traces: list[Trace] = []
    for name in facts.scored:
        if name != "best" and task in facts.scored[name]["test"]:
            score, dash = facts.scored[name]["test"][task]["score"], "dot" if name == "base" else "dash"
            colour, _ = parts.series(facts, name)
            traces.append(parts.line([-0.5, n - 0.5], [score] * 2, label(facts, name), colour, dash))
    trials, given = [facts.trials[row["id"]] for row in rows], [row["test"][task] for row in rows]
    trace = parts.points([t.number for t in trials], [part["score"] for part in given], "trial", PURPLE, trials)
    traces.append({**trace, "error_y": parts.bars([part["stderr"] for part in given], PURPLE)})
    if (winner := facts.winner) is not None and task in (tests := facts.summary["best"]["test"]):
        trace = parts.points([winner.number], [tests[task]["score"]], "winner", ORANGE, [winner])
        traces.append({**trace, "marker": parts.mark(ORANGE, "star", 15)})
    return parts.figure(traces, x={"title": "trial", **parts.whole(n)}, y={"title": _axis(facts, task)})


def _axis(facts: Facts, task: str) -> str:
    """Return the title of an axis that shows scores on a test task."""
    return f"{facts.goal_on(task).axis} on {plain(task)}"
