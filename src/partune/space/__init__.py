"""The search space: hyperparameters, conditions, and the conversion between the unit cube and configurations."""

from __future__ import annotations

from partune.space.hyperparameters import Choice, Float, Hyperparameter, Int
from partune.space.space import SPACES, Space

__all__ = ["SPACES", "Choice", "Float", "Hyperparameter", "Int", "Space"]
