"""A process fitted to Branin's function; without PyTorch, cases of Optuna's Gaussian process skip."""

from importlib.util import find_spec

import numpy as np
import pytest

from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers.surrogate import Surrogate

BRANIN = SYNTHETIC["branin"]


@pytest.fixture
def surrogate() -> Surrogate:
    points = np.random.default_rng(0).random((12, 2))
    return Surrogate(BRANIN.space, points, [BRANIN(BRANIN.space.decode(point)) for point in points])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("torch") is None:
        for item in items:
            if "optuna-gp" in item.name:
                item.add_marker(pytest.mark.skip(reason="Optuna's Gaussian process needs torch"))
