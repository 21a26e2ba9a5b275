"""The words: what an observation must hold, what an optimiser may see, trials that never change."""

from __future__ import annotations

import dataclasses
import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune import Float, Observation, Space, Status, Study, Trial
from partune.errors import reason
from partune.record.record import Record


def test_an_observation_that_did_not_fail_has_a_finite_score() -> None:
    """Of a stopped one there may be none."""
    for scores in ({}, {"score": math.nan}, {"score": math.inf}, {"accuracy": 0.5}):
        for status in (Status.DONE, Status.STOPPED) if scores else (Status.DONE,):
            with pytest.raises(ValueError, match="needs a finite scores"):
                Observation(scores, status=status)
    assert not Observation(status=Status.STOPPED).scores
    assert Observation(status=Status.FAILED).score == -math.inf


def test_a_bare_number_is_the_score_and_nan_a_failure() -> None:
    assert Observation.of(0.5) == Observation({"score": 0.5})
    assert Observation.of(np.float64(0.5)).score == 0.5
    assert Observation.of(Observation({"score": 1.0})).score == 1.0
    assert Observation.of(math.nan).error == "the score is nan"


def test_an_optimiser_sees_score_and_error_alone() -> None:
    items = {"verdict/t/acc": np.ones(3)}
    full = Observation({"score": 0.5, "verdict": 0.9, "test/t": 0.8}, 0.01, error="x", items=items)
    assert full.blinded() == Observation({"score": 0.5}, 0.01)
    assert not full.blinded().items


def test_a_trial_is_never_changed_in_place() -> None:
    proposed = Trial(3, {"x": 1.0}, (0.5,))
    running = proposed.started()
    done = running.finished(Observation({"score": 0.5}), told=2)
    assert (proposed.status, proposed.attempts) == (Status.PROPOSED, 0)
    assert (running.status, running.attempts, running.score) == (Status.RUNNING, 1, -math.inf)
    assert (done.status, done.told, done.score) == (Status.DONE, 2, 0.5)
    assert done.proposal == proposed.proposal
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.status = Status.FAILED  # type: ignore[misc]


@pytest.mark.parametrize("status", Status)
def test_final_is_done_failed_or_stopped(status: Status) -> None:
    assert status.final == (status in {"done", "failed", "stopped"})


class Floating:
    def __float__(self) -> float:
        return 0.5


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


NUMBERS = [
    np.float32(0.5),
    np.float16(0.5),
    np.array(0.5),
    np.array([0.5]),
    np.array([0.5], dtype=object),
    Decimal("0.5"),
    Fraction(1, 2),
    Floating(),
    True,
    np.bool_(True),
    np.int8(1),
    10**20,
]
NO_NUMBERS = [
    None,
    "0.5",
    b"0.5",
    np.str_("0.5"),
    1j,
    np.complex64(1),
    [0.5],
    (0.5, 0.1),
    {"score": 1},
    np.ones(2),
    10**400,
]


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: type(value).__name__)
def test_numbers_of_any_kind_become_plain_ones(value: Any) -> None:
    found = Observation(
        {"score": value, "other": value}, stderr=value, cost={"seconds": value}, items={"x": [value] * 2}
    )
    plain = float(np.ravel(value)[0])
    assert Observation.of(value) == Observation({"score": plain})
    for each in (found.scores["score"], found.scores["other"], found.stderr, found.cost["seconds"]):
        assert type(each) is float
        assert each == plain
    assert found.items["x"].dtype.kind in "biuf"
    json.dumps([dict(found.scores), found.stderr, dict(found.cost)])


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_a_failure_with_its_reason(value: Any) -> None:
    study = Study(Space(x=Float(0, 1)), lambda config: value, "random").run(1)
    observation = study.trials[0].observation
    assert observation is not None
    assert observation.status is Status.FAILED
    assert str(observation.error).startswith("ValueError: an objective's answer must be a number, got ")
    with pytest.raises(ValueError, match="must be a number"):
        Observation({"score": 1.0, "other": value})


def test_a_number_of_torch_is_one() -> None:
    torch = pytest.importorskip("torch")
    assert Observation.of(torch.tensor(0.5)) == Observation({"score": 0.5})
    assert Observation.of(torch.tensor([0.5], requires_grad=True).detach()).score == 0.5
    assert Observation({"score": 0.5}, items={"x": torch.ones(3)}).items["x"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="must be a number"):
        Observation.of(torch.ones(2))


BAD = [
    {"items": {"x": ["a", "b"]}},
    {"items": {"x": np.array(["1", "2"], dtype=object)}},
    {"items": {"x": [object()]}},
    {"items": {"x": [[1], [1, 2]]}},
    {"items": {"x": np.array([1j])}},
    {"items": {"x\n": [1.0]}},
    {"items": {"x\0y": [1.0]}},
    {"items": {"": [1.0]}},
    {"items": {"\ud800": [1.0]}},
    {"items": {7: [1.0]}},
    {"items": {"x" * 100_000: [1.0]}},
    {"items": [1.0]},
    {"scores": {1: 2.0}},
    {"scores": [1.0]},
    {"cost": {"seconds": "long"}},
    {"cost": {"seconds": math.nan}},
    {"stderr": -0.1},
    {"stderr": math.inf},
    {"fidelity": None},
    {"status": "running"},
    {"status": "strange"},
]


@pytest.mark.slow
@pytest.mark.parametrize("given", BAD, ids=[str(k) for k in range(len(BAD))])
def test_an_odd_observation_fails_its_trial_and_not_the_study(tmp_path: Path, given: dict[str, Any]) -> None:
    def odd(config: Any) -> Observation:
        return Observation(**{"scores": {"score": 1.0}} | given) if config["x"] > 0.5 else Observation({"score": 0.0})

    study = Study(Space(x=Float(0, 1)), odd, "random", directory=tmp_path / "s").run(6)
    errors = [trial.observation.error for trial in study.trials if trial.observation and trial.status is Status.FAILED]
    assert errors
    assert all(error and error.startswith("ValueError: ") and len(error) < 1500 for error in errors)
    study.close()
    record = Record.open(tmp_path / "s", read_only=True)
    assert [trial.observation for trial in record.trials()] == [trial.observation for trial in study.trials]


def test_items_of_any_name_are_kept(tmp_path: Path) -> None:
    """Names that a writer of files takes for its own arguments, too."""
    names = ("file", "allow_pickle", "a/b", "../x", "x.npy", "[x]", "self", "ä 語")
    items = {name: np.arange(3.0) + k for k, name in enumerate(names)}
    study = Study(Space(x=Float(0, 1)), lambda c: Observation({"score": 1.0}, items=items), directory=tmp_path / "s")
    kept = study.run(1).record.items("search", 0)
    assert {name: values.tolist() for name, values in kept.items()} == {k: v.tolist() for k, v in items.items()}


def test_a_standard_error_that_is_nan_is_unknown() -> None:
    assert Observation({"score": 1.0}, stderr=math.nan).stderr is None
    assert Observation({"score": 1.0}, status="done").status is Status.DONE  # type: ignore[arg-type]


def test_a_stopped_trial_without_a_score_is_recorded(tmp_path: Path) -> None:
    stopped = Observation(status=Status.STOPPED)
    study = Study(Space(x=Float(0, 1)), lambda config: stopped, "random", directory=tmp_path / "s").run(2)
    assert [trial.status for trial in study.trials] == [Status.STOPPED] * 2


def test_a_reason_is_one_line_that_is_not_endless() -> None:
    assert reason(ValueError("a\n  b")) == "ValueError: a b"
    assert reason(UnprintableError()) == "UnprintableError: (it cannot be printed)"
    assert len(reason(ValueError("x" * 10**6))) == 1000
    assert Observation.raised(KeyError("step 3")).cause == "KeyError: 'step #'"
    assert Observation.failure("out of memory: 3 GiB").cause is None
    assert Observation.failure("the score is nan").cause is None
