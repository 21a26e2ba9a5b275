"""Track a study with TensorBoard: a folder of event files for each trial and baseline, in the study's directory."""

from __future__ import annotations

from partune.errors import UserError
from partune.integrations.tracking import TrackedRun, Tracker, plain_name
from partune.study.budget import Budget
from partune.study.watcher import Watched

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Track a study with TensorBoard, whose event files are in the folder `tensorboard` of the study's directory.

    Args:
        note: Receives the line that says that the tracker has failed.

    Raises:
        UserError: TensorBoard or PyTorch, whose writer is used, is not installed.
    """

    name = "tensorboard"
    packages = ("tensorboard", "torch")

    def began(self, study: Watched, budget: Budget) -> None:
        """Refuse a study in memory, which has no folder.

        Args:
            study: The study.
            budget: What the study may spend.
        """
        if study.directory is None:
            raise UserError("tracking with tensorboard writes into the study's directory: pass a `directory`")
        super().began(study, budget)

    def send(self, run: TrackedRun) -> None:
        """Write the event files of a run that has ended."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        assert self.directory is not None
        # Slashes would make folders within folders, which TensorBoard shows in another order.
        folder = self.directory / FOLDER / plain_name(run.name).replace("/", " ")
        writer = SummaryWriter(str(folder))
        # `add_hparams` would write these into a second folder.
        for summary in hparams(dict(run.config), dict(run.metrics)):  # type: ignore[no-untyped-call]
            writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
        for name, value in run.metrics.items():
            writer.add_scalar(plain_name(name), value)
        for name, (steps, values) in run.curves.items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                writer.add_scalar(plain_name(name), value, step)
        writer.add_text("partune", "  \n".join(f"{name}: {value}" for name, value in run.tags.items()))
        writer.close()
