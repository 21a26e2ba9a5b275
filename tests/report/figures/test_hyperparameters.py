"""Figures of the hyperparameters show the trials' values, the importances and the surrogate's planes."""

from __future__ import annotations

import numpy as np
import pytest

from partune.report import figures
from partune.report.facts import Facts
from partune.trial import Trial
from tests.support.drawn import drawn, near, traces


@pytest.mark.slow
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
    assert bars["text"] == [f"{share:.0f}%" for share in bars["x"]]


def test_planes_are_the_surrogates_mean_and_its_standard_deviation(facts: dict[str, Facts]) -> None:
    each = facts["tuned"]
    assert each.model is not None
    cut = each.model.plane(*each.leading)
    for name, values in (("mean-0", cut.mean), ("std-0", cut.std)):
        plane = traces(drawn(each)[name])[""]
        assert (plane["x"], plane["y"]) == (cut.x, cut.y)
        assert np.array(plane["z"]) == near(values)
