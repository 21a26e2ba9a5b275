from math import nan

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from partune.optimizers.genetic import Genetic, polynomial, sbx
from partune.space import Choice, Float, Int, Space
from partune.trial import Config
from tests.support.drive import drive

SPACE = Space({f"x{i}": Float(0, 1) for i in range(4)}, n=Int(1, 30), kind=Choice(["a", "b", "c"]))


def wavy(config: Config) -> float:
    return sum(float(np.sin(9 * float(config[f"x{i}"]))) for i in range(4)) - 0.1 * abs(float(config["n"]) - 20)


# ----- operators


@pytest.mark.parametrize("eta", [0.0, 2.0, 15.0])
@pytest.mark.parametrize(("a", "b"), [(0.5 - 1e-5, 0.5 + 1e-5), (0.1, 0.3)], ids=["far from a bound", "near one"])
def test_sbx_spreads_by_deb_and_agrawals_density(eta: float, a: float, b: float) -> None:
    """P(beta) = (eta + 1) / 2 beta^eta up to 1 and (eta + 1) / 2 beta^-(eta + 2) above, cut off at the bound."""

    def free(beta: np.ndarray) -> np.ndarray:
        return np.where(beta <= 1, 0.5 * beta ** (eta + 1), 1 - 0.5 * np.maximum(beta, 1e-300) ** -(eta + 1))

    farthest = np.array((a + b) / (b - a))  # the child at 0
    children = np.array([sbx(a, b, eta, u) for u in np.random.default_rng(0).random(4000)])
    spread = (a + b - 2 * children) / (b - a)
    assert stats.kstest(spread, lambda beta: free(beta) / free(farthest)).pvalue > 0.01


def test_sbx_stays_within_bounds_reaches_them_and_is_symmetric() -> None:
    assert sbx(0.2, 0.6, 3.0, 1 - 1e-16) == pytest.approx(0.0, abs=1e-9)
    assert sbx(0.6, 0.2, 3.0, 1 - 1e-16) == pytest.approx(0.6 + 0.4, abs=1e-9)
    assert sbx(0.4, 0.4, 3.0, 0.9) == 0.4
    for u in (0.0, 0.2, 0.7, 0.99):
        assert sbx(0.1, 0.3, 2.0, u) == pytest.approx(1 - sbx(0.9, 0.7, 2.0, u))
        assert sbx(0.3, 0.7, 2.0, u) + sbx(0.7, 0.3, 2.0, u) == pytest.approx(1.0)  # the parents' mean is kept
    for a, b in [(0.0, 1.0), (1.0, 0.0), (0.0, 5e-324), (1.0, 1 - 1e-16)]:
        assert all(0 <= sbx(a, b, 20.0, u) <= 1 for u in (0.0, 0.5, 1 - 1e-16))


@pytest.mark.parametrize("x", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_polynomial_mutation_has_its_density_within_the_bounds(x: float) -> None:
    """Half its mass on each side of x, in proportion to (1 - |delta|)^eta up to the bound on that side."""
    eta = 5.0
    for u in (1e-12, 0.1, 0.4, 0.5, 0.8, 1 - 1e-12):
        delta = polynomial(x, eta, u) - x
        assert -1e-12 <= x + delta <= 1 + 1e-12
        room = x if u < 0.5 else 1 - x
        if room == 0 or u == 0.5:
            assert delta == pytest.approx(0.0, abs=1e-12)
            continue
        (beyond, _), (all_of_it, _) = (
            quad(lambda t: (1 - t) ** eta, start, room) for start in (min(abs(delta), room), 0.0)
        )
        assert 0.5 * beyond / all_of_it == pytest.approx(min(u, 1 - u), abs=1e-6)


def test_an_axis_that_one_parent_has_comes_from_that_parent() -> None:
    space = Space(kind=Choice(["plain", "rich"]), y=Float(0, 1, when={"kind": "rich"}))
    algorithm = Genetic(space)
    rich, plain = space.encode({"kind": "rich", "y": 0.9}), space.encode({"kind": "plain"})
    rng = np.random.default_rng(0)
    children = [space.decode(algorithm.crossed(rich, plain, rng)) for _ in range(100)]
    assert {tuple(child.items()) for child in children} == {(("kind", "plain"),), (("kind", "rich"), ("y", 0.9))}


# ----- the algorithm


def test_without_mutation_every_gene_is_a_parents() -> None:
    algorithm = Genetic(SPACE, seed=1, size=20, crossover="uniform", mutation=0.0)
    for _ in range(60):
        (proposal,) = algorithm.ask()
        if proposal.number >= 20:
            parents = np.array([each.point for each in algorithm.population])  # (size, d)
            assert (parents == np.array(proposal.point)).any(axis=0).all()
        algorithm.tell(proposal, wavy(proposal.config))


def test_the_population_is_the_best_of_all_that_was_told_and_never_loses_the_best() -> None:
    algorithm = Genetic(SPACE, seed=1, size=8)
    scores: list[float] = []
    for _ in range(60):
        (proposal,) = algorithm.ask()
        scores.append(wavy(proposal.config) if proposal.number % 5 else nan)
        algorithm.tell(proposal, scores[-1])
        finite = sorted((score for score in scores if score == score), reverse=True)
        assert [each.score for each in algorithm.population] == finite[:8]


def test_the_population_begins_as_a_hypercube() -> None:
    points = np.array([proposal.point[:4] for proposal in Genetic(SPACE, size=10).ask(10)])
    assert (np.sort(np.floor(10 * points), axis=0) == np.arange(10)[:, None]).all()


def test_tournaments_prefer_the_better() -> None:
    """Only the choice differs, and is handed on: the better of two equal halves is drawn with 1 - (1/2)^4."""
    space = Space(kind=Choice(["good", "bad"]), x=Float(0, 1))
    algorithm = Genetic(space, size=40, tournament=4, mutation=0.0)
    for proposal in algorithm.ask(40):
        algorithm.tell(proposal, 1.0 if proposal.config["kind"] == "good" else 0.0)
    assert sum(each.score for each in algorithm.population) == 20
    moves = algorithm.moves(np.random.default_rng(0))
    good = [space.decode(next(moves))["kind"] == "good" for _ in range(1000)]
    assert np.mean(good) == pytest.approx(1 - 0.5**4, abs=0.025)


@pytest.mark.slow
def test_a_population_of_copies_lets_the_hypercubes_go_on() -> None:
    """Without mutation one survivor has no children but itself."""
    algorithm = Genetic(SPACE, size=4, mutation=0.0)
    trials = drive(algorithm, lambda config: 1.0 if len(algorithm.proposals) == 1 else nan, budget=12)
    assert len({trial.point for trial in trials}) == 12
