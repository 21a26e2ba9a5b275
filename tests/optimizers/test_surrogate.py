"""The posterior against its closed form, and a fit that depends on its data alone."""

from collections.abc import Iterator
from math import inf
from typing import Any

import numpy as np
import pytest
import torch

from partune.optimizers.surrogate import Surrogate, imputed


def data(n: int, d: int = 3) -> tuple[Any, Any]:
    points = np.random.default_rng(n).random((n, d))
    return points, 50 + 10 * np.sin(4 * points).sum(axis=1)


def closed_form(surrogate: Surrogate, X: Any, y: Any, x: Any) -> tuple[Any, Any]:
    """Rasmussen and Williams 2006, eq. 2.25 and 2.26, with the fitted hyperparameters."""
    model = surrogate.model
    length = model.covar_module.lengthscale.detach().numpy()
    noise, constant = model.likelihood.noise.item(), model.mean_module.constant.item()

    def k(A: Any, B: Any) -> Any:
        return np.exp(-0.5 * (((A[:, None] - B[None]) / length) ** 2).sum(-1))

    shift, scale = y.mean(), y.std(ddof=1)
    inverse = np.linalg.inv(k(X, X) + noise * np.eye(len(y)))
    mean = constant + k(x, X) @ inverse @ ((y - shift) / scale - constant)
    variance = 1 - np.einsum("ij,jk,ik->i", k(x, X), inverse, k(x, X))
    return shift + scale * mean, scale * np.sqrt(variance)


@pytest.mark.parametrize("n", [3, 20, 60])
def test_the_posterior_is_the_closed_form(n: int) -> None:
    X, y = data(n)
    x = np.random.default_rng(1).random((7, 3))
    surrogate = Surrogate(X, y)
    expected_mean, expected_std = closed_form(surrogate, X, y, x)
    mean, std = surrogate.posterior(x)
    assert mean == pytest.approx(expected_mean, rel=1e-8)
    assert std == pytest.approx(expected_std, rel=1e-4)


def test_the_fit_is_better_than_the_start() -> None:
    X, y = data(60)
    x = np.random.default_rng(2).random((50, 3))
    mean, std = Surrogate(X, y).posterior(x)
    error = mean - (50 + 10 * np.sin(4 * x).sum(axis=1))
    assert np.sqrt((error**2).mean()) < 0.05 * y.std()
    assert std.mean() < 0.1 * y.std()


def test_believing_the_mean_keeps_the_mean_and_narrows_the_posterior() -> None:
    X, y = data(12)
    surrogate = Surrogate(X, y)
    x = np.random.default_rng(3).random((6, 3))
    pending = [tuple(x[0]), tuple(x[1])]
    believer = surrogate.believing(pending)
    (mean, std), (believed, narrowed) = surrogate.posterior(x), believer.posterior(x)
    assert believed == pytest.approx(mean, rel=1e-6)
    assert (narrowed <= std + 1e-9).all()
    assert narrowed[0] < 0.6 * std[0]
    assert surrogate.believing([]) is surrogate


@pytest.fixture
def other_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if before == torch.float32 else torch.float32)
    yield
    torch.set_default_dtype(before)


X, Y = data(15, d=6)
EXPECTED = Surrogate(X, Y).posterior(X[:4] / 2)


def test_nothing_depends_on_the_default_dtype(other_default: None) -> None:
    for ours, theirs in zip(Surrogate(X, Y).posterior(X[:4] / 2), EXPECTED, strict=True):
        assert (ours == theirs).all()


def test_no_random_number_is_drawn() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    mean, std = Surrogate(X, Y).posterior(X[:4] / 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert (mean == EXPECTED[0]).all()
    assert (std == EXPECTED[1]).all()


def test_failures_count_as_the_worst_finite_score() -> None:
    assert imputed([1.0, -inf, 3.0]).tolist() == [1.0, 1.0, 3.0]
    with pytest.raises(ValueError, match="a finite score"):
        imputed([-inf, -inf])
    points, _ = data(4)
    with_failure, with_worst = (Surrogate(points, scores) for scores in ([2.0, -inf, 1.0, 4.0], [2.0, 1.0, 1.0, 4.0]))
    assert (with_failure.posterior(points)[0] == with_worst.posterior(points)[0]).all()


@pytest.mark.parametrize("scores", [[0.3], [0.3, 0.3], [0.3] * 9, [0.1, 0.2], [1e9, 1e9 + 1]])
def test_few_and_equal_scores(scores: list[float]) -> None:
    points, _ = data(len(scores))
    mean, std = Surrogate(points, scores).posterior([(0.1, 0.9, 0.5), (0.2, 0.2, 0.2)])
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    assert (mean >= min(scores) - 1).all()
    assert (mean <= max(scores) + 1).all()


def test_repeated_points_with_different_scores_are_noise() -> None:
    """200 scores, noise of 1 standard deviation around a slope: sigma is of f, not of an observation."""
    rng = np.random.default_rng(0)
    points = rng.random((20, 1)).repeat(4, axis=0)
    surrogate = Surrogate(points, 3 * points[:, 0] + rng.standard_normal(80))
    noise = surrogate.scale * float(surrogate.model.likelihood.noise.item()) ** 0.5
    assert noise == pytest.approx(1.0, rel=0.35)
    assert surrogate.posterior([(0.5,)])[1][0] < 0.6
