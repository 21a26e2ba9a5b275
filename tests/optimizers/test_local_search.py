import numpy as np
import pytest

from partune.optimizers.local_search import FINE, IteratedLocalSearch
from partune.space import Choice, Float, Int, Space
from partune.trial import Config, Point
from tests.support.drive import drive

SPACE = Space(x=Float(0, 1), n=Int(1, 30), kind=Choice(["a", "b", "c"]))


def wavy(config: Config) -> float:
    x, n = float(config["x"]), float(config["n"])
    return float(np.sin(20 * x)) - 0.01 * (n - 20) ** 2 + (0.5 if config["kind"] == "b" else 0.0)


def textbook(seed: int, n_init: int, patience: int, budget: int) -> list[Point]:
    """Lourenço, Martin and Stützle's loop, with the neighbourhood and the random numbers of the optimiser."""
    neighbourhood = IteratedLocalSearch(SPACE, seed=seed, n_init=n_init)
    points: list[Point] = []
    scores: list[float] = []

    def evaluated(point: Point) -> int:
        points.append(point)
        scores.append(wavy(SPACE.decode(point)))
        return len(points) - 1

    def move(origin: int, step: float) -> int:
        rng = np.random.default_rng([seed, len(points), 2])
        while (point := SPACE.encode(SPACE.decode(neighbourhood.neighbour(points[origin], step, rng)))) in points:
            pass
        return evaluated(point)

    def local_search(current: int) -> int:
        stalls = 0
        while stalls < patience and len(points) < budget:
            candidate = move(current, neighbourhood.step * FINE ** (stalls / patience))
            current, stalls = (candidate, 0) if scores[candidate] > scores[current] else (current, stalls + 1)
        return current

    best = local_search(max([evaluated(each.point) for each in neighbourhood.ask(n_init)], key=lambda k: scores[k]))
    while len(points) < budget:
        optimum = local_search(move(best, neighbourhood.leap))
        best = optimum if scores[optimum] > scores[best] else best
    return points


@pytest.mark.parametrize("seed", range(4))
def test_one_at_a_time_it_is_the_textbooks_loop(seed: int) -> None:
    found = drive(IteratedLocalSearch(SPACE, seed=seed, n_init=4, patience=5), wavy, budget=90)
    assert [trial.point for trial in found] == textbook(seed, n_init=4, patience=5, budget=90)


def test_a_local_optimum_is_left_by_perturbation_alone() -> None:
    algorithm = IteratedLocalSearch(SPACE, seed=0, n_init=4, patience=6)
    leaps = 0
    for _ in range(150):
        (proposal,) = algorithm.ask()
        before, stalls = algorithm.walk()[1:] if proposal.number else (None, 0)
        algorithm.tell(proposal, wavy(proposal.config))
        after = algorithm.walk()[1]
        if before is not None and after.score < before.score:
            leaps += 1
            assert proposal.number in algorithm.leaves
            assert stalls == 6
    assert leaps >= 3


def test_a_neighbourhood_with_no_new_point_is_left_before_patience_is_spent() -> None:
    """At so small a step an integer has two neighbours; where they are no better, the fourth proposal leaps."""
    algorithm = IteratedLocalSearch(Space(n=Int(1, 50)), n_init=1, patience=1000, step=1e-9)
    ranks = [trial.config["n"] for trial in drive(algorithm, lambda config: 0.0, budget=60)]
    assert set(ranks[1:3]) == {int(ranks[0]) - 1, int(ranks[0]) + 1}
    assert min(algorithm.leaves) == 3
    assert sorted(ranks) == list(range(1, 51))


def test_leaps_asked_together_begin_one_climb_from_the_best_of_them() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1))
    algorithm = IteratedLocalSearch(space, n_init=1, patience=2)
    for score in (1.0, 0.5, 0.5):
        algorithm.tell(algorithm.ask()[0], score)
    batch = algorithm.ask(4)
    assert [algorithm.leaves.get(proposal.number) for proposal in batch] == [0, 0, 0, 0]
    for proposal, score in zip(batch, (0.1, 0.3, 0.2, float("nan")), strict=True):
        algorithm.tell(proposal, score)
    best, current, stalls = algorithm.walk()
    assert (best.number, current.number, stalls) == (0, batch[1].number, 2)


def test_a_leap_that_fails_is_no_place_to_climb_from() -> None:
    algorithm = IteratedLocalSearch(SPACE, n_init=1, patience=1)
    for score in (1.0, 0.5, float("nan"), float("nan")):
        algorithm.tell(algorithm.ask()[0], score)
    assert algorithm.walk()[1].number == 0
    (proposal,) = algorithm.ask()
    assert algorithm.leaves[proposal.number] == 0


def test_another_optimum_is_kept_only_if_it_is_better() -> None:
    algorithm = IteratedLocalSearch(SPACE, n_init=1, patience=1)
    for score, best in ((1.0, 0), (0.5, 0), (1.0, 0), (0.5, 0), (2.0, 4)):
        algorithm.tell(algorithm.ask()[0], score)
        assert algorithm.walk()[0].number == best
