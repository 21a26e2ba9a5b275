"""Track a study with Trackio: a project of the study's name, with a run for each trial and baseline."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from partune.integrations.tracking import TrackedRun, Tracker


class Trackio(Tracker):
    """Track a study with Trackio, on this machine (`TRACKIO_DIR`) or in a Space (`TRACKIO_SPACE_ID`).

    The project has the name of the study, or that in `TRACKIO_PROJECT`.

    Args:
        note: Receives the line that says that the tracker has failed.

    Raises:
        UserError: Trackio is not installed.
    """

    name = "trackio"
    packages = ("trackio",)

    def __init__(self, note: Callable[[str], None] = warnings.warn) -> None:
        super().__init__(note)
        import trackio

        # Trackio prints lines about each run, between those of the study. It has no setting for this, and redirecting
        # the output would also catch what other threads print.
        for module in (trackio, trackio.run, trackio.utils):
            vars(module)["print"] = lambda *_, **__: None

    def send(self, run: TrackedRun) -> None:
        """Send a run that has ended."""
        import trackio

        entry = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", run.study),
            name=run.name,
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            config={**run.config, **{f"partune/{name}": value for name, value in run.tags.items()}},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for step, row in run.rows.items():
            entry.log(row, step=step)
        entry.log(dict(run.metrics), step=max(run.rows, default=0))
        entry.finish()
