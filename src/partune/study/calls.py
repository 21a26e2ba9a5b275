"""Call a study's objective outside the search, and raise an error if a worker dies during a call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from partune.errors import UserError
from partune.objectives.base import Anchored
from partune.runtime.paths import command_on
from partune.workers.base import WorkerLostError, Workers

T = TypeVar("T")


class Calls:
    """A caller of an objective. If there are worker processes, one of them makes the call, otherwise this process."""

    def __init__(self, objective: Anchored, workers: Workers | None, directory: Path | None) -> None:
        """Prepare calls of an objective.

        Args:
            objective: The objective to call.
            workers: The worker processes; None to call the objective in this process.
            directory: The study's folder, for messages; None for a study in memory.
        """
        self.objective = objective
        self._workers = workers
        self._directory = directory

    def __call__(self, use: Callable[[Anchored], T], what: str | None = None) -> T:
        """Call a function with the objective, and return its result.

        Args:
            use: The function, which is pickled if there are worker processes.
            what: The result that is missing if the worker dies, for the message; None while there is no study yet.

        Raises:
            UserError: The worker died.
        """
        if self._workers is None:
            return use(self.objective)
        try:
            return self._workers.submit(use, self.objective).result()
        except WorkerLostError as error:
            if what is not None:
                raise lost(self._directory, what, error) from None
            raise UserError(f"nothing can be evaluated: {error}") from None


def lost(directory: Path | None, what: str, *errors: WorkerLostError) -> UserError:
    """Return the error for results that a study needs and that were lost because workers died.

    Args:
        directory: The study's folder; None for a study in memory.
        what: The results that are missing.
        *errors: Why the workers died.
    """
    why = "; ".join(dict.fromkeys(map(str, errors)))
    return UserError(f"results were lost: {what} ({why}). To compute them: {continuing(directory)}")


def continuing(directory: Path | None) -> str:
    """Return the command that continues a study, or advice for a study in memory."""
    return "run it again" if directory is None else command_on("resume", directory)
