"""Optuna's own tests of samplers, over partune's optimisers.

`MultiObjectiveSamplerTestCase` does not apply: an optimiser of partune's has one score. `SingleOnlySamplerTestCase`,
which wants a study with several objectives to be refused, applies in its place.
"""

from collections.abc import Callable
from typing import Any

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase

from partune.integrations.optuna import PartuneSampler

pytestmark = pytest.mark.slow

CASES = [
    pytest.param("random", {}, id="random", marks=pytest.mark.thorough),  # it has all that lhs has, and less
    pytest.param("lhs", {"size": 5}, id="lhs"),
    pytest.param("soo", {}, id="soo"),
    pytest.param("bo", {"n_init": 3, "look": 16, "rounds": 1}, id="bo"),
    pytest.param("bamsoo", {}, id="bamsoo", marks=pytest.mark.thorough),
]


@pytest.mark.parametrize(("name", "options"), CASES)
class TestPartuneSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self, name: str, options: dict[str, Any]) -> Callable[[], BaseSampler]:
        return lambda: PartuneSampler(name, seed=0, **options)
