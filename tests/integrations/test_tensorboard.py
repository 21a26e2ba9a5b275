"""TensorBoard, read back with its own reader of event files."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune.errors import UserError
from partune.integrations.tensorboard import TensorBoard
from partune.study import Study
from tests.support.tracked import SPACE, curve, scored

pytest.importorskip("tensorboard")


@pytest.mark.slow
def test_runs_have_scores_courses_and_hyperparameters(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    study = Study(SPACE, scored, "random", directory=tmp_path / "first", watcher=TensorBoard()).run(6)
    study.close()
    folders = {folder.name: folder for folder in (tmp_path / "first" / "tensorboard").iterdir()}
    assert folders.keys() == {f"trial {number}" for number in range(6)}
    for trial in study.trials:
        events = EventAccumulator(str(folders[f"trial {trial.number}"])).Reload()
        content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
        hyperparameters = metadata.parse_session_start_info_plugin_data(content).hparams
        assert hyperparameters["lora_r"].number_value == trial.config["lora_r"]
        if trial.config["lora_r"] % 2:
            continue
        assert [event.value for event in events.Scalars("score")] == [trial.score]
        losses = [(event.step, event.value) for event in events.Scalars("training_loss")]
        assert losses == [(step, pytest.approx(loss)) for step, loss in enumerate(curve(trial.config), 1)]


def test_a_study_in_memory_has_no_folder_for_it() -> None:
    with pytest.raises(UserError, match="writes into the study's directory: pass a `directory`"):
        Study(SPACE, scored, "random", watcher=TensorBoard()).run(1)
