"""Figures of a partition show its cells and their depths."""

from __future__ import annotations

import pytest

from partune.report import figures
from partune.report.facts import Facts
from tests.support.drawn import traces


@pytest.mark.slow
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
