"""Read, compare, report, export and continue recorded studies from Python."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from partune.record.record import Record
from partune.runtime.paths import as_path
from partune.study.budget import Budget
from partune.trial import Trial
from partune.trial.names import RunName
from partune.verdict.paired import Verdict
from partune.verdict.winner import judge

if TYPE_CHECKING:
    from partune.space import Space
    from partune.study.study import Study

# The report and the export are imported where they are used, because they load libraries that nothing else needs.


class RecordedStudy:
    """A study that is read from its directory, without its objective.

    It shows the record at the time when it was opened. If the study is running, open it again to see its progress.

    Attributes:
        directory: The study's folder.
        space: The space that the study searches.
    """

    def __init__(self, directory: str | Path, storage: str | None = None) -> None:
        """Open a record for reading.

        Args:
            directory: The study's folder.
            storage: The URL of the record's database, if it needs a password or has moved.

        Raises:
            UserError: The directory contains no study, or the record is damaged.
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
        """Runs outside the search, by name: base, zero, defaults, confirmations, fresh runs, the winner's scorings."""
        return self._record.anchors()

    @property
    def best(self) -> Trial:
        """The winner among the trials so far; raises ValueError if no trial has a score."""
        from partune.study.state import State, scored_winner

        state = State(self._record)
        return scored_winner(state.winner, state.trials)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the winner; None if the winner is not scored on the held-out items yet."""
        from partune.study.state import State

        return judge(self._record, State(self._record).winner)

    def summary(self) -> dict[str, Any]:
        """Return the results of the study as plain data, as `partune report --json` prints them."""
        from partune.report.summary import summarise

        return summarise(self._record)

    def write_report(self) -> Path:
        """Write report.html into the study's directory, and return its path.

        Raises:
            UserError: The file cannot be written.
        """
        from partune.report.facts import Facts
        from partune.report.files import write

        return write(Facts(self._record))

    def export(
        self,
        out: str | Path,
        trial: int | str | None = None,
        *,
        merge: bool = False,
        recipes: Collection[str] | None = None,
        anyway: bool = False,
        quantize: Literal["nf4", "int8"] | None = None,
        check: bool = False,
    ) -> Path:
        """Write an adapter, or the model with it merged in, with a model card.

        Args:
            out: The folder to write, which must not exist.
            trial: The number of the trial whose adapter to write, or the name of a baseline ("defaults" is the first
                one); the winner's if None.
            merge: Whether to write the complete model, with the adapter merged into the base model.
            recipes: The other tools ("trl", "litgpt", "axolotl", "llamafactory") for which to write files that train
                the trial again; all of them if None.
            anyway: Whether to write an adapter that would otherwise be refused: a winner that is shown worse than the
                base model, a winner whose answers after loading differ from the scored ones, or an adapter that was
                trained on a base model in 4 bits and is to be merged.
            quantize: The form of the merged model's weights: nf4 (4 bits) or int8 (8 bits); None keeps them.
            check: Whether to load the export, score it on the held-out items, and state in the model card how much
                score it lost against the adapter in the study.

        Returns:
            The folder.

        Raises:
            UserError: The study has not kept the adapter, or the adapter should not be exported.
        """
        from partune.export.export import export as write
        from partune.export.recipes.write import RECIPES

        tools = tuple(RECIPES) if recipes is None else tuple(recipes) or ("none",)
        return write(self.directory, Path(out), trial, merge, self._storage, tools, anyway, quantize, check)

    def resume(self, budget: int | Budget | None = None) -> Study:
        """Continue the study in this process with the settings in its file, and return it when it has ended.

        Args:
            budget: The total number of trials, or a `Budget`; by default the recorded budget with its deadline.

        Raises:
            UserError: The study was begun from Python and has no file, or another process leads it.
        """
        from partune.study import from_config

        otherwise = "continue it there, with Study(..., resume=True)"
        study_config = from_config.recorded(self.directory, otherwise, self._storage)
        study = from_config.study(study_config, self.directory, True, storage=self._storage)
        return study.run(Budget.recorded(self._record, study_config.search.budget) if budget is None else budget)


def load_study(directory: str | Path, storage: str | None = None) -> RecordedStudy:
    """Open a recorded study for reading.

    Args:
        directory: The study's folder, such as "runs/first".
        storage: The URL of the record's database, if it needs a password or has moved.

    Raises:
        UserError: The directory contains no study, or the record is damaged.
    """
    return RecordedStudy(directory, storage)


def compare(directories: Sequence[str | Path], out: str | Path | None = None) -> dict[str, Any]:
    """Compare the algorithms of several studies that have ended.

    Args:
        directories: The folders of studies with the same space and objective, which differ in algorithm or seed.
        out: The folder for the pages and pictures of the comparison; None to write no files.

    Returns:
        The results of the comparison as plain data, as `partune compare --json` prints them.

    Raises:
        UserError: The studies cannot be compared.
    """
    from partune.report.comparison import data, files
    from partune.report.facts import Facts

    comparison = data.compare([Facts(Record.open(as_path(directory), read_only=True)) for directory in directories])
    if out is not None:
        files.write(comparison, as_path(out))
    return comparison
