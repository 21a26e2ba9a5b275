"""Make the experiment trackers that a study's settings name."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable

from partune.config import TRACKERS
from partune.errors import UserError
from partune.integrations.tracking import Tracker

CLASSES = {"mlflow": "MLflow", "wandb": "WandB", "tensorboard": "TensorBoard", "trackio": "Trackio"}


def trackers(names: Iterable[str], note: Callable[[str], None] = warnings.warn) -> list[Tracker]:
    """Make trackers, and check that they can be used.

    Args:
        names: The names of the trackers, as in `--track`.
        note: Receives the line that says that a tracker has failed.

    Raises:
        UserError: There is no such tracker, its package is missing, or it is not set up.
    """
    made = []
    for name in dict.fromkeys(names):
        if name not in CLASSES:
            raise UserError(f"no tracker is called {name}: choose from {', '.join(TRACKERS)}")
        module = importlib.import_module(f"partune.integrations.{name}")
        made.append(getattr(module, CLASSES[name])(note))
    return made
