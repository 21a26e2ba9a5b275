"""A sphere for the tests of the benchmark of searches, and contenders that are always installed."""

from __future__ import annotations

import math

from partune.space import Float, Int, Space
from partune.trial import Config

SPHERE = Space(x=Float(-5, 5), y=Float(1e-3, 1e3, log=True), k=Int(0, 7))
CORE = ("random", "bo:n_init=4:look=16:rounds=1", "optuna-tpe")  # of what is always installed


def value(config: Config) -> float:
    """Largest, 0, at x = 1, y = 1, k = 3."""
    return -((float(config["x"]) - 1) ** 2) - math.log10(float(config["y"])) ** 2 - (int(config["k"]) - 3) ** 2
