"""Which GPUs a process may use."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from partune.runtime.devices import devices

LISTED = "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)\n"


@pytest.mark.parametrize(("visible", "expected"), [("0, 3", ["0", "3"]), ("GPU-1", ["GPU-1"]), ("", []), ("-1", [])])
def test_what_the_environment_says_counts(visible: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices() == expected


def test_otherwise_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=LISTED))
    assert devices() == ["0", "1"]


def test_a_machine_without_a_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert devices() == []
