"""The files beside a record: per-item results and adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from partune import UserError
from partune.record.artifacts import Artifacts
from partune.record.record import Record


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"cos\nsystem\n(S'touch pwned'\ntR."])
def test_damaged_per_item_results_are_named(directory: Path, content: bytes) -> None:
    (directory / "items" / "0001.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"items/0001\.npz is damaged: restore it from a copy"):
        Record.open(directory, read_only=True).items("search", 1)


def test_items_are_small_and_read_without_pickle(directory: Path) -> None:
    record = Record.open(directory)
    packed = record.items("search", 0)
    assert packed["search/t/acc"].tolist() == [1.0, 0.0]
    assert record.items("search", 2) == {}
    assert all(path.suffix == ".npz" and path.name[0] != "." for path in (directory / "items").iterdir())
    with pytest.raises(ValueError, match="allow_pickle"):
        record.artifacts.write_items("search", 9, {"x": np.array([object()])})


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Adapters of four trials, of runs again and of baselines, with what is left of others."""
    artifacts = Artifacts(tmp_path, lambda: 4)
    names = [
        "confirm.1.0",
        "fresh.defaults.2",
        "defaults",
        "winner",
        "mine",
        ".0001-checkpoint",
        ".defaults-checkpoint",
    ]
    for folder in (*map(artifacts.adapter, range(4)), *(tmp_path / "adapters" / name for name in names)):
        folder.mkdir(parents=True)
    return artifacts


def kept(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "adapters").iterdir()}


def test_adapters_that_are_not_kept_go_and_what_others_made_stays(artifacts: Artifacts, tmp_path: Path) -> None:
    assert artifacts.adapters() == [0, 1, 2, 3]
    artifacts.prune([0, 3])
    assert artifacts.adapters() == [0, 3]
    assert kept(tmp_path) == {"0000", "0003", "defaults", "winner", "mine", ".defaults-checkpoint"}


def test_a_baselines_adapter_goes_with_its_checkpoint(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.discard("defaults")
    assert {name for name in kept(tmp_path) if "defaults" in name} == {"fresh.defaults.2"}
    artifacts.discard("fresh/defaults/2")  # names of baselines have slashes, names of folders have none
    assert not any("defaults" in name for name in kept(tmp_path))


def test_a_baselines_adapter_becomes_the_winners_once(artifacts: Artifacts) -> None:
    (artifacts.adapter("fresh/defaults/2") / "weights").touch()
    for _ in range(2):
        artifacts.ship("fresh/defaults/2")
        assert [path.name for path in artifacts.adapter("winner").iterdir()] == ["weights"]
    assert not artifacts.adapter("fresh/defaults/2").exists()


def test_a_study_in_memory_keeps_no_files() -> None:
    artifacts = Artifacts(None, lambda: 1)
    artifacts.prune([])
    artifacts.discard("winner")
    artifacts.ship("winner")
    assert artifacts.read_items("search", 0) is None
    artifacts.write_items("search", 0, {"x": np.ones(2)})
    items = artifacts.read_items("search", 0)
    assert items is not None
    assert items["x"].tolist() == [1.0, 1.0]
