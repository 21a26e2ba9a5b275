"""The gallery's measures, colours and marks: points, lines and crosses as SVG elements. Lengths are in pixels."""

from __future__ import annotations

import math

from partune.report.figures import VERMILLION

LOW, HIGH = -5.0, 5.0  # the ends of both axes
WIDTH, LEFT, TOP, SIDE = 480, 58, 92, 400  # the picture's width, and its square's place and side; pixels
GAP, STRIP = 58, 110  # the distance from the square to the values, and their height

VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
INK, FAINT = "#222", "#666"


def viridis(share: float) -> str:
    """Return a colour of the scale, from dark (0) to light (1)."""
    at = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    k = min(int(at), len(VIRIDIS) - 2)
    low, high = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in VIRIDIS[k : k + 2])
    return "#" + "".join(f"{round(a + (at - k) * (b - a)):02x}" for a, b in zip(low, high, strict=True))


def dot(x: float, y: float, colour: str, r: float = 4.5) -> str:
    """Return a filled circle with a thin edge.

    Args:
        x: The centre's x.
        y: The centre's y.
        colour: The colour inside.
        r: The radius.
    """
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{colour}" stroke="{INK}" stroke-width="0.8"/>'


def ring(x: float, y: float, colour: str, r: float = 4.5) -> str:
    """Return a hollow circle.

    Args:
        x: The centre's x.
        y: The centre's y.
        colour: The colour of its edge.
        r: The radius.
    """
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r - 0.5:g}" fill="white" stroke="{colour}" stroke-width="1.8"/>'


def circle(x: float, y: float, r: float, colour: str, width: float) -> str:
    """Return an empty circle, which covers nothing.

    Args:
        x: The centre's x.
        y: The centre's y.
        r: The radius.
        colour: The colour of its edge.
        width: The width of its edge.
    """
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'


def star(x: float, y: float) -> str:
    """Return the star of the best point.

    Args:
        x: The centre's x.
        y: The centre's y.
    """
    corners = [(r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5)) for k, r in enumerate((8.5, 3.6) * 5)]
    places = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
    return f'<polygon points="{places}" fill="{VERMILLION}" stroke="white" stroke-width="1"/>'


def plus(x: float, y: float) -> str:
    """Return the plus of a minimum.

    Args:
        x: The centre's x.
        y: The centre's y.
    """
    return f'<path d="M{x - 5:g},{y:g}h10M{x:g},{y - 5:g}v10" stroke="{INK}" stroke-width="1.4"/>'


def cross(x: float, y: float) -> str:
    """Return the cross of an inferred point.

    Args:
        x: The centre's x.
        y: The centre's y.
    """
    return f'<path d="M{x - 3:g},{y - 3:g}l6,6m0,-6l-6,6" stroke="{VERMILLION}" stroke-width="1.6" fill="none"/>'


def box(colour: str, opacity: float = 1) -> str:
    """Return a square around the origin, for a legend.

    Args:
        colour: Its colour.
        opacity: Its opacity.
    """
    faint = "" if opacity == 1 else f' fill-opacity="{opacity:g}"'
    return f'<rect x="-6" y="-6" width="12" height="12" fill="{colour}"{faint}/>'


def stroke(x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1.2, dash: str = "") -> str:
    """Return a straight line.

    Args:
        x1: The start's x.
        y1: The start's y.
        x2: The end's x.
        y2: The end's y.
        colour: Its colour.
        width: Its width.
        dash: Its pattern of dashes; empty for a whole line.
    """
    return f'<path d="M{x1:g},{y1:g}L{x2:g},{y2:g}" fill="none" {path(colour, width, dash)}/>'


def path(colour: str, width: float, dash: str = "") -> str:
    """Return the attributes of a line.

    Args:
        colour: Its colour.
        width: Its width.
        dash: Its pattern of dashes; empty for a whole line.
    """
    broken = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{colour}" stroke-width="{width:g}"{broken}'
