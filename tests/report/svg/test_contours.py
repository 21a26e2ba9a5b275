"""Marching squares against areas that are known."""

import math

import numpy as np
import pytest

from partune.report.svg.contours import Outline, outlines


def area(outline: Outline) -> float:
    """By the shoelace formula; the sign is the direction's."""
    pairs = zip(outline, outline[1:] + outline[:1], strict=True)
    return sum(a * d - c * b for (a, b), (c, d) in pairs) / 2


def lattice(n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
    return x, y


def test_a_disc_has_its_area() -> None:
    x, y = lattice(101)
    (outline,) = outlines(x**2 + y**2, 0.64)
    assert abs(area(outline)) * 0.02**2 == pytest.approx(math.pi * 0.64, rel=1e-3)
    assert all(math.hypot(i * 0.02 - 1, j * 0.02 - 1) == pytest.approx(0.8, abs=1e-3) for i, j in outline)


def test_what_reaches_the_border_is_closed_along_it() -> None:
    x, _ = lattice(5)
    (outline,) = outlines(x, 0.25)
    assert abs(area(outline)) == pytest.approx(2.5 * 4)
    assert {0.0, 2.5} <= {i for i, _ in outline}
    (whole,) = outlines(x, 5.0)
    assert abs(area(whole)) == pytest.approx(4 * 4)
    assert list(outlines(x, -5.0)) == []


def test_a_hole_runs_the_other_way() -> None:
    x, y = lattice(201)
    ring = outlines(np.abs(np.hypot(x, y) - 0.6), 0.2)
    first, second = sorted((area(outline) * 0.01**2 for outline in ring), key=abs)
    assert abs(first) == pytest.approx(math.pi * 0.4**2, rel=1e-3)
    assert abs(second) == pytest.approx(math.pi * 0.8**2, rel=1e-3)
    assert first * second < 0


@pytest.mark.parametrize("seed", range(20))
def test_any_values_make_closed_outlines_of_one_net_area(seed: int) -> None:
    """Saddles too: the area inside and the area outside (of the negated values) are the whole."""
    values = np.random.default_rng(seed).standard_normal((9, 7))
    inside = sum(area(outline) for outline in outlines(values, 0.1))
    assert 0 < abs(inside) < 8 * 6
    for outline in outlines(values, 0.1):
        steps = zip(outline, outline[1:] + outline[:1], strict=True)
        assert all(math.hypot(a - c, b - d) <= math.sqrt(2) + 1e-12 for (a, b), (c, d) in steps)
