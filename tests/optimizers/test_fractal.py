"""FDA is its pseudo-code, point by point; its shapes are what they say."""

from math import dist
from typing import Any

import pytest

from partune.errors import UserError
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers.fractal import FDA, Hypercube, Hypersphere, Region
from partune.space import Float, Space
from tests.support.drive import drive
from tests.support.pseudo_code import fda


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_points_of_the_pseudo_code_in_its_order(name: str, levels: int) -> None:
    """A point that was asked for before is answered from the record."""
    function = SYNTHETIC[name]
    space = function.space
    asked = fda(lambda u: function(space.decode(u)), space.dimension, 500, levels, least=1e-3)
    seen: dict[Any, list[float]] = {}
    for u in asked:
        seen.setdefault(space.encode(space.decode(u)), u)
    expected = list(seen.values())
    trials = drive(FDA(space, levels=levels), function, budget=len(expected))
    for trial, x in zip(trials, expected, strict=True):
        assert trial.point == pytest.approx(x, rel=0, abs=1e-12), trial.number


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_hyperspheres_lie_within_their_parent_and_touch_it(d: int) -> None:
    parent = Region((0.5,) * d, 0.5)
    children = Hypersphere.children(parent)
    assert len(children) == 2 * d
    for child in children:
        assert dist(child.c, parent.c) + child.r == pytest.approx(parent.r)
        assert child.level == 1
    gaps = {round(dist(a.c, b.c) - 2 * a.r, 12) for a in children for b in children if a is not b}
    assert min(gaps) == pytest.approx(0 if d > 1 else 2 * (0.5 - 2 * children[0].r), abs=1e-9)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_hypercubes_fill_their_parent(d: int) -> None:
    children = Hypercube.children(Region((0.5,) * d, 0.5))
    assert len({child.c for child in children}) == len(children) == 2**d
    assert {u for child in children for u in child.c} == {0.25, 0.75}
    assert {child.r for child in children} == {0.25}


def test_the_local_search_finds_a_maximum_within_its_precision() -> None:
    """One level, so the search begins at once; the first hypersphere lies to the right."""
    space = Space(x=Float(0, 1), y=Float(0, 1))
    trials = drive(FDA(space, levels=1), lambda c: -((float(c["x"]) - 0.71) ** 2) - (float(c["y"]) - 0.33) ** 2, 60)
    best = max(trials, key=lambda trial: trial.score)
    assert best.point == pytest.approx((0.71, 0.33), abs=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "hypersfere"}, 'no shape "hypersfere"; did you mean "hypersphere"'),
        ({"levels": 0}, "levels >= 1 must hold, got levels=0"),
        ({"precision": 0.0}, "0 < precision < 0.5 must hold, got precision=0.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FDA(SYNTHETIC["branin"].space, **options)
