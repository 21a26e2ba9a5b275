"""Outline the areas where a function of two coordinates does not exceed a level, by marching squares.

The method is W. E. Lorensen and H. E. Cline, Marching Cubes, SIGGRAPH 1987, in two dimensions. Crossings are
interpolated linearly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Corner = tuple[int, int]
Edge = tuple[Corner, Corner]  # the two ends of the edge, the smaller one first
Outline = list[tuple[float, float]]


def outlines(values: Array, level: float) -> Iterator[Outline]:
    """Yield closed polygons around the areas in which values are at most a level; holes are polygons too.

    Args:
        values: The function's finite values on a lattice, (m, n). Areas that reach the border are closed along it.
        level: The level.

    Yields:
        The corners (i, j) of a polygon, in steps of the lattice; they need not be integers.
    """
    padded = np.pad(values, 1, constant_values=math.inf)
    follow = dict[Edge, Edge]()
    inside = padded <= level
    count = inside[:-1, :-1].astype(int) + inside[1:, :-1] + inside[:-1, 1:] + inside[1:, 1:]
    for i, j in np.argwhere((count > 0) & (count < 4)).tolist():
        ring: list[Corner] = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
        sides = list(zip(ring, ring[1:] + ring[:1], strict=True))
        leaving = [k for k, (a, b) in enumerate(sides) if inside[a] and not inside[b]]
        # Walk along the ring of sides. The walk leaves the area on one side and returns to it on a later side. A line
        # that connects these two sides cuts off the corners outside the area.
        for k in leaving:
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
    """Return the point between two corners at which the level is crossed; if one is padding, the other corner."""
    (a, b), (f_a, f_b) = edge, (float(padded[edge[0]]), float(padded[edge[1]]))
    if math.isinf(f_a) or math.isinf(f_b):
        i, j = b if math.isinf(f_a) else a
        return i - 1.0, j - 1.0
    t = (level - f_a) / (f_b - f_a)
    return a[0] - 1 + t * (b[0] - a[0]), a[1] - 1 + t * (b[1] - a[1])
