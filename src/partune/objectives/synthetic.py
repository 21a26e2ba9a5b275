"""Test functions for optimisers, as maximisation problems with known optima.

The constants of Hartmann's and Branin's functions are from Dixon and Szegoe 1978. Himmelblau's function is from
Himmelblau 1972, Applied Nonlinear Programming. These sources minimise the functions, so `__call__` changes the sign.
The original study is the study of 2025 that `partune experiment` repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from partune.space import Float, Space
from partune.trial import Config


@dataclass(frozen=True)
class Synthetic:
    """A function of a configuration; higher is better.

    Attributes:
        loss: The function as published; lower is better. Its argument is d coordinates, in the order of the space.
        space: The space on which the function is defined.
        optimum: The largest score.
        argmax: The points that have the largest score, each with d coordinates.
    """

    loss: Callable[[Sequence[float]], float]
    space: Space
    optimum: float
    argmax: tuple[tuple[float, ...], ...]

    def __call__(self, config: Config) -> float:
        """Return the score of a configuration."""
        return -self.loss([float(config[name]) for name in self.space.names])


def _box(bounds: Sequence[tuple[float, float]]) -> Space:
    return Space({f"x{i}": Float(low, high) for i, (low, high) in enumerate(bounds, start=1)})


def _himmelblau(x: Sequence[float]) -> float:
    """(x1^2 + x2 - 11)^2 + (x1 + x2^2 - 7)^2, eq. 2.6 of the original study's report."""
    x1, x2 = x
    return (x1**2 + x2 - 11) ** 2 + (x1 + x2**2 - 7) ** 2


def _branin(x: Sequence[float]) -> float:
    """(x2 - b x1^2 + c x1 - 6)^2 + 10 (1 - 1 / (8 pi)) cos(x1) + 10, with b = 5.1 / (4 pi^2) and c = 5 / pi."""
    x1, x2 = x
    b, c = 5.1 / (4 * math.pi**2), 5 / math.pi
    return (x2 - b * x1**2 + c * x1 - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x1) + 10


def _sine_root(x: Sequence[float]) -> float:
    """-(sin(x1)^2 + sqrt(x1 + 5)), to which the original study's report fits a Gaussian process."""
    return -(math.sin(x[0]) ** 2 + math.sqrt(x[0] + 5))


def _sphere(x: Sequence[float]) -> float:
    """sum_i x_i^2."""
    return sum(x_i**2 for x_i in x)


@dataclass(frozen=True)
class _Hartmann:
    """-sum_k alpha_k exp(-sum_i a_ki (x_i - p_ki)^2), where a and p have shape (4, d)."""

    a: tuple[tuple[float, ...], ...]
    p: tuple[tuple[float, ...], ...]
    alpha: tuple[float, ...] = (1.0, 1.2, 3.0, 3.2)

    def __call__(self, x: Sequence[float]) -> float:
        return -sum(
            alpha_k * math.exp(-sum(a * (x_i - p) ** 2 for a, p, x_i in zip(a_k, p_k, x, strict=True)))
            for alpha_k, a_k, p_k in zip(self.alpha, self.a, self.p, strict=True)
        )


SYNTHETIC: dict[str, Synthetic] = {
    "himmelblau": Synthetic(
        _himmelblau,
        _box([(-5, 5)] * 2),
        optimum=0.0,
        argmax=(
            (3.0, 2.0),
            (-2.805118086952745, 3.131312518250573),
            (-3.779310253377747, -3.283185991286170),
            (3.584428340330492, -1.848126526964404),
        ),
    ),
    "branin": Synthetic(
        _branin,
        _box([(-5, 10), (0, 15)]),
        optimum=-10 / (8 * math.pi),
        argmax=((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)),
    ),
    "hartmann3": Synthetic(
        _Hartmann(
            a=((3.0, 10.0, 30.0), (0.1, 10.0, 35.0), (3.0, 10.0, 30.0), (0.1, 10.0, 35.0)),
            p=(
                (0.3689, 0.1170, 0.2673),
                (0.4699, 0.4387, 0.7470),
                (0.1091, 0.8732, 0.5547),
                (0.0381, 0.5743, 0.8828),
            ),
        ),
        _box([(0, 1)] * 3),
        optimum=3.86278,
        argmax=((0.114614, 0.555649, 0.852547),),
    ),
    "hartmann6": Synthetic(
        _Hartmann(
            a=(
                (10.0, 3.0, 17.0, 3.5, 1.7, 8.0),
                (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
                (3.0, 3.5, 1.7, 10.0, 17.0, 8.0),
                (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
            ),
            p=(
                (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
                (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
                (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
                (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
            ),
        ),
        _box([(0, 1)] * 6),
        optimum=3.32237,
        argmax=((0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573),),
    ),
    "sine-root": Synthetic(_sine_root, _box([(-5, 5)]), optimum=4.122893002616446, argmax=((4.79262251558448,),)),
    "sphere": Synthetic(_sphere, _box([(-4, 6)] * 3), optimum=0.0, argmax=((0.0, 0.0, 0.0),)),
}
