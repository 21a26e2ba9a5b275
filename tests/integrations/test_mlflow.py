"""MLflow, read back with its own client."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune.errors import UserError
from partune.integrations.mlflow import MLflow
from partune.study import Study
from tests.support.tracked import SPACE, curve, scored

mlflow = pytest.importorskip("mlflow")


@pytest.mark.slow
def test_runs_have_parameters_scores_and_courses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracker = MLflow()
    study = Study(SPACE, scored, "random", directory=tmp_path / "first", watcher=tracker).run(6)
    study.close()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("first")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {f"trial {number}" for number in range(6)}
    for trial in study.trials:
        run = runs[f"trial {trial.number}"]
        assert run.data.params == {name: str(value) for name, value in trial.config.items()}
        failed = trial.config["lora_r"] % 2
        assert run.info.status == ("FAILED" if failed else "FINISHED")
        if failed:
            assert run.data.tags["partune.error"] == "ArithmeticError: an odd rank"
            continue
        assert run.data.metrics["score"] == trial.score
        history = client.get_metric_history(run.info.run_id, "training_loss")
        assert [(point.step, point.value) for point in history] == list(enumerate(curve(trial.config), 1))


def test_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow does not answer at http://127.0.0.1:9 .*start its server"):
        MLflow()
