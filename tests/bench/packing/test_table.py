"""The table of the benchmark of packs: ratios by repetition, and the same numbers in both files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from partune.bench.meter import Cost
from partune.bench.packing.contenders import Measurement
from partune.bench.packing.table import Line, Spread, ratios, rows, write


def line(name: str, seconds: list[float], trials: int = 1, baseline: bool = False) -> Line:
    """One whose runs took so many seconds a trial, of the processor; twice that by the wall, a quarter to score."""
    runs = [
        Measurement(
            train=Cost(1.5 * each * trials, 0.75 * each * trials),
            score=Cost(0.5 * each * trials, 0.25 * each * trials),
            tokens=75,
            peak=2.0**20,
            scores=[0.0] * trials,
        )
        for each in seconds
    ]
    return Line(name, baseline, runs)


def test_ratios_are_taken_within_repetitions() -> None:
    assert ratios([10.0, 30.0, 8.0], [5.0, 10.0, 8.0]) == Spread(median=2.0, least=1.0, most=3.0)
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


def test_a_line_is_compared_with_the_baselines_above_it_by_seconds_a_trial() -> None:
    first, second, pack = rows(
        [line("a", [8.0, 4.0], baseline=True), line("b", [2.0, 2.0], 4, baseline=True), line("pack", [1.0, 0.5], 2)],
        "cpu",
    )
    assert first.ratios == {}
    assert {key for key, _ in second.ratios} == {"a"}
    assert second.ratios["a", "whole"] == Spread(3.0, 2.0, 4.0)
    assert pack.ratios["a", "whole"] == pack.ratios["a", "train"] == Spread(8.0, 8.0, 8.0)
    assert pack.ratios["b", "score"] == Spread(3.0, 2.0, 4.0)
    assert pack.seconds["whole"] == 0.75
    assert pack.wall == 1.5
    assert pack.tokens == pytest.approx(np.median([75 / 1.5, 75 / 0.75]))
    assert rows([line("a", [8.0])], "cuda")[0].seconds["whole"] == 16.0  # the wall's there


def test_csv_and_markdown_have_the_same_numbers(tmp_path: Path) -> None:
    lines = [Line("c", True, note="not installed"), line("a", [8.0, 4.0], baseline=True), line("pack", [1.0, 2.0])]
    write(tmp_path, ["machine: one"], rows(lines, "cpu"))
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["line"] for row in written] == ["c: not installed", "a", "pack"]
    assert {row["seconds"] for row in written[:1]} == {"-"}
    head, costs, gains = (tmp_path / "table.md").read_text(encoding="utf-8").split("\n\n")
    assert head == "- machine: one"
    names, _, *cells = [text[2:-2].split(" | ") for text in costs.splitlines()]
    for row, texts in zip(written, cells, strict=True):
        assert [row[name] for name in names] == texts
    assert gains.splitlines()[-1].startswith("| pack | 5 (2..8) | ")
    pack = written[-1]
    assert (pack["a"], pack["a (least)"], pack["a (most)"]) == ("5", "2", "8")
