"""Trackers by name: what is refused before anything begins."""

from __future__ import annotations

import pytest

from partune.config import TRACKERS
from partune.errors import UserError
from partune.integrations.trackers import CLASSES, trackers


def test_the_names_are_those_of_the_settings() -> None:
    assert tuple(CLASSES) == TRACKERS
    with pytest.raises(UserError, match="no tracker is called neptune: choose from mlflow, wandb"):
        trackers(["neptune"])


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in CLASSES:
        with pytest.raises(UserError, match=f"tracking with {name} needs {name}.*not installed here: pip install"):
            trackers([name])
