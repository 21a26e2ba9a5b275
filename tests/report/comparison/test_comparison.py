"""Comparisons of studies that were made for it, against their records."""

from __future__ import annotations

import functools
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from partune import Choice, Float, Space, Study
from partune.cli import main
from partune.errors import UserError
from partune.record.record import Record
from partune.report.comparison import curves, tables
from partune.report.comparison import data as compare
from partune.report.facts import Facts
from partune.trial import Config, Observation
from tests.support.simulated import SimulatedTuning

PLANE = Space(x=Float(-5, 5), y=Float(-5, 5))
TUNED = Space(learning_rate=Float(1e-6, 1e-2, log=True))
SVG = "{http://www.w3.org/2000/svg}"
SEEDS = range(4)
CONFIG = "objective: hill\n"


def hill(config: Config, better: float = 0.0) -> Observation:
    """A trial takes two seconds, a bad one three."""
    score = 1 + better - (float(config["x"]) - 1) ** 2 / 9 - (float(config["y"]) + 2) ** 2 / 40
    return Observation({"score": score}, cost={"seconds": 2.0 if score > 0 else 3.0})


def study(directory: Path, algorithm: str = "random", seed: int = 0, budget: int = 5, **given: Any) -> Path:
    options = {"space": PLANE, "objective": hill, "config": CONFIG, **given}
    space, objective = options.pop("space"), options.pop("objective")
    made = Study(space, objective, algorithm, seed=seed, directory=directory, **options)
    if budget:
        made.run(budget)
    made.close()
    return directory


def facts(*directories: Path) -> list[Facts]:
    return [Facts(Record.open(directory, read_only=True)) for directory in directories]


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two algorithms, four repeats of each; random's are a little shorter and its objective is kinder to lhs."""
    folder = tmp_path_factory.mktemp("repeated")
    better = functools.partial(hill, better=5.0)
    return [
        *(study(folder / f"random-{seed}", "random", seed, 6) for seed in SEEDS),
        *(study(folder / f"lhs-{seed}", "lhs", seed, 8, objective=better) for seed in SEEDS),
    ]


@pytest.fixture(scope="module")
def found(repeated: list[Path]) -> compare.Summary:
    return compare.compare(facts(*repeated))


def spread(scores: list[float]) -> list[float]:
    """Mean, quartiles and maximum."""
    return [float(np.mean(scores)), *np.quantile(scores, [0.25, 0.5, 0.75, 1])]


def table(found: compare.Summary, title: str) -> list[dict[str, str]]:
    """The rows of a table, each cell under its header."""
    (section,) = [each for each in tables.sections(found) if each.title == title]
    return [dict(zip(section.headers, row, strict=True)) for row in section.rows]


def test_studies_of_one_algorithm_are_its_repeats(found: compare.Summary) -> None:
    assert [(own["algorithm"], own["seeds"]) for own in found["algorithms"]] == [
        ("lhs", list(SEEDS)),
        ("random", list(SEEDS)),
    ]
    assert found["measure"] == "score"
    assert found["trials"] == 6


def test_scores_are_those_of_the_record(repeated: list[Path], found: compare.Summary) -> None:
    scores = {str(f.directory): [trial.score for trial in f.trials] for f in facts(*repeated)}
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


def test_curves_are_the_best_so_far_in_the_mean(repeated: list[Path], found: compare.Summary) -> None:
    scores = np.array([[trial.score for trial in f.trials][:6] for f in facts(*repeated[:4])])
    curve = found["algorithms"][1]["by_trial"]
    assert [point["trials"] for point in curve] == [1, 2, 3, 4, 5, 6]
    assert [point["mean"] for point in curve] == pytest.approx(np.maximum.accumulate(scores, axis=1).mean(axis=0))
    assert all(point["low"] <= point["mean"] <= point["high"] for point in curve)


def test_curves_over_seconds_hold_between_results(repeated: list[Path], found: compare.Summary) -> None:
    curve = found["algorithms"][1]["by_seconds"]

    def best(f: Facts, moment: float) -> float:
        ends = np.cumsum([trial.observation.cost["seconds"] for trial in f.trials if trial.observation is not None])
        return max(trial.score for trial, end in zip(f.trials, ends, strict=True) if end <= moment)

    randoms = facts(*repeated[:4])
    for point in curve:
        assert point["mean"] == pytest.approx(np.mean([best(f, point["seconds"]) for f in randoms]))
    assert curve[0]["seconds"] == max(2.0 if f.trials[0].score > 0 else 3.0 for f in randoms)


def test_the_cost_is_that_of_the_record(repeated: list[Path], found: compare.Summary) -> None:
    costs = [[trial.observation.cost["seconds"] for trial in f.trials if trial.observation] for f in facts(*repeated)]
    for own, row, repeats in zip(
        found["algorithms"], table(found, "Time and cost"), (costs[4:], costs[:4]), strict=True
    ):
        trials, each = np.mean([sum(cost) for cost in repeats]), np.mean([np.mean(cost) for cost in repeats])
        assert own["seconds"]["trials"] == pytest.approx(trials)
        assert own["seconds_a_trial"] == pytest.approx(each)
        assert row["algorithm"] == own["algorithm"]
        assert (row["trials"], row["a trial"]) == (f"{trials:.1f} s", f"{each:.1f} s")
        assert row["in all"] == f"{sum(own['seconds'].values()):.1f} s"


def test_a_difference_is_tested_over_repeats(found: compare.Summary) -> None:
    (difference,) = found["differences"]
    assert (difference["first"], difference["second"]) == ("lhs", "random")
    assert difference["p"] == pytest.approx(2 / math.comb(8, 4))  # every lhs study is better than every random one
    assert difference["significant"]
    text = tables.markdown(found)
    assert "| lhs – random |" in text
    assert "| lhs is better |" in text
    assert "6 to 8 trials" in text


def test_few_repeats_are_told_from_no_difference(repeated: list[Path]) -> None:
    two = compare.compare(facts(*repeated[:2], *repeated[4:6]))
    assert "too few repeats to tell" in tables.markdown(two)
    assert "It takes 4 repeats of each algorithm" in tables.markdown(two)
    one = compare.compare(facts(repeated[0], repeated[4]))
    assert one["differences"] == []
    assert one["algorithms"][0]["result"]["low"] is None
    assert "Nothing is tested" in tables.markdown(one)


def test_the_same_result_of_every_seed_is_told(tmp_path: Path) -> None:
    paths = [study(tmp_path / f"soo-{seed}", "soo", seed) for seed in range(2)]
    notes = compare.compare(facts(*paths, study(tmp_path / "other")))["notes"]
    assert any("repeats of soo have one result" in note for note in notes)


def test_verdicts_decide_where_there_are_items_that_no_optimiser_saw(tmp_path: Path) -> None:
    paths = [
        study(
            tmp_path / f"s{seed}", seed=seed, space=TUNED, objective=SimulatedTuning(gain=0.4, items=400), config=None
        )
        for seed in range(2)
    ]
    found = compare.compare(facts(*paths))
    assert found["measure"] == "verdict"
    for own, path in zip(found["studies"], paths, strict=True):
        winner = Record.open(path, read_only=True).anchors()["winner"]
        assert winner.observation is not None
        assert own["result"] == winner.observation.scores["verdict"]
        assert own["sentence"].startswith(("BETTER", "NOT SHOWN"))
    text = tables.markdown(found)
    assert "winner on the verdict items" in text
    assert "better than base" in text or "not shown better" in text


def test_base_defaults_and_winners_are_side_by_side_on_each_kind_of_items(tmp_path: Path) -> None:
    """Also on the test task, of which nothing but these was scored; a search that learns nothing is a lower bound."""
    algorithms = ("random", "soo")
    paths = [
        study(tmp_path / f"{name}-{seed}", name, seed, space=TUNED, objective=SimulatedTuning(gain=0.4), config=None)
        for name in algorithms
        for seed in range(2)
    ]
    found = compare.compare(facts(*paths))
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


def test_where_nothing_but_winners_is_there_they_have_no_bounds(tmp_path: Path, found: compare.Summary) -> None:
    """Options make another algorithm."""
    paths = [study(tmp_path / "k3", "soo"), study(tmp_path / "k5", "soo", options={"k": 5})]
    learned = compare.compare(facts(*paths))
    assert {own["algorithm"] for own in learned["algorithms"]} == {"soo", "soo (k=5)"}
    assert (learned["bounds"], learned["tests"]) == ([], {})
    assert "Bounds" not in tables.markdown(learned)
    assert len(found["bounds"]) == 4  # two searches that learn nothing: the mean sample and the winner of each


def test_an_exhausted_space_is_a_finished_study(tmp_path: Path) -> None:
    few = Space(a=Choice(["p", "q", "r"]))
    paths = [
        study(tmp_path / f"s{seed}", seed=seed, budget=9, space=few, objective=lambda config: len(str(config["a"])))
        for seed in range(2)
    ]
    assert compare.compare(facts(*paths))["trials"] == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "the same study, random with seed 0: a repeat needs another seed"),
        ({"seed": 1, "space": Space(x=Float(-5, 5), y=Float(-5, 4))}, "search different spaces"),
        ({"seed": 1, "config": "objective: other\n"}, "have different objectives: objective differs"),
        ({"seed": 1, "budget": 0}, "is not finished, 0 of 0 trials have ended: partune resume"),
        ({"seed": 1, "objective": lambda config: math.nan}, "no trial of .* has a score"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    first = study(tmp_path / "first")
    second = study(tmp_path / "second", **given)
    with pytest.raises(UserError, match=said) as caught:
        compare.compare(facts(first, second))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="two studies at least"):
        compare.compare(facts(first))


def test_what_differs_is_named() -> None:
    a = {"model": {"path": "a"}, "training": {"epochs": 1, "targets": "attention"}}
    assert compare.differing(a, a) is None
    assert compare.differing(a, {**a, "training": {"epochs": 2, "targets": "attention"}}) == "training.epochs"
    assert compare.differing(a, {**a, "engine": "litgpt"}) == "engine"


def test_the_picture_has_a_curve_and_a_band_for_each_algorithm(found: compare.Summary) -> None:
    drawn = ElementTree.fromstring(curves.picture(found))
    assert len(drawn.findall(f"{SVG}polyline")) == len(drawn.findall(f"{SVG}polygon")) == 2 * 2
    width, height = float(drawn.attrib["width"]), float(drawn.attrib["height"])
    for line in drawn.iterfind(f"{SVG}polyline"):
        points = [tuple(map(float, each.split(","))) for each in line.attrib["points"].split()]
        assert all(0 < x < width and 0 < y < height for x, y in points)
        assert all(y >= next_y for (_, y), (_, next_y) in itertools.pairwise(points))  # pixels: upwards
    assert {"lhs (4)", "random (4)", "trials", "seconds"} <= set(drawn.itertext())


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    paths = [study(tmp_path / f"<b>|{seed}*", seed=seed) for seed in range(2)]
    found = compare.compare(facts(*paths))
    assert "\\<b\\>\\|0\\*" in tables.markdown(found)
    ElementTree.fromstring(curves.picture(found))


def test_the_command(repeated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(path) for path in repeated]
    out = tmp_path / "out"
    assert main(["compare", *names, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "lhs is better" in said
    assert {path.name for path in out.iterdir()} == {"compare.md", "compare.svg", "compare.json"}
    assert "](compare.svg)" in (out / "compare.md").read_text(encoding="utf-8")
    assert main(["compare", *names, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert main(["compare", names[0]]) == 2
    assert "two studies at least" in capsys.readouterr().err
    assert main(["compare", *names, "--out", str(out)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["compare", *names, "--out", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err
