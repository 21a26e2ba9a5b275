"""SequOOL is the published pseudo-code; StroquOOL keeps its budget, its plan and what it claims about noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune.errors import UserError
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers.base import Search
from partune.optimizers.partition import Tree
from partune.optimizers.sequool import SequOOL, StroquOOL, points
from partune.space import Float, Space
from tests.support.drive import drive
from tests.support.pseudo_code import sequool


@pytest.mark.slow
@pytest.mark.parametrize("budget", [20, 50, 200])
@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_points_of_the_published_pseudo_code_in_its_order(name: str, budget: int) -> None:
    function = SYNTHETIC[name]
    space = function.space
    expected = sequool(lambda u: function(space.decode(u)), space.dimension, openings=budget // 2)
    trials = drive(SequOOL(space, budget=budget), function, budget=len(expected))
    assert len(expected) <= budget + 3  # the paper's count leaves out the root
    for trial, x in zip(trials, expected, strict=True):
        assert trial.point == pytest.approx(x, rel=0, abs=1e-12)


def test_when_the_budget_is_spent_it_goes_on_as_if_it_had_had_twice_as_much() -> None:
    function = SYNTHETIC["branin"]
    first, second = (
        sequool(lambda u: function(function.space.decode(u)), 2, openings=budget // 2) for budget in (40, 80)
    )
    union = list(dict.fromkeys(map(tuple, [*first, *second])))
    trials = drive(SequOOL(function.space, budget=40), function, budget=len(union))
    ours, theirs = (np.array(sorted(points)) for points in ([trial.point for trial in trials], union))
    assert ours == pytest.approx(theirs, rel=0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [25, 50, 75, 200, 800])
def test_a_run_of_stroquool_takes_no_more_than_its_budget(budget: int) -> None:
    function = SYNTHETIC["hartmann3"]
    began: list[tuple[int, int]] = []  # the budget of each run, and how many proposals there were when it began

    class Runs(StroquOOL):
        def run(self, tree: Tree, budget: int) -> Search:
            began.append((budget, len(self.proposals)))
            yield from super().run(tree, budget)

    drive(Runs(function.space, budget=budget), function, budget=budget + 1)
    (first, _), (second, spent) = began
    assert (first, second) == (budget, 2 * budget)
    assert spent <= budget


def test_the_plan_of_stroquool_at_a_budget_of_fifty() -> None:
    """h_max = 3: the root, three children with three points each, then the best of them with two, and so on."""
    space = Space(x=Float(0, 1))
    algorithm = StroquOOL(space)
    assert [algorithm.cost(h) for h in (1, 2, 3, 4)] == [8, 26, 37, 79]
    trials = drive(algorithm, lambda config: float(config["x"]), budget=14)
    first = [1 / 2, *(u for low in (0, 1 / 3, 2 / 3) for u in sequence(low, 1 / 3, 3))]
    then = [u for low in (6 / 9, 7 / 9, 8 / 9) for u in sequence(low, 1 / 9, 2)]
    expected = list(dict.fromkeys(round(u, 12) for u in [*first, *then]))
    assert [round(trial.point[0], 12) for trial in trials] == expected[:14]


def sequence(low: float, width: float, n: int) -> list[float]:
    """The middle, and then on by the golden ratio: in one dimension phi^2 = phi + 1."""
    golden = (5**0.5 - 1) / 2
    return [low + width * ((0.5 + j * golden) % 1) for j in range(n)]


@given(base=st.integers(2, 4), d=st.integers(1, 4), n=st.integers(1, 64))
def test_the_points_of_a_cell_are_in_it_and_differ(base: int, d: int, n: int) -> None:
    tree = Tree(Space({f"x{i}": Float(0, 1) for i in range(d)}), base)
    cell = tree.split(tree.root)[-1]
    found = points(cell, 0, n)
    assert found[0] == cell.point
    assert len(set(found)) == n
    assert all(low <= u <= high for u_s in found for low, u, high in zip(cell.lower, u_s, cell.upper, strict=True))


@pytest.mark.slow
def test_the_mean_of_several_points_sees_through_noise_that_hides_the_best_cell_from_one() -> None:
    """f = 1 in the last third and 0 elsewhere, with unit noise: which third is opened first?"""

    def right(algorithm: SequOOL | StroquOOL, children: int, seed: int) -> bool:
        rng = np.random.default_rng(seed)
        trials = drive(algorithm, lambda config: (float(config["x"]) > 2 / 3) + rng.standard_normal(), children + 2)
        return trials[children].point[0] > 2 / 3

    space, n = Space(x=Float(0, 1)), 60
    one = sum(right(SequOOL(space, budget=1000), 3, seed) for seed in range(n))
    h_max = max(h for h in range(1, 100) if StroquOOL(space).cost(h) <= 1000)
    several = sum(right(StroquOOL(space, budget=1000), 3 * h_max, seed) for seed in range(n))
    assert several > 0.9 * n > 0.8 * n > one


def test_options_out_of_range() -> None:
    with pytest.raises(UserError, match="budget >= 1 must hold, got budget=0"):
        SequOOL(SYNTHETIC["branin"].space, budget=0)
