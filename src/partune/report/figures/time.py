"""Draw how the time of a study was spent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from partune.report.facts import Facts, Part
from partune.report.figures import parts
from partune.report.figures.parts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    Figure,
    plain,
    time_unit,
)
from partune.trial import Status


def spent(shares: Sequence[Part]) -> Figure:
    """Draw the study's time as one bar that is divided into its parts."""
    unit, size = time_unit(sum(part.seconds for part in shares))
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
        for part, colour in zip(shares, colours, strict=False)
    ]
    figure = parts.figure(traces, x={"title": f"time of all workers, {unit}"}, y={"visible": False})
    figure["layout"] |= {"barmode": "stack", "bargap": 0.3, "showlegend": True, "legend": {"traceorder": "normal"}}
    return figure


def over_time(facts: Facts) -> Figure:
    """Draw the best score so far over the total time of the trials that had ended by then."""
    ended = sorted((t for t in facts.trials if t.observation is not None), key=lambda trial: trial.told or 0)
    seconds = np.cumsum([t.observation.cost.get("seconds", 0.0) for t in ended if t.observation is not None])
    unit, size = time_unit(float(seconds[-1]) if len(seconds) else 0.0)
    best = np.maximum.accumulate([t.score if t.status is Status.DONE else -math.inf for t in ended])
    known = [(float(s) / size, float(b)) for s, b in zip(seconds, best, strict=True) if math.isfinite(b)]
    trace = parts.steps([s for s, _ in known], [b for _, b in known], "best so far")
    reach = [0, 1.02 * max((s for s, _ in known), default=1.0) or 1.0]
    figure = parts.figure(
        [trace], x={"title": f"time of the trials, {unit}", "range": reach}, y={"title": "best score so far"}
    )
    figure["layout"] |= {"showlegend": False}
    return figure
