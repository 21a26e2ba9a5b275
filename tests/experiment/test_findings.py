"""What an experiment found, against the records of its studies."""

from __future__ import annotations

import functools
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune.experiment import files, sentences
from partune.experiment.findings import Outcome
from partune.record.record import Record
from partune.report import figures
from partune.report.comparison import data as compare
from partune.report.comparison.bounds import SEARCH, TEST, VERDICT
from partune.report.plain_data import Summary, as_json
from partune.trial import Trial
from tests.support.outcomes import BUDGET, SEEDS, tuned

near = functools.partial(pytest.approx, rel=1e-4)  # figures have five digits
GAINS = {"lhs": 0.05, "soo": 0.45}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "upper.yaml").write_text("v: 0.99\nt: 0.9\n")
    return tuned(folder / "tuned", GAINS, str(folder / "upper.yaml"))


@pytest.fixture(scope="module")
def found(outcome: Outcome) -> Summary:
    return outcome.summary


def records(outcome: Outcome, algorithm: str) -> list[Record]:
    return [Record.open(outcome.plan.directory / f"{algorithm}-{seed}", read_only=True) for seed in SEEDS]


def score(trial: Trial, name: str = "score") -> float:
    assert trial.observation is not None
    return trial.observation.scores[name]


def bound(found: Summary, name: str, kind: str) -> tuple[float, float | None]:
    (row,) = [row for row in found["bounds"] if row["name"] == name]
    return row["scores"][kind]["score"], row["scores"][kind]["stderr"]


def over_repeats(values: list[float]) -> tuple[Any, Any]:
    return (
        pytest.approx(statistics.mean(values)),
        pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-12),
    )


@pytest.mark.slow
def test_the_lower_bound_is_the_mean_and_the_best_of_the_samples(outcome: Outcome, found: Summary) -> None:
    trials = [record.trials() for record in records(outcome, "lhs")]
    anchors = [record.anchors() for record in records(outcome, "lhs")]
    means = [statistics.mean(map(score, own)) for own in trials]
    assert bound(found, "lower bound: lhs, the mean sample", SEARCH) == over_repeats(means)
    on_test = [statistics.mean(score(trial, "test/t") for trial in own) for own in trials]
    assert bound(found, "lower bound: lhs, the mean sample", TEST + "t") == over_repeats(on_test)
    winners = [score(own["winner"], "verdict") for own in anchors]
    assert bound(found, "lower bound: lhs, its winner", VERDICT) == over_repeats(winners)


def test_base_defaults_and_winners_lie_between_the_bounds(outcome: Outcome, found: Summary) -> None:
    anchors = [record.anchors() for record in records(outcome, "soo")]
    for name, label in (("defaults", "the field's defaults"), ("winner", "soo, its winner")):
        assert bound(found, label, VERDICT) == over_repeats([score(own[name], "verdict") for own in anchors])
        assert bound(found, label, TEST + "t") == over_repeats([score(own[name], "test/t") for own in anchors])
    assert bound(found, "untouched base", SEARCH) == (pytest.approx(score(anchors[0]["base"])), 0)  # exactly 0
    assert bound(found, "untouched base", VERDICT) == (pytest.approx(score(anchors[0]["base"], "verdict")), 0)
    assert bound(found, "upper bound: as given", VERDICT) == (0.99, None)
    assert bound(found, "upper bound: as given", TEST + "t") == (0.9, None)


@pytest.mark.slow
def test_of_a_single_repeat_the_errors_are_those_of_its_items(tmp_path: Path) -> None:
    single = tuned(tmp_path / "single", GAINS, seeds=(0,))
    record = Record.open(tmp_path / "single" / "soo-0", read_only=True)
    base = record.anchors()["base"]
    assert bound(single.summary, "untouched base", SEARCH) == (score(base), score(base, "score_stderr"))
    assert sentences.badge(single.summary) == ("too few repeats to tell", "open")
    assert single.summary["headline"].startswith("Whether algorithms differ is not tested")


def test_the_comparison_is_that_of_partune_compare(outcome: Outcome, found: Summary) -> None:
    compared = compare.compare(list(outcome.studies.values()))
    assert {**found["comparison"], "tests": found["tests"]} == {k: v for k, v in compared.items() if k != "bounds"}
    short = [{**row, "name": row["name"].replace(f" (size={BUDGET})", "")} for row in compared["bounds"]]
    assert found["bounds"][:-1] == short  # the last one is the upper bound


def test_both_tasks_have_their_table_and_tests(outcome: Outcome, found: Summary) -> None:
    own = found["tests"]["t"]
    assert [each["algorithm"] for each in own["algorithms"]] == ["soo", f"lhs (size={BUDGET})"]
    for each, name in zip(own["algorithms"], ("soo", "lhs"), strict=True):
        trials = [[score(trial, "test/t") for trial in record.trials()] for record in records(outcome, name)]
        spread = [[np.mean(scores), *np.quantile(scores, [0.25, 0.5, 0.75, 1])] for scores in trials]
        assert [each["scores"][name] for name in compare.QUARTILES] == pytest.approx(np.mean(spread, axis=0))
    (difference,) = own["differences"]
    assert difference["significant"]


def test_the_first_sentence_says_who_is_better_and_whether_the_base_is_beaten(outcome: Outcome, found: Summary) -> None:
    assert sentences.badge(found) == ("algorithms differ", "good")
    verdicts = [study.summary["verdict"]["better_than"] for study in outcome.studies.values()]
    than_base, than_defaults = sum(map(bool, verdicts)), sum("defaults" in each for each in verdicts)
    assert found["better"] == {"studies": 10, "than_base": than_base, "than_defaults": than_defaults, "adapters": 0}
    assert found["headline"].startswith(f"The algorithms differ: soo is better than lhs (size={BUDGET}) (p ≤ 0.0079")
    assert f"{than_base} of 10 winners are shown to be better than the untouched base model" in found["headline"]


@pytest.mark.slow
def test_what_is_not_shown_is_said_to_be_not_shown(tmp_path: Path) -> None:
    same = tuned(tmp_path / "same", {"lhs": 0.2, "random": 0.2}).summary
    assert sentences.badge(same) == ("no difference shown", "open")
    assert "is shown over 5 repeats" in same["headline"]
    few = tuned(tmp_path / "few", {"lhs": 0.2, "random": 0.2}, seeds=(0, 1)).summary
    assert sentences.badge(few) == ("too few repeats to tell", "open")
    assert few["headline"].startswith("2 repeats cannot show that")


def test_the_calibration_is_there_with_what_it_chose(found: Summary) -> None:
    own = found["calibration"]
    assert [len(row) for row in own["scores"]] == [2, 2, 2]
    assert [step["correlation"] for step in own["steps"]] == [pytest.approx(1), pytest.approx(1)]
    assert own["epochs"] == 1  # twice a logarithm is in the same order


def test_the_figure_of_the_algorithms_is_their_best_so_far_in_the_mean(outcome: Outcome, found: Summary) -> None:
    compared = found["comparison"]["algorithms"]
    for which in ("by_trial", "by_seconds"):  # a trial takes a second
        lines = [each for each in figures.best_so_far(compared, which)["data"] if each["name"]]
        assert [line["name"] for line in lines] == ["soo", f"lhs (size={BUDGET})"]
        for line, name in zip(lines, ("soo", "lhs"), strict=True):
            scores = np.array([[score(trial) for trial in record.trials()] for record in records(outcome, name)])
            assert line["x"] == list(range(1, BUDGET + 1))
            assert line["y"] == near(np.maximum.accumulate(scores, axis=1).mean(axis=0))


def test_the_figure_of_a_test_task_has_every_trials_score(outcome: Outcome) -> None:
    (record, *_), study = records(outcome, "soo"), outcome.studies["soo-0"]
    traces = {trace["name"]: trace for trace in figures.tested(study, "t")["data"]}
    assert traces["trial"]["x"] == list(range(BUDGET))
    assert traces["trial"]["y"] == near([score(trial, "test/t") for trial in record.trials()])
    assert study.winner is not None
    assert traces["winner"]["x"] == [study.winner.number]
    for name in ("base", "defaults", "winner"):
        assert all(y == near(score(record.anchors()[name], "test/t")) for y in traces[name]["y"])


def test_every_number_of_the_tables_is_in_the_data_that_scripts_read(outcome: Outcome, tmp_path: Path) -> None:
    assert json.loads(as_json(outcome.summary)) == json.loads(json.dumps(outcome.summary))
    text = files.markdown(outcome.summary)
    for section in itertools.chain(*sentences.sections(outcome.summary).values()):
        assert f"## {section.title}" in text
    assert f"**{outcome.summary['headline'].split(':')[0]}" in text


def test_the_outcome_is_written_and_written_over(outcome: Outcome) -> None:
    written = files.write(outcome)
    assert {path.name for path in written} == {
        "experiment.html",
        "experiment.md",
        "experiment.json",
        "experiment.svg",
        "epochs.svg",
    }
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in files.write(outcome)] == before
    assert not list(outcome.plan.directory.glob(".*"))


@pytest.mark.slow
def test_where_no_winner_is_better_the_first_line_says_so(tmp_path: Path) -> None:
    nothing = tuned(tmp_path / "nothing", {"lhs": 0.0, "random": 0.0}, seeds=(0, 1)).summary
    assert nothing["headline"].endswith("None of 4 winners is shown to be better than the untouched base model.")
