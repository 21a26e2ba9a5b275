"""Outlines of the areas where a function of two coordinates is at most a level, by marching squares.

W. E. Lorensen and H. E. Cline, Marching Cubes, SIGGRAPH 1987, in two dimensions; crossings by linear interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Corner = tuple[int, int]
Edge = tuple[Corner, Corner]  # its ends in order
Outline = list[tuple[float, float]]


def outlines(values: Array, level: float) -> Iterator[Outline]:
    """Yield closed polygons around the area where values are at most a level; holes are polygons too.

    Args:
        values: The function on a lattice, (m, n), finite. An area that reaches the border is closed along it.
        level: The level.

    Yields:
        The corners (i, j) of a polygon, in steps of the lattice.
    """
    padded = np.pad(values, 1, constant_values=math.inf)
    follow = dict[Edge, Edge]()
    inside = padded <= level
    count = inside[:-1, :-1].astype(int) + inside[1:, :-1] + inside[:-1, 1:] + inside[1:, 1:]
    for i, j in np.argwhere((count > 0) & (count < 4)).tolist():
        ring: list[Corner] = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
        sides = list(zip(ring, ring[1:] + ring[:1], strict=True))
        leaving = [k for k, (a, b) in enumerate(sides) if inside[a] and not inside[b]]
        for k in leaving:  # from where the ring leaves the area to where it comes back: that corner is cut off
            back = next(m % 4 for m in range(k + 1, k + 4) if not inside[sides[m % 4][0]] and inside[sides[m % 4][1]])
            follow[_edge(sides[k])] = _edge(sides[back])
    while follow:
        edge = next(iter(follow))
        outline: Outline = []
        while edge in follow:
            outline.append(_crossing(padded, edge, level))
            edge = follow.pop(edge)
        yield outline


def _edge(side: Edge) -> Edge:
    return (min(side), max(side))


def _crossing(padded: Array, edge: Edge, level: float) -> tuple[float, float]:
    """Return where the level is crossed between two corners: at the border itself where one lies beyond it."""
    (a, b), (f_a, f_b) = edge, (float(padded[edge[0]]), float(padded[edge[1]]))
    if math.isinf(f_a) or math.isinf(f_b):
        i, j = b if math.isinf(f_a) else a
        return i - 1.0, j - 1.0
    t = (level - f_a) / (f_b - f_a)
    return a[0] - 1 + t * (b[0] - a[0]), a[1] - 1 + t * (b[1] - a[1])
