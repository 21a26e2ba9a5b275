"""What partune's modules share of Optuna: its distribution for each hyperparameter, and its messages kept quiet."""

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
    """The distribution over a hyperparameter's values; its `when` has no counterpart."""
    from optuna import distributions

    if isinstance(parameter, Float):
        return distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Int):
        return distributions.IntDistribution(parameter.low, parameter.high, log=parameter.log)
    return distributions.CategoricalDistribution(tuple(parameter.values or ()))


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna says nothing but errors within, and what the user set afterwards."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
