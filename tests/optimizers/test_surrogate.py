"""The posterior and the marginal likelihood against their closed forms, and a fit that depends on its data alone."""

import functools
from math import inf, nan, pi
from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import multivariate_normal

from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers import bamsoo, bayes, optimizer
from partune.optimizers.surrogate import MOST, Surrogate, imputed, relative_variances, squares, subset, tamed, untamed
from partune.space import Choice, Float, Int, Space
from partune.trial import Proposal
from tests.support.drive import drive

CUBE = Space({f"x{i}": Float(0, 1) for i in range(3)})
MIXED = Space(rate=Float(1e-6, 1e-2, log=True), rank=Int(2, 9), kind=Choice(["a", "b", "c", "d"]))


def data(n: int, space: Space = CUBE) -> tuple[Any, Any]:
    points = space.snap(np.random.default_rng(n).random((n, space.dimension)))
    return points, 50 + 10 * np.sin(4 * points).sum(axis=1)


def kernel(surrogate: Surrogate, A: Any, B: Any) -> Any:
    """Matern-5/2 as Rasmussen and Williams 2006 write it, eq. 4.17, one pair at a time."""
    K = np.zeros((len(A), len(B)))
    for i, a in enumerate(A):
        for j, b in enumerate(B):
            different = np.where(surrogate.choices, a != b, a - b)
            r = np.sqrt(((different / surrogate.lengths) ** 2).sum())
            K[i, j] = surrogate.signal * (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)
    return K


@pytest.mark.slow
@pytest.mark.parametrize("space", [CUBE, MIXED], ids=["reals", "mixed"])
@pytest.mark.parametrize("errors", [None, "some"])
@pytest.mark.parametrize("n", [3, 20, 60])
def test_the_posterior_is_the_closed_form(n: int, space: Space, errors: str | None) -> None:
    """Rasmussen and Williams 2006, eq. 2.25 and 2.26, with the fitted hyperparameters and the mean by eq. 2.43."""
    X, y = data(n, space)
    x = space.snap(np.random.default_rng(1).random((7, 3)))
    stderrs = None if errors is None else [nan if i % 5 == 4 else 1 + i % 3 for i in range(n)]
    surrogate = Surrogate(space, X, y, stderrs)
    y = tamed(y)
    z = (y - y.mean()) / y.std(ddof=1)
    inverse = np.linalg.inv(kernel(surrogate, X, X) + np.diag(surrogate.noise * surrogate.weights + 1e-8))
    constant = inverse.sum(axis=0) @ z / inverse.sum()
    k = kernel(surrogate, x, X)
    expected = constant + k @ inverse @ (z - constant)
    variance = surrogate.signal - np.einsum("ij,jk,ik->i", k, inverse, k)
    mean, std = surrogate.posterior(x)
    assert mean == pytest.approx(y.mean() + y.std(ddof=1) * expected, rel=1e-7)
    assert std == pytest.approx(y.std(ddof=1) * np.sqrt(variance), rel=1e-3)


@pytest.mark.parametrize("space", [CUBE, MIXED], ids=["reals", "mixed"])
def test_the_marginal_likelihood_and_its_gradient(space: Space) -> None:
    X, y = data(25, space)
    surrogate = Surrogate(space, X, y, [1 + i % 2 for i in range(25)])
    D = squares(surrogate.X, surrogate.X, surrogate.choices).reshape(3, -1)
    for theta in np.random.default_rng(0).normal([-0.5] * 3 + [0.2, -3], 0.5, (5, 5)):
        surrogate.lengths, surrogate.signal, surrogate.noise = np.exp(theta[:3]), np.exp(theta[3]), np.exp(theta[4])
        V = kernel(surrogate, X, X) + surrogate.noise * np.diag(surrogate.weights)
        inverse = np.linalg.inv(V)
        constant = inverse.sum(axis=0) @ surrogate.z / inverse.sum()
        value, gradient = surrogate._marginal(theta, D)
        expected = multivariate_normal(np.full(25, constant), V).logpdf(surrogate.z) + 25 / 2 * np.log(2 * pi)
        assert value == pytest.approx(expected, rel=1e-9)
        off = check_grad(lambda t: surrogate._marginal(t, D)[0], lambda t: surrogate._marginal(t, D)[1], theta)
        assert off < 1e-4 * np.linalg.norm(gradient)


def test_the_fit_learns() -> None:
    X, y = data(60)
    x = np.random.default_rng(2).random((50, 3))
    mean, std = Surrogate(CUBE, X, y).posterior(x)
    truth = 50 + 10 * np.sin(4 * x).sum(axis=1)
    error = (mean - truth)[truth > np.median(y)]
    assert len(error) > 20
    assert np.sqrt((error**2).mean()) < 0.05 * y.std()
    assert std.mean() < 0.1 * y.std()


def test_an_axis_that_does_not_matter_gets_a_long_scale() -> None:
    X = np.random.default_rng(0).random((40, 3))
    lengths = Surrogate(CUBE, X, np.sin(6 * X[:, 1])).lengths
    assert lengths[1] < 0.5 * min(lengths[0], lengths[2])


def test_options_have_no_order() -> None:
    """Renaming the options of a choice, which moves them along the axis, changes no prediction."""
    X, y = data(30, MIXED)
    middles = np.array([0.125, 0.375, 0.625, 0.875])
    order = np.array([2, 0, 3, 1])

    def renamed(points: Any) -> Any:
        other = points.copy()
        other[:, 2] = middles[order][np.searchsorted(middles, points[:, 2])]
        return other

    x, _ = data(9, MIXED)
    for ours, theirs in zip(
        Surrogate(MIXED, X, y).posterior(x), Surrogate(MIXED, renamed(X), y).posterior(renamed(x)), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_believing_the_mean_keeps_the_mean_and_narrows_the_posterior() -> None:
    X, y = data(12)
    surrogate = Surrogate(CUBE, X, y)
    x = np.random.default_rng(3).random((6, 3))
    pending = [tuple(x[0]), tuple(x[1])]
    believer = surrogate.believing(pending)
    (mean, std), (believed, narrowed) = surrogate.posterior(x), believer.posterior(x)
    assert believed == pytest.approx(mean, rel=1e-6)
    assert (narrowed <= std + 1e-9).all()
    assert narrowed[0] < 0.6 * std[0]
    assert surrogate.believing([]) is surrogate


def test_no_random_number_is_drawn() -> None:
    X, y = data(15)
    first = Surrogate(CUBE, X, y).posterior(X[:4] / 2)
    np.random.seed(3)  # noqa: NPY002
    again = Surrogate(CUBE, X, y).posterior(X[:4] / 2)
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()


def test_failures_count_as_the_worst_finite_score() -> None:
    assert imputed([1.0, -inf, 3.0]).tolist() == [1.0, 1.0, 3.0]
    with pytest.raises(ValueError, match="a finite score"):
        imputed([-inf, -inf])
    points, _ = data(4)
    failed, worst = (Surrogate(CUBE, points, scores) for scores in ([2.0, -inf, 1.0, 4.0], [2.0, 1.0, 1.0, 4.0]))
    assert (failed.posterior(points)[0] == worst.posterior(points)[0]).all()


def test_a_process_keeps_the_best_half_and_even_steps_down_the_other_ranks() -> None:
    scores = [float(k) for k in range(100)]  # ranks 0, 1, ... are 99, 98, ...
    points = [(score / 100,) for score in scores]
    kept = subset(points, scores, scores, most=20)
    assert kept[1] == kept[2] == [*range(8, 90, 9), *range(90, 100)]
    assert kept[0] == [(score / 100,) for score in kept[1]]


def test_a_process_of_few_observations_keeps_them_all_in_order_and_failures_rank_last() -> None:
    scores = [2.0, -inf, 1.0, 3.0]
    points = [(k / 4,) for k in range(4)]
    assert subset(points, scores, [nan] * 4, most=4)[:2] == (points, scores)
    assert subset(points, scores, [0.1, 0.2, 0.3, 0.4], most=3) == (
        [points[0], points[2], points[3]],
        [2.0, 1.0, 3.0],
        [0.1, 0.3, 0.4],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module"), [("bo", bayes), ("bamsoo", bamsoo)])
def test_however_long_the_history_and_however_many_are_pending_a_search_fits_and_believes_so_many_at_most(
    name: str, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[str, int]] = []

    class Spy(Surrogate):
        def __init__(self, *data: Any) -> None:
            super().__init__(*data)
            sizes.append(("fitted", self.n))

        def _fit(self, known: float | None) -> tuple[Any, float, float]:
            return np.ones(3), 1.0, 0.01

        def believing(self, points: Any) -> Surrogate:
            sizes.append(("believed", len(points)))
            return super().believing(points)

    monkeypatch.setattr(module, "Surrogate", Spy)
    search = optimizer(name, CUBE)
    for number, point in enumerate(np.random.default_rng(0).random((2 * MOST + 100, 3))):
        config = CUBE.decode(point)
        search.register(Proposal(number, CUBE.encode(config), config))
        if number >= MOST + 50:
            search.tell(search.proposals[number], -float(((point - 0.4) ** 2).sum()))
    assert len(search.pending) == len(search.scores) == MOST + 50
    assert len(search.ask(2)) == 2
    assert ("fitted", MOST) in sizes
    assert ("believed", MOST) in sizes
    assert max(size for _, size in sizes) == MOST


@pytest.mark.slow
def test_with_a_capped_process_the_optimum_of_branin_is_still_found(
    monkeypatch: pytest.MonkeyPatch, thorough: bool
) -> None:
    """Regret below 0.15, of a range of 300, on a seed (on each of three): 80 evaluations, a process of 20."""
    branin = SYNTHETIC["branin"]
    monkeypatch.setattr(bayes, "subset", functools.partial(subset, most=20))
    for seed in range(3 if thorough else 1):
        trials = drive(bayes.GPBO(branin.space, seed=seed), branin, budget=80)
        assert branin.optimum - max(trial.score for trial in trials) < 0.15


def test_the_lower_tail_is_on_a_log_scale() -> None:
    """Median 1, best 2: from 0 on downwards, with slope 1 there and ever less below; order, and all above, are kept."""
    y = np.array([2.0, 1.5, 1.2, 1.1, 1.0, 0.9, 0.0, -1.0, -1e6])
    assert tamed(y)[:7].tolist() == y[:7].tolist()
    assert tamed(y)[7:] == pytest.approx([-np.log(2), -np.log(1 + 1e6)])
    assert tamed(np.array([1.0, 1.0, 0.0])).tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("y", [[1.0, 0.9, 0.8, 0.5, -3.0, -1e4], [1.0, 1.0, 0.0], [2.0]])
def test_what_was_tamed_is_found_again(y: list[float]) -> None:
    scores = np.array(y)
    assert untamed(tamed(scores), scores) == pytest.approx(scores)


def test_a_disaster_does_not_hide_what_is_good() -> None:
    X, y = data(30)
    one = y.copy()
    one[np.argmin(y)] = -1e9
    mean, _ = Surrogate(CUBE, X, one).posterior(X)
    assert np.corrcoef(mean[y > np.median(y)], y[y > np.median(y)])[0, 1] > 0.95


@pytest.mark.parametrize("scores", [[0.3], [0.3, 0.3], [0.3] * 9, [0.1, 0.2], [1e9, 1e9 + 1]])
def test_few_and_equal_scores(scores: list[float]) -> None:
    points, _ = data(len(scores))
    mean, std = Surrogate(CUBE, points, scores).posterior([(0.1, 0.9, 0.5), (0.2, 0.2, 0.2)])
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    assert (mean >= min(scores) - 1).all()
    assert (mean <= max(scores) + 1).all()


@pytest.mark.parametrize("size", [1e300, 1e-300, 1e12])
def test_the_unit_of_the_score_does_not_matter(size: float) -> None:
    X, y = data(12)
    mean, std = Surrogate(CUBE, X, y - 50).posterior(X)
    large_mean, large_std = Surrogate(CUBE, X, size * (y - 50)).posterior(X)
    assert large_mean / size == pytest.approx(mean, rel=1e-6)
    assert large_std / size == pytest.approx(std, rel=1e-6)


def test_repeated_points_with_different_scores_are_noise() -> None:
    """80 scores, noise of 1 standard deviation around a slope: sigma is of f, not of an observation."""
    line = Space(x=Float(0, 1))
    rng = np.random.default_rng(0)
    points = rng.random((20, 1)).repeat(4, axis=0)
    surrogate = Surrogate(line, points, 3 * points[:, 0] + rng.standard_normal(80))
    assert surrogate.scale * surrogate.noise**0.5 == pytest.approx(1.0, rel=0.35)
    assert surrogate.posterior([(0.5,)])[1][0] < 0.6


def test_known_standard_errors_are_the_noise() -> None:
    """Ten scores of a line, half of them with ten times the error: the posterior follows the exact ones."""
    line = Space(x=Float(0, 1))
    X = np.linspace(0.05, 0.95, 20)[:, None]
    exact = np.arange(20) % 2 == 0
    rng = np.random.default_rng(1)
    y = 2 * X[:, 0] + np.where(exact, 0.03, 0.3) * rng.standard_normal(20)
    told = Surrogate(line, X, y, np.where(exact, 0.03, 0.3))
    untold = Surrogate(line, X, y)
    off = [np.abs(each.posterior(X)[0] - 2 * X[:, 0]).mean() for each in (told, untold)]
    assert off[0] < 0.5 * off[1]


def test_relative_variances() -> None:
    assert relative_variances(None, 2)[0].tolist() == [1.0, 1.0]
    weights, mean = relative_variances([nan, nan], 2)
    assert (weights.tolist(), mean) == ([1.0, 1.0], None)
    weights, mean = relative_variances([1.0, 3.0, nan, 0.0], 4)
    assert mean == pytest.approx(10 / 3)
    assert weights == pytest.approx([0.3, 2.7, 1.0, 0.1])
