"""Figures of the time show where it went, in a unit that suits it."""

from __future__ import annotations

from partune import Study
from partune.report import figures
from partune.report.facts import Facts, Part
from partune.trial import Config, Observation
from tests.support.drawn import traces
from tests.support.studies import PLANE


def test_the_bar_of_the_time_has_all_its_parts() -> None:
    hours = {"training": 2.0, "scoring": 0.5, "rest of the trials": 0.25, "anchors": 1.0, "search": 0.1, "waiting": 4.0}
    figure = figures.spent([Part(name, 3600 * long) for name, long in hours.items()])
    assert {name: trace["x"] for name, trace in traces(figure).items()} == {name: [x] for name, x in hours.items()}
    assert figure["layout"]["xaxis"]["title"]["text"] == "time of all workers, h"


def test_the_best_over_time_stands_at_the_time_of_all_trials_until_then() -> None:
    told = iter([(0.5, 120.0), (0.2, 300.0), (0.9, 180.0)])

    def course(config: Config) -> Observation:
        score, seconds = next(told)
        return Observation({"score": score}, cost={"seconds": seconds})

    figure = figures.over_time(Facts(Study(PLANE, course, "lhs").run(3).record))
    (steps,) = figure["data"]
    assert (steps["x"], steps["y"]) == ([2.0, 7.0, 10.0], [0.5, 0.5, 0.9])
    assert figure["layout"]["xaxis"]["title"]["text"] == "time of the trials, min"
