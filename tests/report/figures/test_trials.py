"""The figure of scores over trials shows every trial, with its phase and its error."""

from __future__ import annotations

from partune.report import figures
from partune.report.facts import Facts
from partune.trial import Status
from tests.support.drawn import near, traces


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
        assert found[name]["y"] == [each.baselines[name].score] * 2


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
