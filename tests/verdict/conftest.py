"""Cheaper simulations, for the tests of the verdict."""

from __future__ import annotations

import pytest

from partune.verdict import flips


@pytest.fixture
def fewer_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw a tenth of the random sign flips, with which the test has its level just as well."""
    monkeypatch.setattr(flips, "FLIPS", 999)
