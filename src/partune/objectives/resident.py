"""Keep one loaded objective in a process, however often the objective is unpickled."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from partune import config

_REVIVING = threading.Lock()


def resident(kind: Any, settings: str, scratch: Path | None, key: str) -> Any:
    """Unpickle an objective: return the one with this key if the process has it already, otherwise make it.

    Args:
        kind: The class that was pickled, `FineTune`.
        settings: The study's settings as JSON.
        scratch: The folder for LitGPT's files.
        key: The key of the pickled objective. The settings cannot be the key: the data file may have changed since.
    """
    with _REVIVING:  # without the lock, two threads could both miss the cache and load the base model twice
        return _revived(kind, settings, scratch, key)


@lru_cache(maxsize=1)  # one, because a base model may fill the device
def _revived(kind: Any, settings: str, scratch: Path | None, key: str) -> Any:
    objective = kind.of(config.StudyConfig.model_validate_json(settings), scratch)
    objective._key, objective.engine.materials.in_worker = key, True
    return objective
