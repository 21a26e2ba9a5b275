"""Suites of a toy problem, in the places of those that need packages of their own."""

from __future__ import annotations

import pytest

from partune.bench.search import problems
from partune.bench.search.problems import SUITES, Problem, Suite
from tests.support.races import SPHERE, value


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A noiseless suite and a noisy one in the places of BBOB's and HPOBench's, which need packages of their own."""
    problems.problem.cache_clear()
    still = Problem(SPHERE, value, 0.0)
    noisy = Problem(SPHERE, value, 0.0, draw=lambda config, rng: value(config) + rng.standard_normal(), scale=10.0)
    monkeypatch.setitem(SUITES, "bbob", Suite(lambda options: ["still"], lambda parts: still, logarithmic=True))
    monkeypatch.setitem(SUITES, "hpobench", Suite(lambda options: ["one", "two"], lambda parts: noisy))
