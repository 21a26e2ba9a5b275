"""Track a study with Weights & Biases: a group of the study's name, with a run for each trial and baseline."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from partune.errors import UserError, reason
from partune.integrations.tracking import TrackedRun, Tracker


class WandB(Tracker):
    """Track a study with Weights & Biases.

    Its own variables apply, such as `WANDB_MODE=offline`. The project is `WANDB_PROJECT`, by default "partune"; the
    group has the name of the study.

    Args:
        note: Receives the line that says that the tracker has failed.

    Raises:
        UserError: wandb is not installed, or nobody is logged in.
    """

    name = "wandb"
    packages = ("wandb",)

    def __init__(self, note: Callable[[str], None] = warnings.warn) -> None:
        super().__init__(note)
        import wandb

        if wandb.setup().settings.mode != "online":
            return
        try:
            wandb.login(verify=False)
        except Exception as error:
            raise UserError(
                f"wandb cannot be used ({reason(error)}): call `wandb login` first, or set WANDB_MODE=offline"
            ) from None

    def send(self, run: TrackedRun) -> None:
        """Send a run that has ended."""
        import wandb

        # The system's metrics would be those of all trials together, and of the moment after the run.
        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        entry = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "partune"),
            group=run.study,
            name=run.name,
            config={**run.config, **{f"partune/{name}": value for name, value in run.tags.items()}},
            reinit="create_new",
            settings=quiet,
        )
        for step, row in run.rows.items():  # the steps of a history have to grow
            entry.log(row, step=step)
        entry.summary.update(dict(run.metrics))
        entry.finish(exit_code=int(run.failed))
