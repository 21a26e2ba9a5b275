"""The figures are Plotly's: each is checked against its schema, for studies of all kinds."""

from __future__ import annotations

import functools
import itertools
import re
from importlib import resources
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs_version

from partune import Study
from partune.report import figures
from partune.report.facts import Facts, Part
from partune.report.html.page import _Page
from partune.trial import Config, Observation, Status, Trial
from tests.support.studies import HOSTILE, PLANE, STUDIES

CARTESIAN = {"scatter", "bar", "heatmap", "contour"}  # of those that the bundle in the report draws
OKABE_ITO = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"}
near = functools.partial(pytest.approx, rel=1e-4)  # figures have five digits


def drawn(facts: Facts) -> dict[str, figures.Figure]:
    page = _Page(facts)
    page.text(None)
    return page.figures


def test_the_plotly_that_draws_is_of_the_schemas_version() -> None:
    head = (
        resources.files("partune.report").joinpath("plotly/plotly-cartesian.min.js").read_text(encoding="utf-8")[:200]
    )
    assert f"plotly.js (cartesian - minified) v{get_plotlyjs_version()}" in head


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_is_what_plotly_takes(facts: dict[str, Facts], name: str) -> None:
    found = drawn(facts[name])
    assert "scores" in found
    for figure in found.values():
        bars = any(trace["type"] == "bar" for trace in figure["data"])
        go.Figure(figure)  # raises ValueError for anything that is not in its schema
        assert {trace["type"] for trace in figure["data"]} <= CARTESIAN
        for axis in ("xaxis", "yaxis"):
            layout = figure["layout"][axis]
            assert layout.get("visible") is False or "title" in layout or "ticktext" in layout or bars


def test_what_a_full_study_draws(facts: dict[str, Facts]) -> None:
    assert set(drawn(facts["tuned"])) == {
        "scores",
        "over-0",
        "over-1",
        "parallel",
        "importance",
        "mean-0",
        "std-0",
        "sides",
        "spent",
        "over-time",
    }
    assert {"cells-0", "depths"} <= set(drawn(facts["soo"]))
    assert "cells-0" in drawn(facts["fda"])
    assert "depths" not in drawn(facts["fda"])


def traces(figure: figures.Figure) -> dict[str, dict[str, Any]]:
    return {trace.get("name", ""): trace for trace in figure["data"]}


def test_scores_have_phases_errors_and_lines(facts: dict[str, Facts]) -> None:
    each = facts["tuned"]
    found = traces(figures.scores(each))
    assert set(found) == {"base", "defaults", "start", "search", "confirmed", "best so far", "failed", "winner"} - (
        set() if each.failures else {"failed"}
    )
    assert found["winner"]["x"] == [each.summary["best"]["trial"]]
    assert all(number < 10 for number in found["start"]["x"])
    assert all(number >= 10 for number in found["search"]["x"])
    errors = [trial.observation.stderr for trial in each.done if trial.number >= 10 and trial.observation]
    assert found["search"]["error_y"]["array"] == errors
    for phase in ("start", "search"):
        assert found[phase]["y"] == near([each.trials[int(number)].score for number in found[phase]["x"]])
    for name in ("base", "defaults"):
        assert found[name]["x"] == [-0.5, len(each.trials) - 0.5]
        assert found[name]["y"] == [each.anchors[name].score] * 2


def test_further_runs_have_marks_of_their_own(facts: dict[str, Facts]) -> None:
    each = facts["tested"]
    again = [(number, run.score) for number, runs in each.again.items() for run in runs]
    found = traces(figures.scores(each))["confirmed"]
    assert again
    assert [*zip(found["x"], found["y"], strict=True)] == [(number, near(score)) for number, score in again]


def test_what_stopped_early_has_marks_of_its_own(facts: dict[str, Facts]) -> None:
    found = traces(figures.scores(facts["stopped"]))
    stopped = [trial for trial in facts["stopped"].trials if trial.status is Status.STOPPED]
    assert len(stopped) > 3
    assert found["stopped early"]["x"] == [trial.number for trial in stopped]
    assert found["stopped early"]["y"] == near([trial.score for trial in stopped])


def test_a_very_bad_score_lies_at_the_edge() -> None:
    values = [0.8, 0.82, 0.85, 0.9, 0.79, 0.81, 0.83, 0.86, 0.88, 0.87, -30.0, 0.84]
    low = figures.floor(values)
    assert 0.6 < low < 0.8
    assert figures.floor(values[:10]) == -float("inf")
    assert figures.floor([]) == -float("inf")


def test_colours_are_okabe_and_itos_and_marks_differ(facts: dict[str, Facts]) -> None:
    for name in ("tuned", "conditional", "soo"):
        for figure in drawn(facts[name]).values():
            assert set(re.findall(r"#[0-9A-F]{6}", str(figure["data"]))) <= OKABE_ITO | {
                *("#FFFFFF", "#000000"),
                *(colour for _, colour in figures.UNSURE),
            }
    looks = [
        (trace.get("marker", {}).get("symbol"), trace.get("line", {}).get("dash"))
        for trace in figures.scores(facts["tuned"])["data"]
    ]
    assert all(a != b for a, b in itertools.combinations(looks, 2)), "told apart without colours"


def test_names_are_text_in_plotlys_labels(facts: dict[str, Facts]) -> None:
    labels = [
        [figure["layout"], *({**trace, "meta": None} for trace in figure["data"])]
        for figure in drawn(facts["conditional"]).values()
    ]
    text = str(labels)
    assert HOSTILE not in text
    assert "&lt;/script&gt;" in text


def test_the_parallel_lines_have_gaps_where_a_hyperparameter_does_not_exist(facts: dict[str, Facts]) -> None:
    each = facts["conditional"]
    found = figures.parallel(each)
    lines = [trace for trace in found["data"] if trace["mode"] == "lines" and trace["name"] != "winner"]
    gaps = sum(trace["y"].count(None) for trace in lines)
    absent = sum("momentum" not in trial.config for trial in each.done)
    assert absent > 0
    assert gaps == len(each.done) + absent


def encoded(facts: Facts, trial: Trial) -> list[float]:
    return [facts.space.hyperparameters[name].encode(value) for name, value in trial.config.items()]


def test_the_parallel_lines_go_through_the_trials_values(facts: dict[str, Facts]) -> None:
    each = facts["tuned"]
    low, high = figures.ends([trial.score for trial in each.done])

    def lines(*trials: Trial) -> list[float | None]:
        ends = [(max(trial.score, low) - low) / (high - low) for trial in trials]
        return [y for trial, end in zip(trials, ends, strict=True) for y in (*encoded(each, trial), end, None)]

    found = traces(figures.parallel(each))
    shown = [y for name in ("worse half", "better half", "best tenth") for y in found[name]["y"]]
    assert shown == lines(*sorted(each.done, key=lambda trial: trial.score))
    assert each.winner is not None
    assert found["winner"]["y"] == lines(each.winner)


def test_the_parallel_axes_have_their_values_where_the_lines_pass_them(facts: dict[str, Facts]) -> None:
    each = facts["tuned"]
    labels = traces(figures.parallel(each))[""]
    low, high = figures.ends([trial.score for trial in each.done])
    values = [*(axis.decode for axis in each.space.hyperparameters.values()), lambda u: low + u * (high - low)]
    assert set(labels["x"]) == {0, 1, 2}
    for k, u, text in zip(labels["x"], labels["y"], labels["text"], strict=True):
        assert float(text.removeprefix("≤ ")) == pytest.approx(values[k](u), rel=6e-3)


def test_dots_over_trials_and_in_slices_are_the_trials(facts: dict[str, Facts]) -> None:
    """The page fills their places in; the winner's is drawn here."""
    each = facts["tuned"]
    assert each.winner is not None
    done = [trial.number for trial in each.done]
    places = dict(zip(each.winner.config, encoded(each, each.winner), strict=True))
    across, up = each.leading
    found = {name: traces(figure) for name, figure in drawn(each).items()}
    for figure, dots, over in (
        ("over-0", "done", [None, "learning_rate"]),
        ("over-1", "done", [None, "lora_r"]),
        ("mean-0", "trials", [across, up]),
    ):
        assert found[figure][dots]["meta"] == {"trials": done, "over": over}
        star = found[figure]["winner"]
        assert [*star["x"], *star["y"]] == near([places.get(k or "", each.winner.number) for k in over])
    assert found["over-0"]["done"]["marker"]["color"] == near([trial.score for trial in each.done])


def test_bars_of_importance_have_their_names(facts: dict[str, Facts]) -> None:
    each = facts["tuned"]
    assert each.importance is not None
    (bars,) = figures.importances(each.importance)["data"]
    assert dict(zip(bars["y"], bars["x"], strict=True)) == {k: 100 * v for k, v in each.importance.shares.items()}
    assert bars["text"] == [f"{share:.0f} %" for share in bars["x"]]


def test_planes_are_the_surrogates_mean_and_its_standard_deviation(facts: dict[str, Facts]) -> None:
    each = facts["tuned"]
    assert each.model is not None
    cut = each.model.plane(*each.leading)
    for name, values in (("mean-0", cut.mean), ("std-0", cut.std)):
        plane = traces(drawn(each)[name])[""]
        assert (plane["x"], plane["y"]) == (cut.x, cut.y)
        assert np.array(plane["z"]) == near(values)


def test_depths_are_the_cells(facts: dict[str, Facts]) -> None:
    found = facts["bamsoo"].partition
    assert found is not None
    assert found.inferred
    shown = traces(figures.depths(found))
    for name, visits in (("evaluated", found.depths), ("inferred, not evaluated", found.inferred)):
        assert [*zip(shown[name]["x"], shown[name]["y"], strict=True)] == visits
    deepest = shown["deepest so far"]
    assert deepest["x"] == shown["evaluated"]["x"]
    assert deepest["y"] == [max(depth for _, depth in found.depths[: k + 1]) for k in range(len(found.depths))]


def test_cells_tile_the_plane(facts: dict[str, Facts]) -> None:
    each = facts["soo"]
    assert each.partition is not None
    mosaic = figures.cells(each, each.partition, "x", "y")["data"][0]
    assert mosaic["type"] == "heatmap"
    assert (mosaic["x"][0], mosaic["x"][-1], mosaic["y"][0], mosaic["y"][-1]) == (0, 1, 0, 1)
    assert len(mosaic["z"]) == len(mosaic["y"]) - 1
    best = max(value for row in mosaic["z"] for value in row if value is not None)
    assert best == pytest.approx(max(trial.score for trial in each.done), rel=1e-4)


# ----- is it real, and what did it take?


def compared(facts: Facts) -> dict[str, tuple[float, dict[str, float]]]:
    """The score on the search items, and the others, of base, defaults and winner: from the record."""
    found = {}
    for name in ("base", "defaults", "winner"):
        trial = facts.anchors[name]
        assert trial.observation is not None
        assert facts.winner is not None
        found[name] = (facts.winner if name == "winner" else trial).score, dict(trial.observation.scores)
    return found


def test_sides_are_the_scores_on_each_part(facts: dict[str, Facts]) -> None:
    figure = figures.sides(facts["tuned"])
    assert figure["layout"]["xaxis"]["ticktext"] == ["search<br>items", "verdict<br>items", "test:<br>t"]
    assert list(traces(figure)) == list(compared(facts["tuned"]))
    for name, (first, scores) in compared(facts["tuned"]).items():
        shown = traces(figure)[name]
        assert [round(x) for x in shown["x"]] == [0, 1, 2]
        assert shown["y"] == near([first, scores["verdict"], scores["test/t"]])
        assert shown["error_y"]["array"][1:] == [scores["verdict_stderr"], scores["test/t_stderr"]]


def test_trials_that_were_all_tested_are_shown_against_the_test(facts: dict[str, Facts]) -> None:
    each = facts["tested"]
    found = traces(drawn(each)["test-0"])
    trials = found.pop("trials")
    assert trials["meta"]["trials"] == [trial.number for trial in each.done]
    assert trials["x"] == near([trial.score for trial in each.done])
    assert trials["y"] == near([trial.observation.scores["test/t"] for trial in each.done if trial.observation])
    places = {name: (*point["x"], *point["y"]) for name, point in found.items()}
    assert places == {name: near((first, scores["test/t"])) for name, (first, scores) in compared(each).items()}


def test_the_bar_of_the_time_has_all_its_parts() -> None:
    hours = {"training": 2.0, "scoring": 0.5, "around them": 0.25, "anchors": 1.0, "search": 0.1, "waiting": 4.0}
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
