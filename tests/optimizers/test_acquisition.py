"""The acquisition in closed form."""

import mpmath as mp
import numpy as np
import pytest
from scipy.stats import norm

from partune.optimizers.acquisition import acquisition, log_h
from partune.optimizers.surrogate import Surrogate


def test_log_ei_is_the_closed_form(surrogate: Surrogate) -> None:
    """EI = sigma (z Phi(z) + phi(z)), z = (mu - f*) / sigma; Jones et al. 1998, eq. 15. f*: the best mean."""
    best = surrogate.posterior(surrogate.X)[0].max()
    x = np.random.default_rng(1).random((40, 2))
    mean, std = surrogate.posterior(x)
    z = (mean - best) / std
    kept = z > -5  # the closed form cancels beyond; logEI is there for that
    assert kept.sum() > 10
    expected = std * (z * norm.cdf(z) + norm.pdf(z))
    assert acquisition(surrogate)(x)[kept] == pytest.approx(np.log(expected[kept]), rel=1e-5)


def test_log_h_in_exact_arithmetic() -> None:
    z = np.concatenate([-np.logspace(7, -3, 40), np.linspace(-1.01, 5, 60)])
    mp.mp.dps = 60
    expected = []
    for each in map(mp.mpf, z.tolist()):
        if each < -1e3:  # phi(z) / z^2 (1 - 3 / z^2 + 15 / z^4 - ...), as z Phi(z) has no more digits to cancel
            expected.append(float(mp.log(mp.npdf(each)) - 2 * mp.log(-each) + mp.log(1 - 3 / each**2 + 15 / each**4)))
        else:
            expected.append(float(mp.log(mp.npdf(each) + each * mp.erfc(-each / mp.sqrt(2)) / 2)))
    assert log_h(z) == pytest.approx(expected, rel=1e-7, abs=1e-7)
