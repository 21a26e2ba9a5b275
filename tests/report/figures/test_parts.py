"""The figures are Plotly's: each is checked against its schema, for studies of all kinds."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs_version

from partune.report import figures
from partune.report.facts import Facts
from tests.support.drawn import drawn
from tests.support.studies import HOSTILE, STUDIES

CARTESIAN = {"scatter", "bar", "heatmap", "contour"}  # of those that the bundle in the report draws
OKABE_ITO = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"}


def test_the_plotly_that_draws_is_of_the_schemas_version() -> None:
    head = (
        resources.files("partune.report").joinpath("plotly/plotly-cartesian.min.js").read_text(encoding="utf-8")[:200]
    )
    assert f"plotly.js (cartesian - minified) v{get_plotlyjs_version()}" in head


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_very_bad_score_lies_at_the_edge() -> None:
    values = [0.8, 0.82, 0.85, 0.9, 0.79, 0.81, 0.83, 0.86, 0.88, 0.87, -30.0, 0.84]
    low = figures.floor(values)
    assert 0.6 < low < 0.8
    assert figures.floor(values[:10]) == -float("inf")
    assert figures.floor([]) == -float("inf")


@pytest.mark.slow
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
