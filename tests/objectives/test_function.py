"""Any function as an objective, by itself or by name."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from partune import Observation, Status, Study, Trial, UserError
from partune.objectives.function import as_objective, named
from partune.objectives.synthetic import SYNTHETIC

MODULE = """\
from partune import Observation
from partune.objectives.base import Objective

def square(config):
    return -config["x"] ** 2

class Cube(Objective):
    def evaluate(self, trial, adapter=None):
        return Observation({"score": trial.config["x"] ** 3, "other": 1.0}, stderr=0.1)

number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_numbers_observations_and_classes() -> None:
    trial = Trial(0, {"x": 3.0})
    assert as_objective(lambda config: float(config["x"])).evaluate(trial) == Observation({"score": 3.0})
    assert as_objective("shapes:square").evaluate(trial).score == -9.0
    assert as_objective("shapes:Cube").evaluate(trial) == Observation({"score": 27.0, "other": 1.0}, stderr=0.1)
    failed = as_objective(lambda config: math.inf).evaluate(trial)
    assert (failed.status, failed.error) == (Status.FAILED, "the score is inf")


def test_a_study_takes_a_name() -> None:
    space = SYNTHETIC["branin"].space
    assert Study(space, "branin", "soo").run(9).best.score == Study(space, SYNTHETIC["branin"], "soo").run(9).best.score


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brannin", 'no objective "brannin"; did you mean "branin"?'),
        ("nowhere:f", "cannot load the objective nowhere:f: No module named 'nowhere'"),
        ("shapes:f", "cannot load the objective shapes:f: module 'shapes' has no attribute 'f'"),
        ("shapes:number", "objective shapes:number is neither a function of a configuration nor an Objective"),
        (":f", "cannot load the objective :f: Empty module name"),
    ],
)
def test_what_is_no_objective_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        as_objective(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def f(config) 1", "cannot load the objective broken_one:f: SyntaxError: "),
        ("f = 1 / 0", "cannot load the objective broken_one:f: ZeroDivisionError: division by zero"),
        ("import nowhere_at_all", "cannot load the objective broken_one:f: No module named 'nowhere_at_all'"),
        (
            "class f:\n    def __init__(self):\n        raise OSError('no file')",
            "cannot make the objective broken_one:f: OSErr",
        ),
    ],
)
def test_code_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    (tmp_path / "broken_one.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_one", raising=False)
    with pytest.raises(UserError) as caught:
        named("broken_one:f")
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
