"""How trials are written: what comes back, and what is not believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from partune import Observation, Status
from partune.record import forms
from partune.record.place import JOURNAL
from partune.record.record import Record
from tests.support.records import finished, proposed


def test_trials_come_back_as_they_went(directory: Path) -> None:
    trials = Record.open(directory).trials()
    assert [t.status for t in trials] == [Status.DONE, Status.DONE, Status.RUNNING]
    for number, u in enumerate((0.123456789, 0.5, 0.987654321)):
        expected = proposed(number, (u,) * 6)
        if number < 2:
            expected = finished(expected, score=u)
        assert trials[number] == expected
        assert list(trials[number].config) == list(expected.config)


def test_failed_trials_store_no_score(directory: Path) -> None:
    record = Record.open(directory)
    record.finish(proposed(2).finished(Observation.failure("loss diverged"), told=2))
    trial = record.trials()[2]
    assert trial.status is Status.FAILED
    assert trial.observation is not None
    assert (trial.observation.error, dict(trial.observation.scores)) == ("loss diverged", {})
    lines = [json.loads(line) for line in (directory / JOURNAL).read_text().splitlines()]
    assert lines[-1]["values"] is None


@pytest.mark.parametrize(("value", "kind"), [(True, int), ("1", int), (1.5, int), (None, dict), ([], dict)])
def test_a_value_of_another_kind_is_refused(value: object, kind: type) -> None:
    with pytest.raises(ValueError, match="budget is "):
        forms.of_type(value, kind, "budget")


def test_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "LIBRARIES", ("numpy", "no-such-library"))
    assert forms.versions().keys() == {"python", "numpy"}
    assert forms.versions()["numpy"] == np.__version__


def test_every_status_has_a_word_of_optunas() -> None:
    on_record = [Status.RUNNING, *(status for status in Status if status.final)]
    assert [forms.state(status).name for status in on_record] == ["RUNNING", "COMPLETE", "FAIL", "PRUNED"]
