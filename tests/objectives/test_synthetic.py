"""The test functions against the literature."""

import numpy as np
import pytest

from partune.objectives.synthetic import SYNTHETIC

# Surjanovic and Bingham, Virtual Library of Simulation Experiments (as minima there).
# The maximum of sin(x)^2 + sqrt(x + 5) on [-5, 5]: where sin(2 x) = -1 / (2 sqrt(x + 5)), 4.7926.
OPTIMA = {
    "himmelblau": 0.0,
    "branin": -0.397887,
    "hartmann3": 3.86278,
    "hartmann6": 3.32237,
    "sine-root": 4.122893,
    "sphere": 0.0,
}
# By hand: (0 + 0 - 11)^2 + (0 + 0 - 7)^2; 36 + 10 (1 - 1 / (8 pi)) + 10; sqrt(5); 1 + 1 + 1.
VALUES = {
    "himmelblau": ((0, 0), -170.0),
    "branin": ((0, 0), -55.602113),
    "sine-root": ((0,), 2.236068),
    "sphere": ((1, -1, 1), -3.0),
}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_optimum_is_that_of_the_literature_and_is_reached(name: str) -> None:
    function = SYNTHETIC[name]
    assert function.optimum == pytest.approx(OPTIMA[name], abs=1e-6)
    for x in function.argmax:
        config = dict(zip(function.space.names, x, strict=True))
        function.space.check(config)
        assert function(config) == pytest.approx(function.optimum, abs=1e-5)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_nothing_is_better_than_the_optimum(name: str) -> None:
    function = SYNTHETIC[name]
    rng = np.random.default_rng(0)
    scores = [function(function.space.decode(u)) for u in rng.random((2000, function.space.dimension))]
    assert max(scores) <= function.optimum + 1e-5
    near = [np.clip(np.array(x) + 1e-3 * rng.standard_normal(len(x)), *_bounds(name)) for x in function.argmax]
    for x in near:
        assert function(dict(zip(function.space.names, x, strict=True))) <= function.optimum + 1e-5


@pytest.mark.parametrize("name", VALUES)
def test_values_by_hand(name: str) -> None:
    x, value = VALUES[name]
    assert SYNTHETIC[name](dict(zip(SYNTHETIC[name].space.names, x, strict=True))) == pytest.approx(value, abs=1e-5)


def _bounds(name: str) -> tuple[list[float], list[float]]:
    space = SYNTHETIC[name].space
    low, high = (list(space.decode([end] * space.dimension).values()) for end in (0.0, 1.0))
    return [float(x) for x in low], [float(x) for x in high]
