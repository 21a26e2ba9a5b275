"""One thread a process, no network: set before any library is imported. The longest files of tests come first."""

from __future__ import annotations

import os
import sys
from collections import Counter

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Containers often turn bytecode off. Without it every process of the suite, hundreds, would compile all sources again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = ["tests.support.browser", "tests.support.postgres", "tests.support.thorough", "tests.support.times"]

# On a busy machine any example may take longer than Hypothesis' 200 ms, which says nothing about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def unsynced(descriptor: int) -> None:
    """Take the place of `os.fsync` in this process: no file of a test has to outlive the machine's power."""
    os.fstat(descriptor)


os.fsync = unsynced  # type: ignore[assignment]


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, because some tests wait for schedulers, databases and browsers."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first, so that processes which share the files out among them end together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
