"""The search algorithms by name. They see the space and the observations, never the objective."""

from __future__ import annotations

from partune.optimizers.base import Optimizer, ReplayError
from partune.optimizers.registry import ALGORITHMS, AUTO, Algorithm, algorithm_of, optimizer, optimizer_with, resolved

__all__ = [
    "ALGORITHMS",
    "AUTO",
    "Algorithm",
    "Optimizer",
    "ReplayError",
    "algorithm_of",
    "optimizer",
    "optimizer_with",
    "resolved",
]
