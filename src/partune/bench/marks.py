"""Define the sizes and colours of the gallery's pictures, and draw their marks as SVG elements.

All lengths are in pixels.
"""

from __future__ import annotations

import math

from partune.report.figures import VERMILLION

LOW, HIGH = -5.0, 5.0  # the range of each input of the functions
WIDTH, LEFT, TOP, SIDE = 480, 58, 92, 400  # width of the picture; left edge, top edge and side of the square in it
GAP, STRIP = 58, 110  # height of the gap below the square, and of the strip of values below the gap

VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
INK, FAINT = "#222", "#666"


def viridis(share: float) -> str:
    """Return a colour of the viridis scale; a share of 0 is the darkest colour and 1 the lightest."""
    at = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    k = min(int(at), len(VIRIDIS) - 2)
    low, high = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in VIRIDIS[k : k + 2])
    return "#" + "".join(f"{round(a + (at - k) * (b - a)):02x}" for a, b in zip(low, high, strict=True))


def dot(x: float, y: float, colour: str, r: float = 4.5) -> str:
    """Return a filled circle with a thin edge.

    Args:
        x: The x coordinate of the centre.
        y: The y coordinate of the centre.
        colour: The fill colour.
        r: The radius.
    """
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{colour}" stroke="{INK}" stroke-width="0.8"/>'


def ring(x: float, y: float, colour: str, r: float = 4.5) -> str:
    """Return a circle filled with white, which covers what is behind it.

    Args:
        x: The x coordinate of the centre.
        y: The y coordinate of the centre.
        colour: The colour of the edge.
        r: The radius.
    """
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r - 0.5:g}" fill="white" stroke="{colour}" stroke-width="1.8"/>'


def circle(x: float, y: float, r: float, colour: str, width: float) -> str:
    """Return the outline of a circle, which covers nothing inside it.

    Args:
        x: The x coordinate of the centre.
        y: The y coordinate of the centre.
        r: The radius.
        colour: The colour of the outline.
        width: The width of the outline.
    """
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'


def star(x: float, y: float) -> str:
    """Return the star that marks the best point.

    Args:
        x: The x coordinate of the centre.
        y: The y coordinate of the centre.
    """
    corners = [(r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5)) for k, r in enumerate((8.5, 3.6) * 5)]
    points = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
    return f'<polygon points="{points}" fill="{VERMILLION}" stroke="white" stroke-width="1"/>'


def plus(x: float, y: float) -> str:
    """Return the plus sign that marks a minimum of the function.

    Args:
        x: The x coordinate of the centre.
        y: The y coordinate of the centre.
    """
    return f'<path d="M{x - 5:g},{y:g}h10M{x:g},{y - 5:g}v10" stroke="{INK}" stroke-width="1.4"/>'


def cross(x: float, y: float) -> str:
    """Return the cross that marks a point whose value was inferred instead of evaluated.

    Args:
        x: The x coordinate of the centre.
        y: The y coordinate of the centre.
    """
    return f'<path d="M{x - 3:g},{y - 3:g}l6,6m0,-6l-6,6" stroke="{VERMILLION}" stroke-width="1.6" fill="none"/>'


def box(colour: str, opacity: float = 1) -> str:
    """Return a square around the origin, for a legend.

    Args:
        colour: The fill colour.
        opacity: The opacity of the fill, from 0 to 1.
    """
    attribute = "" if opacity == 1 else f' fill-opacity="{opacity:g}"'
    return f'<rect x="-6" y="-6" width="12" height="12" fill="{colour}"{attribute}/>'


def stroke(x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1.2, dash: str = "") -> str:
    """Return a straight line.

    Args:
        x1: The x coordinate of the start.
        y1: The y coordinate of the start.
        x2: The x coordinate of the end.
        y2: The y coordinate of the end.
        colour: The colour of the line.
        width: The width of the line.
        dash: The dash pattern (`stroke-dasharray` of SVG); empty for a solid line.
    """
    return f'<path d="M{x1:g},{y1:g}L{x2:g},{y2:g}" fill="none" {path(colour, width, dash)}/>'


def path(colour: str, width: float, dash: str = "") -> str:
    """Return the SVG attributes that style a line.

    Args:
        colour: The colour of the line.
        width: The width of the line.
        dash: The dash pattern (`stroke-dasharray` of SVG); empty for a solid line.
    """
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{colour}" stroke-width="{width:g}"{dashes}'
