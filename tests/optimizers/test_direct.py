"""DIRECT: SciPy is the oracle of its points and their order, fractions are that of what is potentially optimal."""

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import direct

from partune.errors import UserError
from partune.objectives.synthetic import SYNTHETIC, Synthetic
from partune.optimizers import direct as module
from partune.optimizers.direct import DIRECT, DIRECTL
from partune.space import Choice, Float, Space
from partune.trial import Config
from tests.support.drive import drive


def sequence(function: Synthetic, biased: bool, n: int, epsilon: float) -> list[tuple[float, ...]]:
    """What SciPy evaluates, in its order, in the unit cube."""
    points: list[tuple[float, ...]] = []

    def loss(u: np.ndarray) -> float:
        points.append(tuple(map(float, u)))
        return -function(function.space.decode(tuple(u)))

    box = [(0, 1)] * function.space.dimension
    direct(loss, box, eps=epsilon, maxfun=n, maxiter=10**6, locally_biased=biased, vol_tol=0, len_tol=0)
    return points


def better_than_all_larger(scores: Mapping[float, float], best: float, epsilon: float) -> list[float]:
    """The sizes that SciPy 1.17 divides when epsilon is 0: a superset of those that are potentially optimal."""
    return [d for d in sorted(scores, reverse=True) if all(scores[d] > scores[i] for i in scores if i > d)]


# Not the sphere: rounding splits its symmetric ties, which SciPy mends within 1e-13, and partune leaves as they are.
# Nor one dimension, where cells are soon so small that their scores differ by rounding only.
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [DIRECT, DIRECTL])
@pytest.mark.parametrize("name", [name for name in SYNTHETIC if name not in ("sphere", "sine-root")])
def test_sampling_division_sizes_and_order_are_scipys(
    monkeypatch: pytest.MonkeyPatch, name: str, algorithm: type[DIRECT]
) -> None:
    """Its 400 points in its order, once it is followed in which sizes are divided."""
    function = SYNTHETIC[name]
    expected = sequence(function, algorithm.biased, 400, epsilon=0)
    monkeypatch.setattr(module, "potentially_optimal", better_than_all_larger)
    trials = drive(algorithm(function.space, epsilon=0), function, budget=400)
    for trial, point in zip(trials, expected, strict=False):
        assert trial.point == pytest.approx(point, rel=0, abs=1e-12), trial.number


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [DIRECT, DIRECTL])
@pytest.mark.parametrize("name", [name for name in SYNTHETIC if name != "sine-root"])
def test_the_first_iterations_are_scipys_as_they_are(name: str, algorithm: type[DIRECT]) -> None:
    function = SYNTHETIC[name]
    # Of sine-root SciPy divides a size in its fifth iteration that lies below the hull: not potentially optimal.
    expected = sequence(function, algorithm.biased, 40, epsilon=1e-4)[:27]
    trials = drive(algorithm(function.space), function, budget=27)
    for trial, point in zip(trials, expected, strict=True):
        assert trial.point == pytest.approx(point, rel=0, abs=1e-12), trial.number


@given(
    st.dictionaries(st.integers(1, 30), st.integers(-20, 20), min_size=1, max_size=8),
    st.sampled_from([Fraction(0), Fraction(1, 10), Fraction(1)]),
)
@example({1: 2, 2: 1, 3: 0}, Fraction(0))  # on one line
def test_the_definition_of_potentially_optimal(scores: dict[int, int], epsilon: Fraction) -> None:
    """In fractions: the conditions are linear in K, so where any K > 0 satisfies them, a crossing of two of them, a
    middle between two crossings, or one beyond the last does.
    """
    best = max(scores.values())
    needed = best + epsilon * abs(best)
    crossings = {Fraction(scores[i] - scores[j], j - i) for i in scores for j in scores if i < j}
    crossings |= {Fraction(needed - f) / d for d, f in scores.items()}
    ordered = sorted({Fraction(0), *(K for K in crossings if K > 0)})
    candidates = [*ordered[1:], *((a + b) / 2 for a, b in pairwise(ordered)), ordered[-1] + 1]

    def optimal(j: int) -> bool:
        return any(
            all(scores[j] + K * j >= scores[i] + K * i for i in scores) and scores[j] + K * j >= needed
            for K in candidates
        )

    exact = {Fraction(d): Fraction(f) for d, f in scores.items()}
    found = module.potentially_optimal(exact, Fraction(best), epsilon)  # type: ignore[arg-type]
    assert found == sorted((d for d in scores if optimal(d)), reverse=True)


def test_the_best_point_of_the_first_iteration_gets_the_largest_cell() -> None:
    """f falls fastest along the second axis, so it is cut first, and its two cells keep their whole other side."""
    space = Space(x=Float(0, 1), y=Float(0, 1))
    optimizer = DIRECT(space)
    drive(optimizer, lambda config: float(config["x"]) + 10 * float(config["y"]), budget=7)
    assert optimizer.proposals[5].point == pytest.approx((5 / 6, 5 / 6))


@pytest.mark.parametrize("algorithm", [DIRECT, DIRECTL])
def test_a_side_with_one_value_is_never_sampled_nor_counted(algorithm: type[DIRECT]) -> None:
    wide = Space(a=Choice(["only"]), x=Float(0, 1), y=Float(0, 1))
    plain = Space(x=Float(0, 1), y=Float(0, 1))

    def bowl(config: Config) -> float:
        return -((float(config["x"]) - 0.3) ** 2) - (float(config["y"]) - 0.8) ** 2

    with_it, without = (drive(algorithm(space), bowl, budget=60) for space in (wide, plain))
    assert [trial.point[1:] for trial in with_it] == [trial.point for trial in without]


def test_epsilon_out_of_range() -> None:
    with pytest.raises(UserError, match="epsilon >= 0 must hold, got epsilon=-1"):
        DIRECT(SYNTHETIC["branin"].space, epsilon=-1)
