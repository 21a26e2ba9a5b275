"""Bounds set winners beside mere samples, the untouched base and the defaults."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from partune.record.record import Record
from partune.report.comparison import data as compare
from partune.report.comparison import tables
from partune.report.plain_data import Summary
from tests.support.compared import TUNED, made, opened, table
from tests.support.simulated import SimulatedTuning


@pytest.mark.slow
def test_base_defaults_and_winners_are_side_by_side_on_each_kind_of_items(tmp_path: Path) -> None:
    """Also on the test task, of which nothing but these was scored; a search that learns nothing is a lower bound."""
    algorithms = ("random", "soo")
    paths = [
        made(tmp_path / f"{name}-{seed}", name, seed, space=TUNED, objective=SimulatedTuning(gain=0.4), config=None)
        for name in algorithms
        for seed in range(2)
    ]
    found = compare.compare(opened(*paths))
    anchors = [Record.open(path, read_only=True).anchors() for path in paths]

    def mean(name: str, of: list[int], score: str) -> Any:
        values = [anchors[k][name].observation.scores[score] for k in of]  # type: ignore[union-attr]
        stderr = statistics.stdev(values) / math.sqrt(2)
        return {"score": pytest.approx(statistics.mean(values)), "stderr": pytest.approx(stderr)}

    rows = {row["name"]: row["scores"] for row in found["bounds"]}
    assert list(rows) == [
        "lower bound: random, the mean sample",
        "lower bound: random, its winner",
        "untouched base",
        "the field's defaults",
        "soo, its winner",
    ]
    for label, name, of in [
        ("lower bound: random, its winner", "winner", [0, 1]),
        ("untouched base", "base", [2, 3]),
        ("the field's defaults", "defaults", [2, 3]),
        ("soo, its winner", "winner", [2, 3]),
    ]:
        assert rows[label]["verdict items"] == mean(name, of, "verdict")
        assert rows[label]["test: t"] == mean(name, of, "test/t")
    assert table(found, "Bounds")[0]["test: t"] == "–"
    results = {own["algorithm"]: own["result"] for own in found["tests"]["t"]["algorithms"]}
    assert results == {name: mean("winner", [2 * k, 2 * k + 1], "test/t")["score"] for k, name in enumerate(algorithms)}
    for row in table(found, "Test task t"):
        assert row == {
            "algorithm": row["algorithm"],
            "repeats": "2",
            "winner's score": f"{results[row['algorithm']]:.4g}",
        }


@pytest.mark.slow
def test_where_nothing_but_winners_is_there_they_have_no_bounds(tmp_path: Path, found: Summary) -> None:
    """Options make another algorithm."""
    paths = [made(tmp_path / "k3", "soo"), made(tmp_path / "k5", "soo", options={"k": 5})]
    learned = compare.compare(opened(*paths))
    assert {own["algorithm"] for own in learned["algorithms"]} == {"soo", "soo (k=5)"}
    assert (learned["bounds"], learned["tests"]) == ([], {})
    assert "Bounds" not in tables.markdown(learned)
    assert len(found["bounds"]) == 4  # two searches that learn nothing: the mean sample and the winner of each
