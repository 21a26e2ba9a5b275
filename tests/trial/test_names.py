"""The names on record: what is composed is parsed back, and nothing else is taken for a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune.trial.names import (
    Baseline,
    Confirmation,
    FreshRun,
    FurtherBaseline,
    ItemSet,
    ResultName,
    Rung,
    WinnerScoring,
    adapter_folder,
    is_further_runs,
    run_name,
    rung_scores,
    score_on_verdict_items,
    scores_on_tests,
    without_held_out,
)

NUMBERS = st.integers(0, 10**6)
FURTHER = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", fullmatch=True).map(FurtherBaseline)
RUNS = st.one_of(
    st.sampled_from([*Baseline, *WinnerScoring]),
    st.builds(Confirmation, NUMBERS, NUMBERS),
    st.builds(FreshRun, NUMBERS | st.just(Baseline.DEFAULTS) | FURTHER, NUMBERS),
    FURTHER,
)


@given(RUNS)
def test_a_run_is_called_what_it_was(name: Baseline) -> None:
    assert run_name(str(name)) == name
    assert is_further_runs(adapter_folder(name)) == isinstance(name, (Confirmation, FreshRun))


def test_the_record_holds_the_texts_that_it_always_held() -> None:
    named = (Baseline.BASE, Baseline.ZERO, Baseline.DEFAULTS, WinnerScoring.JUDGED, WinnerScoring.RELOADED)
    assert [str(name) for name in named] == ["base", "zero", "defaults", "winner", "reloaded"]
    assert str(Confirmation(17, 2)) == "confirm/17/2"
    assert str(FreshRun(17, 1)) == "fresh/17/1"
    assert str(FreshRun(Baseline.DEFAULTS, 2)) == "fresh/defaults/2"
    assert adapter_folder(FreshRun(17, 1)) == "fresh.17.1"
    peft = FurtherBaseline("peft")
    assert (str(peft), str(FreshRun(peft, 2))) == ("baseline/peft", "fresh/baseline/peft/2")
    assert adapter_folder(FreshRun(peft, 2)) == "fresh.baseline.peft.2"
    assert FreshRun(peft, 2).words == "fresh run 2 of baseline peft"
    assert (str(Rung(3)), str(ResultName(ItemSet.TEST, "arc"))) == ("rung/3", "test/arc")
    assert str(ResultName(ItemSet.VERDICT, "arc", "acc")) == "verdict/arc/acc"
    assert ResultName(ItemSet.TEST, "arc").stderr == "test/arc_stderr"


@pytest.mark.parametrize("text", ["", "best", "confirm/defaults/1", "confirm/1", "fresh/1/x", "fresh.1.2", "base/1"])
def test_what_names_no_run_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no run is called"):
        run_name(text)


@pytest.mark.parametrize("folder", ["0001", "winner", "fresh/1/2", "fresh.1", "fresh.other.1", "confirm.defaults.1"])
def test_other_folders_are_no_further_runs(folder: str) -> None:
    assert not is_further_runs(folder)


def test_a_run_has_a_name_in_words() -> None:
    assert Confirmation(17, 2).words == "confirmation 2 of trial 17"
    assert FreshRun(17, 1).words == "fresh run 1 of trial 17"
    assert FreshRun(Baseline.DEFAULTS, 3).words == "fresh run 3 of the defaults"


def test_arrays_know_their_task_whatever_it_is_called() -> None:
    for task in ("arc", "my/own/task"):
        assert ResultName.of_array(f"verdict/{task}/acc") == ResultName(ItemSet.VERDICT, task, "acc")
    for text in ("acc", "verdict", "verdict/acc", "other/arc/acc", "/arc/acc", "verdict//acc"):
        assert ResultName.of_array(text) is None


def test_scores_are_found_by_what_they_are_of() -> None:
    scores = {"score": 0.1, "verdict": 0.2, "verdict_stderr": 0.3, "rung/1": 0.4, "rung/10": 0.5, "rung/x": 0.6}
    scores |= {"test/a/b": 0.7, "test/a/b_stderr": 0.8, "test/a/b/acc": 0.7, "test/a/b/acc_stderr": 0.8}
    assert score_on_verdict_items(scores) == (0.2, 0.3)
    assert score_on_verdict_items({"verdict": 0.2}) == (0.2, None)
    assert score_on_verdict_items({"score": 0.1}) is None
    assert rung_scores(scores) == {1: 0.4, 10: 0.5}
    assert scores_on_tests(scores) == {"a/b": (0.7, 0.8)}
    assert without_held_out(scores) == {"score": 0.1, "rung/1": 0.4, "rung/10": 0.5}


def test_a_test_task_without_a_number_has_no_score() -> None:
    nan = float("nan")
    assert scores_on_tests({"test/t": nan, "test/t_stderr": nan, "test/u": 0.5, "test/u_stderr": nan}).keys() == {"u"}
