"""Optuna's distributions hold the same values, and its messages are silenced for a while."""

from __future__ import annotations

import logging
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from partune.space import Choice, Float, Hyperparameter, Int
from partune.space.distributions import distribution, quiet
from tests.support.hyperparameters import choices, floats, ints, unit


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Float(0.1, 2.0), FloatDistribution(0.1, 2.0)),
        (Float(1e-6, 1e-2, log=True), FloatDistribution(1e-6, 1e-2, log=True)),
        (Int(2, 64, log=True), IntDistribution(2, 64, log=True)),
        (Choice(["adamw", True]), CategoricalDistribution(("adamw", True))),
    ],
)
def test_a_distribution_has_the_bounds_the_scale_and_the_options(
    parameter: Hyperparameter, expected: BaseDistribution
) -> None:
    assert distribution(parameter) == expected


@given(st.one_of(floats(), ints(), choices), unit)
def test_every_value_is_one_of_the_distribution(parameter: Hyperparameter, u: float) -> None:
    optunas = distribution(parameter)
    assert optunas._contains(optunas.to_internal_repr(parameter.decode(u)))


def test_optuna_is_silent_inside_and_as_before_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with quiet():
                warnings.warn("experimental", UserWarning, stacklevel=1)
                assert not logger.isEnabledFor(logging.WARNING)
                assert logger.isEnabledFor(logging.ERROR)
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)
