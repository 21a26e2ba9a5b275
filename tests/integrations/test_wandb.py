"""Weights & Biases without a network: what its offline files hold, read with its own reader."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partune.errors import UserError
from partune.integrations.wandb import WandB
from partune.study import Study
from tests.support.tracked import SPACE, curve, scored

wandb = pytest.importorskip("wandb")


def records(file: Path) -> Iterator[Any]:
    """The records of an offline file: after a header of seven bytes, a log in the format of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (rest := 32768 - place % 32768) < 7:
            place += rest
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_offline_runs_have_configurations_scores_and_courses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()  # it reads its variables once
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    study = Study(SPACE, scored, "random", directory=tmp_path / "first", watcher=WandB()).run(4)
    study.close()
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 4
    found = {}
    for file in files:
        run, losses, code = None, [], None
        for record in records(file):
            if record.HasField("run"):
                run = record.run
            if record.HasField("history"):
                losses += [
                    json.loads(item.value_json)
                    for item in record.history.item
                    if "training_loss" in (item.key, *item.nested_key)
                ]
            if record.HasField("exit"):
                code = record.exit.exit_code
        assert run is not None
        assert (run.project, run.run_group) == ("partune", "first")
        found[run.display_name] = losses, code
    assert found == {
        f"trial {trial.number}": ([], 1) if trial.config["lora_r"] % 2 else (curve(trial.config), 0)
        for trial in study.trials
    }


def test_nobody_logged_in_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"wandb cannot be used .*: call `wandb login` first, or set WANDB_MODE"):
        WandB()
