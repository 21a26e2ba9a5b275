"""Comparisons of studies that were made for it, against their records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from partune import Choice, Float, Space
from partune.errors import UserError
from partune.record.record import Record
from partune.report.comparison import data as compare
from partune.report.comparison import tables
from partune.report.facts import Facts
from partune.report.plain_data import Summary
from tests.support.compared import TUNED, made, opened, spread
from tests.support.simulated import SimulatedTuning

SEEDS = range(4)


def test_studies_of_one_algorithm_are_its_repeats(found: Summary) -> None:
    assert [(own["algorithm"], own["seeds"]) for own in found["algorithms"]] == [
        ("lhs", list(SEEDS)),
        ("random", list(SEEDS)),
    ]
    assert found["measure"] == "score"
    assert found["trials"] == 6


def test_scores_are_those_of_the_record(repeated: list[Path], found: Summary) -> None:
    scores = {str(f.directory): [trial.score for trial in f.trials] for f in opened(*repeated)}
    for own in found["studies"]:
        values = scores[own["study"]]
        assert [own["scores"][name] for name in compare.QUARTILES] == pytest.approx(spread(values))
        assert own["result"] == max(values)
    trials = [scores[str(path)] for path in repeated if "random" in path.name]
    random = found["algorithms"][1]
    in_the_mean = np.mean([spread(values) for values in trials], axis=0)
    assert [random["scores"][name] for name in compare.QUARTILES] == pytest.approx(in_the_mean)
    randoms, result = [*map(max, trials)], random["result"]
    assert result["mean"] == pytest.approx(np.mean(randoms))
    low, high = stats.t.interval(0.95, 3, np.mean(randoms), stats.sem(randoms))
    assert (result["low"], result["high"]) == pytest.approx((low, high))


def test_curves_are_the_best_so_far_in_the_mean(repeated: list[Path], found: Summary) -> None:
    scores = np.array([[trial.score for trial in f.trials][:6] for f in opened(*repeated[:4])])
    curve = found["algorithms"][1]["by_trial"]
    assert [point["trials"] for point in curve] == [1, 2, 3, 4, 5, 6]
    assert [point["mean"] for point in curve] == pytest.approx(np.maximum.accumulate(scores, axis=1).mean(axis=0))
    assert all(point["low"] <= point["mean"] <= point["high"] for point in curve)


def test_curves_over_seconds_hold_between_results(repeated: list[Path], found: Summary) -> None:
    curve = found["algorithms"][1]["by_seconds"]

    def best(f: Facts, moment: float) -> float:
        ends = np.cumsum([trial.observation.cost["seconds"] for trial in f.trials if trial.observation is not None])
        return max(trial.score for trial, end in zip(f.trials, ends, strict=True) if end <= moment)

    randoms = opened(*repeated[:4])
    for point in curve:
        assert point["mean"] == pytest.approx(np.mean([best(f, point["seconds"]) for f in randoms]))
    assert curve[0]["seconds"] == max(2.0 if f.trials[0].score > 0 else 3.0 for f in randoms)


def test_a_difference_is_tested_over_repeats(found: Summary) -> None:
    (difference,) = found["differences"]
    assert (difference["first"], difference["second"]) == ("lhs", "random")
    assert difference["p"] == pytest.approx(2 / math.comb(8, 4))  # every lhs study is better than every random one
    assert difference["significant"]
    text = tables.markdown(found)
    assert "| lhs – random |" in text
    assert "| lhs is better |" in text
    assert "6 to 8 trials" in text


def test_the_same_result_of_every_seed_is_told(tmp_path: Path) -> None:
    paths = [made(tmp_path / f"soo-{seed}", "soo", seed) for seed in range(2)]
    notes = compare.compare(opened(*paths, made(tmp_path / "other")))["notes"]
    assert any("repeats of soo have the same result" in note for note in notes)


@pytest.mark.slow
def test_verdicts_decide_where_there_are_items_that_no_optimiser_saw(tmp_path: Path) -> None:
    paths = [
        made(tmp_path / f"s{seed}", seed=seed, space=TUNED, objective=SimulatedTuning(gain=0.4, items=400), config=None)
        for seed in range(2)
    ]
    found = compare.compare(opened(*paths))
    assert found["measure"] == "verdict"
    for own, path in zip(found["studies"], paths, strict=True):
        winner = Record.open(path, read_only=True).anchors()["winner"]
        assert winner.observation is not None
        assert own["result"] == winner.observation.scores["verdict"]
        assert own["sentence"].startswith(("BETTER", "NOT SHOWN"))
    text = tables.markdown(found)
    assert "winner on the held-out items" in text
    assert "better than base" in text or "not shown better" in text


def test_an_exhausted_space_is_a_finished_study(tmp_path: Path) -> None:
    few = Space(a=Choice(["p", "q", "r"]))
    paths = [
        made(tmp_path / f"s{seed}", seed=seed, budget=9, space=few, objective=lambda config: len(str(config["a"])))
        for seed in range(2)
    ]
    assert compare.compare(opened(*paths))["trials"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "the same study, random with seed 0: a repeat needs another seed"),
        ({"seed": 1, "space": Space(x=Float(-5, 5), y=Float(-5, 4))}, "search different spaces"),
        ({"seed": 1, "config": "objective: other\n"}, "have different objectives: objective differs"),
        ({"seed": 1, "budget": 0}, "is not finished, 0 trials have ended: continue it with `partune resume"),
        ({"seed": 1, "objective": lambda config: math.nan}, "no trial of .* has a score"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    first = made(tmp_path / "first")
    second = made(tmp_path / "second", **given)
    with pytest.raises(UserError, match=said) as caught:
        compare.compare(opened(first, second))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="at least two studies"):
        compare.compare(opened(first))
