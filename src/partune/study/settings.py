"""The keyword arguments of a study, other than its space, objective and algorithm.

The classes of a study's file (`partune.config.Search` and `partune.config.Run`) define the defaults and rules of the
arguments that are also settings in the file. `Keywords` only lists names and types, for editors and type checkers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypedDict, Unpack

from partune.config import Run, Search, Ship, StudyConfig, validated
from partune.errors import UserError, shown
from partune.study.watcher import Watcher
from partune.workers.base import Workers


class FileKeywords(TypedDict, total=False):
    """Arguments that are also settings in a study's file.

    Attributes:
        options: The options of the algorithm.
        keep: The number of best trials whose adapters stay on disk; "all" keeps every adapter.
        confirm: The number of best trials that run again with fresh seeds when the budget is spent. The better half of
            them runs once more, and so on. The trial with the best mean wins.
        seeds: The number of fresh runs of the winner and of the field's defaults, with other seeds of initialisation,
            dropout and data order, for a verdict on hyperparameters. With 0, the verdict is on one adapter of each.
        ship: The run of the winner whose adapter is exported: "first" for the run that won; "median" or "best" for the
            fresh run with the median or the best score on the search items.
        stop: "rungs" to stop the worst trials early, at equal shares of their steps (`partune.trial.rungs`).
    """

    options: Mapping[str, Any] | None
    keep: int | Literal["all"]
    confirm: int
    seeds: int
    ship: Ship
    stop: Literal["none", "rungs"]


class Keywords(FileKeywords, total=False):
    """All keyword arguments of `Study`.

    Attributes:
        noisy: Whether a second evaluation of the same configuration could give another score. With None, the answer is
            yes if scores have standard errors, otherwise no. With noise, the best score is partly due to chance, so the
            trial with the best score need not win (`partune.verdict.winner`).
        resume: Whether to continue the study in the directory.
        join: Whether to take part in the search of a study that another process leads. The leader scores the baselines
            and the winner.
        storage: The URL of a database for the record, instead of a journal in the directory
            (`partune.record.database`). A resumed study needs it only if the URL has a password or has changed.
        config: The text of the study's file, which is saved in the directory.
        watcher: The watcher that is told of the study's progress.
        workers: The worker processes (`partune.workers.cluster`) that evaluate everything; by default, this process
            does.
    """

    noisy: bool | None
    resume: bool
    join: bool
    storage: str | None
    config: str | None
    watcher: Watcher | None
    workers: Workers | None


IN_SEARCH = ("options", "confirm", "seeds", "ship")
IN_RUN = ("keep", "stop")


@dataclass(frozen=True)
class Settings:
    """The checked keyword arguments of a study.

    Attributes:
        search: The arguments in the file's section `search`. Its budget, algorithm and seed are not used, because they
            are arguments of `Study` and `Study.run`.
        run: The arguments in the file's section `run`; a study uses only `keep` and `stop`.

    `Keywords` describes the other attributes.
    """

    search: Search = field(default_factory=Search)
    run: Run = field(default_factory=Run)
    noisy: bool | None = None
    resume: bool = False
    join: bool = False
    storage: str | None = None
    config: str | None = None
    watcher: Watcher = field(default_factory=Watcher)
    workers: Workers | None = None

    @classmethod
    def of(cls, **keywords: Unpack[Keywords]) -> Self:
        """Check keyword arguments, and return them as settings.

        Raises:
            UserError: An argument is not valid, or it cannot be recorded.
        """
        others: dict[str, Any] = {name: value for name, value in keywords.items() if value is not None}
        _check_recordable(others.get("options", {}))
        search = {name: others.pop(name) for name in IN_SEARCH if name in others}
        run = {name: others.pop(name) for name in IN_RUN if name in others}
        noisy = others.get("noisy")
        if not isinstance(noisy, bool | None):
            raise UserError(f"noisy must be true, false or None, got {shown(noisy)}")
        # Strict, because values in Python have types: the text "3" is a mistake here, but not in a file.
        return cls(validated(Search, search, strict=True), validated(Run, run, strict=True), **others)

    @property
    def kept(self) -> int | None:
        """The number of best trials whose adapters stay on disk; None for all trials."""
        return None if self.run.keep == "all" else int(self.run.keep)


def file_keywords(config: StudyConfig) -> FileKeywords:
    """Return the settings of a study's file as keyword arguments of `Study`."""
    search, run = config.search, config.run
    return FileKeywords(
        options=search.options,
        confirm=search.confirm,
        seeds=search.seeds,
        ship=search.ship,
        keep=run.keep,
        stop=run.stop,
    )


def _check_recordable(options: object) -> None:
    """Raise UserError if an algorithm's options cannot be recorded."""
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        rule = "finite numbers, texts, true, false, null, and lists and mappings of them"
        raise UserError(f"an algorithm's options are recorded, so they must be {rule}, got {shown(options)}") from None
