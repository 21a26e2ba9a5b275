"""Figures of search items beside verdict items and test tasks show the scores on record."""

from __future__ import annotations

from partune.report import figures
from partune.report.facts import Facts
from tests.support.drawn import drawn, near, traces


def compared(facts: Facts) -> dict[str, tuple[float, dict[str, float]]]:
    """The score on the search items, and the others, of base, defaults and winner: from the record."""
    found = {}
    for name in ("base", "defaults", "winner"):
        trial = facts.baselines[name]
        assert trial.observation is not None
        assert facts.winner is not None
        found[name] = (facts.winner if name == "winner" else trial).score, dict(trial.observation.scores)
    return found


def test_sides_are_the_scores_on_each_part(facts: dict[str, Facts]) -> None:
    figure = figures.sides(facts["tuned"])
    assert figure["layout"]["xaxis"]["ticktext"] == ["search<br>items", "held-out<br>items", "test:<br>t"]
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
