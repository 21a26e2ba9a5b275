"""Environment variables that are set for a while."""

from __future__ import annotations

import os

import pytest

from partune.runtime.variables import variables


def test_variables_are_as_before_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTUNE_SET", "before")
    monkeypatch.delenv("PARTUNE_UNSET", raising=False)

    @variables({"PARTUNE_SET": "inside", "PARTUNE_UNSET": "inside"})
    def fail() -> None:
        raise KeyError(os.environ["PARTUNE_SET"] + os.environ["PARTUNE_UNSET"])

    with pytest.raises(KeyError, match="insideinside"):
        fail()
    assert os.environ["PARTUNE_SET"] == "before"
    assert "PARTUNE_UNSET" not in os.environ
