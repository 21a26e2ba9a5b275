"""Trackio, read back with its own interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune.integrations.trackio import Trackio
from partune.study import Study
from tests.support.tracked import SPACE, curve, scored

trackio = pytest.importorskip("trackio")


@pytest.mark.slow
def test_runs_have_configurations_scores_and_courses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("trackio.utils", "trackio.sqlite_storage"):
        monkeypatch.setattr(f"{module}.TRACKIO_DIR", tmp_path / "trackio")
    study = Study(SPACE, scored, "random", directory=tmp_path / "first", watcher=Trackio()).run(4)
    study.close()
    assert not capsys.readouterr().out
    runs = {run.name: run for run in trackio.Api().runs("first")}
    assert runs.keys() == {f"trial {number}" for number in range(4)}
    for trial in study.trials:
        name = f"trial {trial.number}"
        assert runs[name].config["lora_r"] == trial.config["lora_r"]
        assert runs[name].config["partune/status"] == trial.status
        if trial.config["lora_r"] % 2 == 0:
            rows = trackio.SQLiteStorage.get_logs("first", name)
            assert [row["training_loss"] for row in rows if "training_loss" in row] == curve(trial.config)
            assert [row["score"] for row in rows if "score" in row] == [trial.score]
