"""What annealing, iterated local search and the genetic algorithm share."""

from collections.abc import Iterator
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.optimizers import optimizer
from partune.optimizers.metaheuristic import Metaheuristic, moved, reflected
from partune.space import Choice, Float, Int, Space
from partune.trial import Config, Point
from tests.support.drive import drive

NAMES = ("annealing", "ils", "genetic")
PLANE = Space(x=Float(0, 1), y=Float(0, 1))
MIXED = Space(
    kind=Choice(["plain", "rich"]),
    x=Float(0, 1),
    n=Int(1, 50),
    only=Choice(["only"]),
    y=Float(0, 1, when={"kind": "rich"}),
)


class Still(Metaheuristic):
    """One that never leaves its first point."""

    def moves(self, rng: np.random.Generator) -> Iterator[Point]:
        while True:
            yield self.proposals[0].point


def wavy(config: Config) -> float:
    x, n = float(config["x"]), float(config["n"])
    return float(np.sin(9 * x)) - 0.01 * (n - 20) ** 2 + float(config.get("y", 0.3))


# ----- the neighbourhood


def test_a_real_moves_by_a_gaussian_of_the_given_step() -> None:
    rng = np.random.default_rng(0)
    deltas = np.array([moved(Float(0, 1), 0.5, 0.05, rng) for _ in range(2000)]) - 0.5
    assert deltas.mean() == pytest.approx(0, abs=0.005)
    assert deltas.std() == pytest.approx(0.05, rel=0.08)


@pytest.mark.parametrize(
    ("u", "expected"), [(0.3, 0.3), (-0.2, 0.2), (1.1, 0.9), (2.4, 0.4), (-1.3, 0.7), (0, 0), (1, 1)]
)
def test_what_leaves_the_cube_is_reflected(u: float, expected: float) -> None:
    assert reflected(u) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("parameter", [Int(1, 4), Int(1, 64, log=True), Int(0, 1), Choice([True, 2, "a"])])
@pytest.mark.parametrize("step", [1e-9, 0.05, 0.5])
def test_a_discrete_value_always_becomes_another(parameter: Int | Choice, step: float) -> None:
    rng = np.random.default_rng(0)
    for value in parameter.values:
        around = [parameter.decode(moved(parameter, parameter.encode(value), step, rng)) for _ in range(60)]
        assert not any(other is value or (other == value and type(other) is type(value)) for other in around)
        if isinstance(parameter, Int) and step == 1e-9:
            assert set(around) == {value - 1, value + 1} & set(parameter.values)
        if isinstance(parameter, Choice):
            assert len({(type(other), other) for other in around}) == 2


def test_a_neighbour_moves_some_axes_that_exist_and_draws_anew_what_comes_into_being() -> None:
    """The choice moves with 1/3, or alone (1/3) where all three stay (1/6): 233 of 600; three deviations are 36."""
    algorithm = Still(MIXED, seed=0, n_init=1)
    point = MIXED.encode({"kind": "plain", "x": 0.5, "n": 20, "only": "only"})
    assert algorithm.active(point) == [0, 1, 2]
    rng = np.random.default_rng(0)
    near = [MIXED.decode(algorithm.neighbour(point, 0.01, rng)) for _ in range(600)]
    changed = [(each["kind"] != "plain") + (each["x"] != 0.5) + (each["n"] != 20) for each in near]
    assert min(changed) == 1
    rich = np.array([each["y"] for each in near if each["kind"] == "rich"], dtype=float)
    assert abs(len(rich) - 233) < 36
    assert rich.std() == pytest.approx(12**-0.5, abs=0.03)


# ----- when there is nothing to move from, or to


def test_hypercubes_go_on_while_nothing_is_known_and_where_no_move_is_new() -> None:
    for score in (0.5, nan):
        points = np.array([trial.point for trial in drive(Still(PLANE, 0, n_init=5), lambda config: score, 15)])  # noqa: B023
        for batch in points.reshape(3, 5, 2):
            assert (np.sort(np.floor(5 * batch), axis=0) == np.arange(5)[:, None]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_study_can_be_pending(name: str) -> None:
    algorithm = optimizer(name, MIXED)
    assert len({proposal.point for proposal in algorithm.ask(40)}) == 40


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_beats_random_search_on_a_mixed_and_conditional_space(name: str) -> None:
    """Sign test: chance would win 21 of 30 with a probability of 2 %."""
    wins = 0
    for seed in range(30):
        ours, chance = (drive(optimizer(each, MIXED, seed=seed), wavy, budget=50) for each in (name, "random"))
        wins += max(trial.score for trial in ours) > max(trial.score for trial in chance)
    assert wins >= 21


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [lambda s: 1e6 * s, lambda s: s + 100.0, lambda s: 1e-9 * s], ids=["x", "+", "/"])
def test_the_unit_and_the_origin_of_the_scores_change_nothing(name: str, change: Any) -> None:
    one = drive(optimizer(name, MIXED, seed=1), wavy, budget=70)
    two = drive(optimizer(name, MIXED, seed=1), lambda config: change(wavy(config)), budget=70)
    assert [trial.point for trial in one] == [trial.point for trial in two]


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_is_never_where_it_goes_from(name: str) -> None:
    """Everything fails but one point."""
    algorithm = optimizer(name, PLANE)
    (first,) = algorithm.ask()
    algorithm.tell(first, 1.0)
    for _ in range(20):
        (proposal,) = algorithm.ask()
        algorithm.tell(proposal, -inf)
    if name == "annealing":
        assert algorithm.current.point == first.point  # type: ignore[attr-defined]
    elif name == "ils":
        assert [each.point for each in algorithm.walk()[:2]] == [first.point] * 2  # type: ignore[attr-defined]
    else:
        assert [each.point for each in algorithm.population] == [first.point]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("annealing", {"n_init": 0}, "n_init >= 1 must hold, got n_init=0"),
        ("annealing", {"horizon": 0}, "horizon >= 1 must hold, got horizon=0"),
        ("annealing", {"accept": 1.0}, "0 < accept < 1 must hold, got accept=1.0"),
        ("annealing", {"step": 0.0}, "0 < step <= 1 must hold, got step=0.0"),
        ("ils", {"patience": 0}, "patience >= 1 must hold, got patience=0"),
        ("ils", {"step": 0.5, "leap": 0.2}, "0 < step <= leap <= 1 must hold, got step=0.5, leap=0.2"),
        ("genetic", {"size": 1}, "size >= 2 must hold, got size=1"),
        ("genetic", {"tournament": 0}, "tournament >= 1 must hold, got tournament=0"),
        ("genetic", {"crossover": "sbc"}, 'no crossover "sbc"; did you mean "sbx"'),
        ("genetic", {"mutation": 1.5}, "0 <= mutation <= 1 must hold, got mutation=1.5"),
        ("genetic", {"eta_c": -1.0}, "eta_c, eta_m >= 0 must hold, got eta_c=-1.0, eta_m=10.0"),
    ],
)
def test_an_option_out_of_bounds_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        optimizer(name, PLANE, **options)
