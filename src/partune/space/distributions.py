"""Optuna's distributions for our hyperparameters, and a context in which Optuna prints no messages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from partune.space import Float, Hyperparameter, Int

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distribution(parameter: Hyperparameter) -> BaseDistribution:
    """Return Optuna's distribution over a hyperparameter's values. Optuna has no counterpart of `when`."""
    from optuna import distributions

    if isinstance(parameter, Float):
        return distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Int):
        return distributions.IntDistribution(parameter.low, parameter.high, log=parameter.log)
    return distributions.CategoricalDistribution(tuple(parameter.values or ()))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, and Optuna's messages except errors, and restore the user's log level at the end."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
