"""Track a study with MLflow: an experiment of the study's name, with a run for each trial and baseline."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from partune.errors import UserError, reason
from partune.integrations.tracking import TrackedRun, Tracker, plain_name
from partune.runtime.variables import variables

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS, PARAMS = 1000, 100  # the most that a server takes in one request, of all together and of parameters
# For the first question to a server, so that an absent one is reported in seconds instead of minutes.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
TEXT = 5000  # the most characters of a tag that every version of the server takes


class MLflow(Tracker):
    """Track a study with MLflow.

    The server or file is MLflow's choice: set `MLFLOW_TRACKING_URI`. The experiment has the name of the study, or that
    in `MLFLOW_EXPERIMENT_NAME`.

    Args:
        note: Receives the line that says that the tracker has failed.

    Raises:
        UserError: MLflow is not installed, or its server does not answer.
    """

    name = "mlflow"
    packages = ("mlflow",)

    def __init__(self, note: Callable[[str], None] = warnings.warn) -> None:
        super().__init__(note)
        from mlflow import MlflowClient, get_tracking_uri

        self._client: MlflowClient = MlflowClient()
        self._experiments: dict[str, str] = {}
        try:
            with variables(IMPATIENT | {name: os.environ[name] for name in IMPATIENT if name in os.environ}):
                self._client.search_experiments(max_results=1)
        except Exception as error:
            raise UserError(
                f"MLflow does not answer at {get_tracking_uri()} ({reason(error)}): start its server, or set "
                "MLFLOW_TRACKING_URI to another one"
            ) from None

    def send(self, run: TrackedRun) -> None:
        """Send a run that has ended."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(1000 * time.time())
        began = now if run.seconds is None else now - int(1000 * run.seconds)
        entry = self._client.create_run(self._experiment(run.study), began, run_name=run.name)
        identity = entry.info.run_id
        params = [Param(plain_name(name), str(value)) for name, value in run.config.items()]
        metrics = [Metric(plain_name(name), value, now, 0) for name, value in run.metrics.items()]
        for name, (steps, values) in run.curves.items():
            pairs = zip(steps.tolist(), values.tolist(), strict=True)
            metrics += [Metric(plain_name(name), value, now, step) for step, value in pairs]
        tags = [RunTag(f"partune.{name}", value[:TEXT]) for name, value in run.tags.items()]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(identity, params=params[start : start + PARAMS])
        for start in range(0, len(metrics), METRICS):
            self._client.log_batch(identity, metrics=metrics[start : start + METRICS])
        self._client.log_batch(identity, tags=tags)
        self._client.set_terminated(identity, "FAILED" if run.failed else "FINISHED", now)

    def _experiment(self, study: str) -> str:
        """Return the id of the experiment, which is created if there is none of the name."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", study)
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            self._experiments[name] = self._client.create_experiment(name) if found is None else found.experiment_id
        return self._experiments[name]
