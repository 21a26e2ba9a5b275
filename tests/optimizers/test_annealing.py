from math import exp, inf, log
from statistics import median

import numpy as np
import pytest

from partune.optimizers.annealing import COLD, FINE, Annealing, metropolis
from partune.space import Choice, Float, Int, Space
from partune.trial import Config, Point
from tests.support.drive import drive

SPACE = Space(x=Float(0, 1), n=Int(1, 30), kind=Choice(["a", "b", "c"]))


def wavy(config: Config) -> float:
    x, n = float(config["x"]), float(config["n"])
    return float(np.sin(20 * x)) - 0.01 * (n - 20) ** 2 + (0.5 if config["kind"] == "b" else 0.0)


def textbook(seed: int, n_init: int, horizon: int, budget: int) -> list[Point]:
    """Kirkpatrick, Gelatt and Vecchi's loop, with the neighbourhood and the random numbers of the optimiser."""
    neighbourhood = Annealing(SPACE, seed=seed, n_init=n_init)
    points = [proposal.point for proposal in neighbourhood.ask(n_init)]
    scores = [wavy(SPACE.decode(point)) for point in points]
    t_0 = median(abs(a - b) for i, a in enumerate(scores) for b in scores[:i]) / log(1 / neighbourhood.accept)
    accepts = np.random.default_rng([seed, 0, 3]).random(budget)
    while True:
        current = int(np.argmax(scores))
        for k in range(horizon):
            n = len(points)
            if n == budget:
                return points
            step, t = neighbourhood.step * FINE ** (k / horizon), t_0 * COLD ** (k / horizon)
            rng = np.random.default_rng([seed, n, 2])
            while (
                candidate := SPACE.encode(SPACE.decode(neighbourhood.neighbour(points[current], step, rng)))
            ) in points:
                pass
            points.append(candidate)
            scores.append(wavy(SPACE.decode(candidate)))
            if scores[n] >= scores[current] or accepts[n] < exp((scores[n] - scores[current]) / t):
                current = n


@pytest.mark.parametrize("seed", range(4))
def test_one_at_a_time_it_is_the_textbooks_loop(seed: int) -> None:
    """Two coolings and the beginning of a third: each restarts from the best point of all."""
    found = drive(Annealing(SPACE, seed=seed, n_init=6, horizon=30), wavy, budget=75)
    assert [trial.point for trial in found] == textbook(seed, n_init=6, horizon=30, budget=75)


@pytest.mark.slow
def test_a_worse_point_is_accepted_with_metropolis_probability(thorough: bool) -> None:
    """Walks that are each offered one loss at the first step: at T_0 the median difference (here 1) is accepted with
    probability .3, so a loss of 1/2 with .3^(1/2) = .548; three standard deviations of 300 walks are .086."""
    line = Space(x=Float(0, 1))
    accepted, walks = 0, 1500 if thorough else 300
    for seed in range(walks):
        algorithm = Annealing(line, seed=seed, n_init=3, accept=0.3)
        for score in (0.0, 1.0, 2.0, 1.5):
            (proposal,) = algorithm.ask()
            algorithm.tell(proposal, score)
        accepted += algorithm.current.score == 1.5
    expected = 0.3**0.5
    assert accepted / walks == pytest.approx(expected, abs=3 * (expected * (1 - expected) / walks) ** 0.5)


@pytest.mark.slow
def test_worse_points_are_accepted_less_and_less_often() -> None:
    """Every step offers the same loss; by thirds of the cooling."""
    line = Space(x=Float(0, 1))
    taken = np.zeros(30)
    for seed in range(60):
        algorithm = Annealing(line, seed=seed, n_init=3, horizon=30, accept=0.5)
        for score in (0.0, 1.0, 2.0):
            algorithm.tell(algorithm.ask()[0], score)
        for k in range(30):
            (proposal,) = algorithm.ask()
            before = algorithm.current.score
            algorithm.tell(proposal, before - 0.5)
            taken[k] += algorithm.current.score < before if k < 29 else 0
    first, second, third = taken.reshape(3, 10).sum(axis=1) / 600
    assert first > 2 * second > 2 * third
    assert first > 0.3
    assert third < 0.02


@pytest.mark.slow
def test_steps_shrink_over_the_horizon_and_begin_again() -> None:
    algorithm = Annealing(SPACE, n_init=4, horizon=10)
    assert [algorithm.progress(n) for n in (0, 3, 4, 9, 13, 14)] == [0, 0, 0, 0.5, 0.9, 0]
    space = Space({f"x{i}": Float(0, 1) for i in range(4)})
    lengths = np.zeros(20)
    for seed in range(40):
        walk = Annealing(space, seed=seed, n_init=4, horizon=20)
        for n in range(24):
            origin = walk.current.point if n >= 4 else ()
            (proposal,) = walk.ask()
            if n >= 4:
                lengths[n - 4] += np.linalg.norm(np.array(proposal.point) - origin)
            walk.tell(proposal, 0.0)
    assert lengths[:5].sum() > 3 * lengths[15:].sum() > 0


def test_the_first_temperature_is_of_the_scores_unit_and_needs_a_difference() -> None:
    algorithm = Annealing(SPACE, n_init=3, accept=exp(-2))
    assert algorithm.first_temperature([0.0, 1.0, 3.0, 99.0]) == pytest.approx(2 / 2)  # differences 1, 2, 3
    assert algorithm.first_temperature([0.0, -inf, 1e6, 3e6]) == pytest.approx(1e6)
    assert algorithm.first_temperature([5.0, 5.0, 5.0, 5.0, 9.0, 50.0]) == pytest.approx(4 / 2)
    assert algorithm.first_temperature([5.0, 5.0, -inf]) == 0.0
    assert algorithm.first_temperature([-inf]) == 0.0


def test_metropolis() -> None:
    assert metropolis(1.0, 3.0, 2.0) == pytest.approx(exp(-1))
    assert metropolis(3.0, 1.0, 2.0) == metropolis(1.0, 1.0, 0.0) == metropolis(-inf, -inf, 1.0) == 1.0
    assert metropolis(1.0, 2.0, 0.0) == metropolis(-inf, 1.0, 1e300) == metropolis(-1e300, 1e300, 1e-300) == 0.0
