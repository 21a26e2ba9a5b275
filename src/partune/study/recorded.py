"""Recorded studies from Python: to read, compare, report, export and continue what a directory holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from partune.record.record import Record
from partune.runtime.paths import as_path
from partune.trial import Trial
from partune.trial.names import RunName
from partune.verdict.paired import Verdict
from partune.verdict.winner import judge

if TYPE_CHECKING:
    from partune.space import Space
    from partune.study.study import Study

# The report and the export load libraries that only they need: they are imported where they are used.


class RecordedStudy:
    """A study as its directory held it when it was opened, read without its objective.

    It may be running meanwhile: open it again to see how far it is.

    Attributes:
        directory: The study's folder.
        space: What it searches.
    """

    def __init__(self, directory: str | Path, storage: str | None = None) -> None:
        """Open a record for reading.

        Args:
            directory: The study's folder.
            storage: The URL of the record's database, if it needs a password or has moved.

        Raises:
            UserError: The directory holds no study, or its record is damaged.
        """
        self.directory = as_path(directory)
        self._storage = storage
        self._record = Record.open(self.directory, read_only=True, storage=storage)
        self.space: Space = self._record.space

    def __repr__(self) -> str:
        return f"load_study({str(self.directory)!r})"

    @property
    def trials(self) -> list[Trial]:
        """The optimiser's trials in the order of their numbers."""
        return self._record.trials()

    @property
    def anchors(self) -> dict[RunName, Trial]:
        """Runs that no optimiser is told of, by name: base, zero, defaults, confirmations, fresh runs, the winner's."""
        return self._record.anchors()

    @property
    def best(self) -> Trial:
        """The winner of what is done; raises ValueError while no trial has a score."""
        from partune.study.state import State, scored_winner

        state = State(self._record)
        return scored_winner(state.winner, state.trials)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the winner is really better; None while it is not scored on the held-out items."""
        from partune.study.state import State

        return judge(self._record, State(self._record).winner)

    def summary(self) -> dict[str, Any]:
        """Return all that the study found as plain data, as `partune report --json` prints it."""
        from partune.report.summary import summarise

        return summarise(self._record)

    def write_report(self) -> Path:
        """Write report.html into the study's directory, and return where it is.

        Raises:
            UserError: It cannot be written.
        """
        from partune.report.facts import Facts
        from partune.report.files import write

        return write(Facts(self._record))

    def export(
        self,
        out: str | Path,
        trial: int | Literal["defaults"] | None = None,
        *,
        merge: bool = False,
        recipes: Collection[str] | None = None,
        anyway: bool = False,
    ) -> Path:
        """Write an adapter, or the model with it merged in, with a model card.

        Args:
            out: The folder to write, which must not exist.
            trial: Whose adapter: a trial's, by its number, or that of the field's defaults; the winner's if None.
            merge: Whether to write the whole model, with the adapter merged into the base.
            recipes: Other tools ("trl", "litgpt", "axolotl", "llamafactory") to write files for that train the trial
                again; all of them if None.
            anyway: Whether to write the winner's adapter even if it is shown worse than the base, or does not load as
                it was scored; and to merge it into a full-precision base if the study's was in 4 bits.

        Returns:
            The folder.

        Raises:
            UserError: The study keeps no such adapter, or it should not be handed over.
        """
        from partune.export.export import export as write
        from partune.export.recipes.write import RECIPES

        tools = tuple(RECIPES) if recipes is None else tuple(recipes) or ("none",)
        return write(self.directory, Path(out), trial, merge, self._storage, tools, anyway)

    def resume(self, budget: int | None = None) -> Study:
        """Continue the study as its file says, in this process, and return it when it has run.

        Args:
            budget: The trials in all; by default those that it was to make.

        Raises:
            UserError: The study was begun from Python, which alone knows its objective, or another process leads it.
        """
        from partune.study import from_config

        otherwise = "continue it there, with Study(..., resume=True)"
        study_config = from_config.recorded(self.directory, otherwise, self._storage)
        study = from_config.study(study_config, self.directory, True, storage=self._storage)
        return study.run(budget or self._record.budget or study_config.search.budget)


def load_study(directory: str | Path, storage: str | None = None) -> RecordedStudy:
    """Open a recorded study for reading.

    Args:
        directory: The study's folder, such as "runs/first".
        storage: The URL of the record's database, if it needs a password or has moved.

    Raises:
        UserError: The directory holds no study, or its record is damaged.
    """
    return RecordedStudy(directory, storage)


def compare(directories: Sequence[str | Path], out: str | Path | None = None) -> dict[str, Any]:
    """Compare the algorithms of several studies that have ended.

    Args:
        directories: The studies' folders: the same space and objective, searched by other algorithms or seeds.
        out: A folder for the pages and pictures of the comparison; None to write none.

    Returns:
        All that was found as plain data, as `partune compare --json` prints it.

    Raises:
        UserError: The studies cannot be compared.
    """
    from partune.report.comparison import data, files
    from partune.report.facts import Facts

    compared = data.compare([Facts(Record.open(as_path(directory), read_only=True)) for directory in directories])
    if out is not None:
        files.write(compared, as_path(out))
    return compared
