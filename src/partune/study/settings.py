"""What a study is told beside its space, objective and algorithm.

What a study's file says as well (`partune.config.Search` and `partune.config.Run`) is defined there: defaults, rules
and explanations. `Keywords` only lists the names, for editors and type checkers.
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
    """Settings that a study's file has as well.

    Attributes:
        options: The algorithm's own options.
        keep: How many of the best adapters stay on disk; "all" keeps every one.
        confirm: How many of the best run again with fresh seeds when the budget is spent, the better half of them once
            more, and so on. The winner is then the best in the mean.
        seeds: How often the winner and the field's defaults run again with fresh seeds of initialisation, dropout and
            data order, for a verdict on hyperparameters; 0 for one on the adapters that the search left.
        ship: Which adapter of the winner is handed over: "first", of the run that won, or of the fresh runs the
            "median" or the "best" on the search items.
        stop: "rungs" stops trials early that score worst at equal shares of their steps (`partune.trial.rungs`).
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
        noisy: Whether another evaluation of a configuration would score otherwise; None to see it by whether scores
            have standard errors. With noise the winner is not the best score, part of which is luck
            (`partune.verdict.winner`).
        resume: Continue the study in the directory.
        join: Take part in a study that another process leads: search only. The leader scores baselines and winner.
        storage: The URL of a database for the record, instead of a journal in the directory
            (`partune.record.database`). To resume a study, only where the URL needs a password or has changed.
        config: The text of the study's file, which its directory keeps.
        watcher: Told of the study's progress.
        workers: Worker processes (`partune.workers.cluster`) that everything is evaluated in; by default this process
            evaluates.
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
    """The keyword arguments of a study, checked.

    Attributes:
        search: The file's section of that name; budget, algorithm and seed are given to the study otherwise.
        run: The file's section of that name, of which a study reads `keep` and `stop`.

    The others are those of `Keywords`.
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
        """Check keyword arguments.

        Raises:
            UserError: A study cannot keep to one of them, or not put it on record.
        """
        given: dict[str, Any] = {name: value for name, value in keywords.items() if value is not None}
        _check_recordable(given.get("options", {}))
        search = {name: given.pop(name) for name in IN_SEARCH if name in given}
        run = {name: given.pop(name) for name in IN_RUN if name in given}
        noisy = given.get("noisy")
        if not isinstance(noisy, bool | None):
            raise UserError(f"noisy is true, false or None, got {shown(noisy)}")
        # Strict, as Python's values have their types already: a text "3" is a mistake here, in a file it is not.
        return cls(validated(Search, search, strict=True), validated(Run, run, strict=True), **given)

    @property
    def kept(self) -> int | None:
        """How many adapters stay; None for all."""
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
    """Raise UserError where an algorithm's options cannot be put on record."""
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        rule = "finite numbers, texts, true, false, null, and lists and mappings of them"
        raise UserError(f"an algorithm's options are put on record: they are {rule}, got {shown(options)}") from None
