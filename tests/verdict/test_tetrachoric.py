"""Correlations of right and wrong answers, against SciPy's bivariate normal distribution."""

from __future__ import annotations

import pytest
from scipy.stats import multivariate_normal, norm

from partune.verdict.tetrachoric import CLOSEST, both_right, correlation, covariance, quantile

CASES = [(0.0, 0.0, 0.5), (1.0, -0.3, 0.9), (-1.5, -1.2, 0.2), (0.7, 0.7, 0.0)]


@pytest.mark.parametrize(("first", "second", "rho"), CASES)
def test_the_share_that_both_answer_rightly_is_that_of_scipy(first: float, second: float, rho: float) -> None:
    exact = multivariate_normal.cdf([first, second], cov=[[1, rho], [rho, 1]])
    assert both_right(first, second, rho) == pytest.approx(exact, abs=1e-6)
    assert covariance(first, second, rho) == pytest.approx(exact - norm.cdf(first) * norm.cdf(second), abs=1e-6)


@pytest.mark.parametrize(("first", "second", "rho"), CASES)
def test_the_correlation_inverts_that_share(first: float, second: float, rho: float) -> None:
    assert correlation(first, second, both_right(first, second, rho)) == pytest.approx(rho, abs=1e-4)


def test_impossible_shares_give_the_ends() -> None:
    assert correlation(0.0, 0.0, 0.6) == CLOSEST
    assert correlation(0.0, 0.0, 0.1) == 0.0
    assert -6 < quantile(0.0) < quantile(1.0) < 6
