"""Locks of files, and systems that have none of POSIX's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from partune import UserError
from partune.runtime.locks import lock


def test_one_holds_a_lock_or_several_share_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    with path.open("rb+") as first, path.open("rb") as second, path.open("rb") as third:
        lock(second, shared=True)
        lock(third, shared=True)
        with pytest.raises(BlockingIOError):
            lock(first)
    with path.open("rb+") as first, path.open("rb") as second:  # closing frees it
        lock(first)
        with pytest.raises(BlockingIOError):
            lock(second, shared=True)


def test_elsewhere_than_on_posix_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (tmp_path / "f").open("wb") as file, pytest.raises(UserError, match="partune needs Linux or macOS"):
        lock(file)


@pytest.mark.slow
def test_a_configuration_is_read_on_every_system() -> None:
    without = "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None"
    subprocess.run([sys.executable, "-c", f"{without}; import partune.config, partune.record.record"], check=True)
