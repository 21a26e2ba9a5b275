"""Importances: of functions whose variance is known."""

from __future__ import annotations

import numpy as np
import pytest

from partune import Choice, Float, Space
from partune.report.analysis.importance import MOST, importance
from partune.trial import Config, Observation, Status, Trial

SPACE = Space(a=Float(0, 1), b=Float(0, 1), c=Float(0, 1))


def trials(n: int, space: Space, score: object) -> list[Trial]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(n):
        config: Config = space.decode(rng.random(space.dimension).tolist())
        observation = Observation({"score": float(score(config))})  # type: ignore[operator]
        found.append(Trial(number, config, status=Status.DONE, observation=observation))
    return found


@pytest.mark.slow
def test_shares_are_those_of_the_variance() -> None:
    """Of 2 a + b the variances of a and b are 4 : 1, and c has none."""
    found = importance(SPACE, trials(80, SPACE, lambda c: 2 * c["a"] + c["b"]))
    assert found is not None
    assert list(found.shares) == ["a", "b", "c"]
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["a"] == pytest.approx(0.8, abs=0.08)
    assert found.shares["c"] < 0.04
    assert (found.trials, found.left_out, found.rough) == (80, (), False)


@pytest.mark.slow
def test_of_many_trials_some_are_taken() -> None:
    found = importance(SPACE, trials(MOST + 50, SPACE, lambda c: c["b"]))
    assert found is not None
    assert (found.trials, found.done) == (MOST, MOST + 50)
    assert next(iter(found.shares)) == "b"


def test_what_does_not_exist_everywhere_or_never_changes_is_left_out() -> None:
    space = Space(k=Choice(["x", "y"]), only=Choice(["z"]), m=Float(0, 1, when={"k": "x"}), a=Float(0, 1))
    found = importance(space, trials(12, space, lambda c: c["a"]))
    assert found is not None
    assert set(found.shares) == {"k", "a"}
    assert found.left_out == ("only", "m")
    assert found.rough


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_scores_tell_nothing(n: int) -> None:
    assert importance(SPACE, trials(n, SPACE, lambda c: c["a"])) is None
    assert importance(SPACE, trials(8, SPACE, lambda c: 1.0)) is None
    assert importance(Space(a=Float(0, 1)), trials(8, Space(a=Float(0, 1)), lambda c: c["a"])) is None
