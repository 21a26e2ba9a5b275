"""Calls of a study's objective outside of the search, and what a study says when a worker dies in one."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from partune.errors import UserError
from partune.objectives.base import Anchored
from partune.workers.base import WorkerLostError, Workers

T = TypeVar("T")


class Calls:
    """Calls an objective in a worker process where there are any, else here."""

    def __init__(self, objective: Anchored, workers: Workers | None, directory: Path | None) -> None:
        """Call `objective`.

        Args:
            objective: What is called.
            workers: The worker processes; None to call it in this process.
            directory: The study's, which messages name.
        """
        self.objective = objective
        self._workers = workers
        self._directory = directory

    def __call__(self, use: Callable[[Anchored], T], what: str | None = None) -> T:
        """Return what a function of the objective returns.

        Args:
            use: The function; pickled, where there are worker processes.
            what: What the study lacks if the worker dies; None while there is no study yet.

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
    """Return the error that ends a run of a study, as something that it needs was lost with a worker.

    Args:
        directory: The study's.
        what: What is missing.
        *errors: What the workers died of.
    """
    why = "; ".join(dict.fromkeys(map(str, errors)))
    return UserError(f"lost, and not on record: {what} ({why}). To run what is missing: {continuing(directory)}")


def continuing(directory: Path | None) -> str:
    """Return the command that continues a study."""
    return "run it again" if directory is None else f"partune resume {shlex.quote(str(directory))}"
