"""A program that stands for LitGPT's."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune.finetune.litgpt.program import Program, environment
from tests.support.litgpt import install


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program.find(str(install(tmp_path / "bin")), environment("cpu", 1))
