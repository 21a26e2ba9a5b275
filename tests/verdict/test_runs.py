"""The scores of runs: the weights of tasks and groups."""

from __future__ import annotations

import numpy as np
import pytest

from partune.verdict.paired import compare
from partune.verdict.runs import Runs
from tests.support.runs import one


def test_several_tasks_weigh_the_same_whatever_their_size() -> None:
    winner = one(small=np.array([1.0, 1, 1, 0]), large=np.zeros(400))
    found = compare(winner, one(small=np.zeros(4), large=np.zeros(400)))
    assert found.gain == pytest.approx(0.75 / 2)
    assert found.items == 404
    assert found.p == pytest.approx(1 / 8)  # of three items that differ, all won


def test_a_group_weighs_as_its_table_does() -> None:
    """A leaf of 2 items counts as much as one of 200 where the group's score is the mean of its leaves'."""
    leaf = {"task": np.repeat([0, 1], [2, 200])}
    weights = {"task": np.repeat([1 / 4, 1 / 400], [2, 200])}
    winner = Runs.of([{"task": np.r_[np.ones(2), np.zeros(200)]}], weights, leaf)
    base = Runs.of([{"task": np.zeros(202)}], weights, leaf)
    assert compare(winner, base).gain == pytest.approx(0.5)
