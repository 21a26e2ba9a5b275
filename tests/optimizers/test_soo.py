"""SOO is Munos's pseudo-code, point by point."""

from collections.abc import Callable
from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partune.errors import UserError
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers.soo import SOO
from partune.space import Choice, Float, Int, Space
from partune.trial import Config, Trial
from tests.support.drive import Session, drive
from tests.support.pseudo_code import soo
from tests.support.thorough import share

BOXES = {
    "himmelblau": [(-5, 5)] * 2,
    "branin": [(-5, 10), (0, 15)],
    "hartmann3": [(0, 1)] * 3,
    "hartmann6": [(0, 1)] * 6,
}
H_MAX: dict[str, Callable[[int], float]] = {"sqrt": sqrt, "none": lambda t: inf}


def assert_same_points(trials: list[Trial], expected: list[list[float]], box: list[tuple[int, int]]) -> None:
    for trial, x in zip(trials, expected, strict=True):
        u = [(x_i - low) / (high - low) for x_i, (low, high) in zip(x, box, strict=True)]
        assert trial.point == pytest.approx(u, rel=0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("compare", [">=", ">"])
@pytest.mark.parametrize("h_max", H_MAX)
@pytest.mark.parametrize("name", BOXES)
def test_the_points_of_the_published_pseudo_code_in_its_order(name: str, h_max: str, compare: str) -> None:
    function = SYNTHETIC[name]
    expected = soo(lambda x: -function.loss(x), BOXES[name], n=150, h_max=H_MAX[h_max], strict=compare == ">")
    trials = drive(SOO(function.space, h_max=h_max, compare=compare), function, budget=150)
    assert_same_points(trials, expected, BOXES[name])


@pytest.mark.parametrize("k", [2, 5])
def test_other_numbers_of_parts(k: int) -> None:
    function = SYNTHETIC["branin"]
    expected = soo(lambda x: -function.loss(x), BOXES["branin"], n=100, h_max=H_MAX["none"], strict=False, K=k)
    trials = drive(SOO(function.space, k=k), function, budget=100)
    assert_same_points(trials, expected, BOXES["branin"])


def test_the_two_new_children_come_together_and_the_middle_one_costs_nothing() -> None:
    optimizer = SOO(SYNTHETIC["sphere"].space)
    (root,) = optimizer.ask(8)
    assert root.point == (0.5, 0.5, 0.5)
    assert optimizer.ask(8) == []
    optimizer.tell(root, 1.0)
    low, high = optimizer.ask(2)
    assert low.point == (1 / 6, 0.5, 0.5)
    assert high.point == (5 / 6, 0.5, 0.5)


def test_asked_for_more_the_sweep_goes_on_over_the_leaves_that_have_scores() -> None:
    """The middle child has its parent's score; the others are pending, and no candidates."""
    optimizer = SOO(SYNTHETIC["sphere"].space)
    (root,) = optimizer.ask()
    optimizer.tell(root, 1.0)
    assert [proposal.point for proposal in optimizer.ask(6)] == [
        (1 / 6, 0.5, 0.5),
        (5 / 6, 0.5, 0.5),
        (0.5, 1 / 6, 0.5),
        (0.5, 5 / 6, 0.5),
        (0.5, 0.5, 1 / 6),
        (0.5, 0.5, 5 / 6),
    ]


def test_learning_rates_orders_apart_are_different_trials() -> None:
    """Centres whose decoded values differ by less than any absolute tolerance do not share a score."""
    space = Space(learning_rate=Float(1e-10, 1e-1, log=True))
    trials = drive(SOO(space), lambda config: -float(config["learning_rate"]), budget=40)
    rates = [float(trial.config["learning_rate"]) for trial in trials]
    assert len(set(rates)) == 40
    assert sum(rate < 1e-6 for rate in rates) > 10


@pytest.mark.slow
@pytest.mark.parametrize("h_max", ["sqrt", "none"])
@pytest.mark.parametrize("compare", [">=", ">"])
def test_every_sweep_ends_where_all_leaves_lie_below_h_max(h_max: str, compare: str) -> None:
    """One wide axis beside fine ones: shallow cells run out long before the space does, and t stands still."""
    space = Space(a=Choice(["x", "y"]), b=Int(1, 2), c=Int(1, 40))
    trials = drive(SOO(space, h_max=h_max, compare=compare), lambda config: float(config["c"]), budget=1000)
    assert len(trials) == space.size == 160
    assert {trial.config["c"] for trial in trials} == set(range(1, 41))


@pytest.mark.parametrize("compare", [">=", ">"])
def test_goes_on_where_everything_fails(compare: str) -> None:
    trials = drive(SOO(SYNTHETIC["sphere"].space, compare=compare), lambda config: -inf, budget=30)
    assert len(trials) == 30


def test_a_failed_cell_is_left_for_last() -> None:
    def objective(config: Config) -> float:
        return -inf if float(config["x"]) > 0.5 else float(config["x"])

    trials = drive(SOO(Space(x=Float(0, 1))), objective, budget=40)
    assert sum(float(trial.config["x"]) > 0.67 for trial in trials) < 12


def test_options_that_are_not_there() -> None:
    space = SYNTHETIC["sphere"].space
    with pytest.raises(UserError, match='did you mean "sqrt"'):
        SOO(space, h_max="sqr")
    with pytest.raises(UserError, match='compare is ">=" or ">"'):
        SOO(space, compare="<")
    with pytest.raises(UserError, match="cut into 2 to 100 parts, got k=1"):
        SOO(space, k=1).ask()


SPACES = [
    Space(a=Choice(["x", "y"]), b=Int(1, 4), c=Int(1, 5)),
    Space(a=Choice(["x", "y"]), f=Float(0, 1)),
    Space(a=Choice(["x", "y", "z", "w"]), b=Int(1, 2), c=Int(1, 12, log=True)),
]


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), space=st.sampled_from(SPACES), compare=st.sampled_from([">=", ">"]))
@settings(max_examples=share(0.4))
def test_an_ask_that_brought_nothing_left_no_trace(seed: int, space: Space, compare: str) -> None:
    """Cells of few values share configurations, run out, and wait for each other: the record alone gives the same."""

    def objective(config: Config) -> float:
        return round(float(np.sin([float(ord(str(value)[0])) for value in config.values()]).sum()), 1)

    rng = np.random.default_rng(seed)
    session = Session(SOO(space, compare=compare), objective)
    for _ in range(40):
        if rng.random() < 0.5:
            session.ask(int(rng.integers(1, 9)))
        elif session.pending:
            session.tell(session.pending[int(rng.integers(len(session.pending)))])
    resumed = session.resumed(SOO(space, compare=compare))
    assert resumed.optimizer.proposals == session.optimizer.proposals
    assert resumed.ask(3) == session.ask(3)
