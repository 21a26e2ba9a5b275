"""The distribution of an error with two estimated variances, against sampling, SciPy and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from partune.verdict.behrens_fisher import BehrensFisher, critical_values, tails

DFS = st.sampled_from([1.0, 2.0, 3.0, 7.5, 383.0, math.inf])


@pytest.mark.parametrize("df", [1.0, 3.0, 383.0, math.inf])
def test_one_variance_is_students_t(df: float) -> None:
    found = BehrensFisher((4.0, 0.0), (df, 1.0))
    assert found.sf(3.0) == pytest.approx(stats.t.sf(1.5, df))
    assert found.quantile(0.975) == pytest.approx(2 * stats.t.ppf(0.975, df))
    assert BehrensFisher((0.0, 4.0), (math.inf, df)).sf(3.0) == pytest.approx(found.sf(3.0))


def test_no_variance_is_no_error() -> None:
    found = BehrensFisher((0.0, 0.0), (3.0, math.inf))
    assert (found.sf(-1e-9), found.sf(0.0), found.sf(1e-9), found.quantile(0.975)) == (1.0, 0.5, 0.0, 0.0)


@pytest.mark.parametrize(("df", "published"), [(6, 2.435), (8, 2.292), (24, 2.056)])
def test_the_published_table_for_equal_variances(df: float, published: float) -> None:
    """Fisher and Yates, Statistical Tables: two-sided 5 % points for an angle of 45 degrees and equal n."""
    assert BehrensFisher((0.5, 0.5), (df, df)).quantile(0.975) == pytest.approx(published, abs=2e-3)


@pytest.mark.parametrize(
    ("variances", "dfs"), [((1.0, 1.0), (1.0, 1.0)), ((0.1, 1.0), (383.0, 1.0)), ((1.0, 0.01), (383.0, 2.0))]
)
def test_it_is_the_sum_of_two_students_variables(variances: tuple[float, float], dfs: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    draws = sum(math.sqrt(v) * rng.standard_t(df, 400_000) for v, df in zip(variances, dfs, strict=True))
    found = BehrensFisher(variances, dfs)
    for x in (0.0, 0.5, 2.0, 6.0):
        p = found.sf(x)
        assert np.mean(draws > x) == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / 400_000) + 1e-4)


@example((1e-12, 1e-12), (383.0, 383.0), 0.6015625)
@given(st.tuples(st.floats(1e-12, 1e3), st.floats(1e-12, 1e3)), st.tuples(DFS, DFS), st.floats(0.55, 0.999))
def test_quantiles_invert_tails_and_lie_above_each_part(
    variances: tuple[float, float], dfs: tuple[float, float], p: float
) -> None:
    found = BehrensFisher(variances, dfs)
    x = found.quantile(p)
    assert found.sf(x) == pytest.approx(1 - p, abs=1e-7)
    assert found.sf(-x) == pytest.approx(p, abs=1e-7)
    for variance, df in zip(variances, dfs, strict=True):
        assert x >= math.sqrt(variance) * float(stats.t.ppf(p, df)) * (1 - 1e-3)


def test_many_tails_and_critical_values_at_once_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    variances = rng.lognormal(0, 1.5, 30), rng.lognormal(0, 1.5, 30)
    dfs = rng.choice([3.0, 19.0, math.inf], 30), rng.choice([1.0, 2.0, 7.0], 30)
    each = [BehrensFisher((a, b), (c, d)) for a, b, c, d in zip(*variances, *dfs, strict=True)]
    x = rng.normal(0, 3, 30)
    assert tails(x, variances, dfs) == pytest.approx([one.sf(at) for one, at in zip(each, x, strict=True)], abs=1e-9)
    for level in (0.0375, 0.0094):
        exact = [one.quantile(1 - level) for one in each]
        assert critical_values(level, variances, dfs) == pytest.approx(exact, rel=2e-3)
