"""The names that a record gives to runs beside the search, to scores and to arrays of per-item results.

A record holds plain text, such as "confirm/17/2" or "verdict/arc_easy/acc". It is composed and parsed here only; all
other modules use the types:

    text on record                   type
    base, zero, defaults             Baseline
    winner, reloaded                 WinnerScoring
    confirm/<trial>/<run>            Confirmation
    fresh/<trial or defaults>/<run>  FreshRun
    rung/<number>                    Rung
    <item set>/<task>[/<what>]       ResultName
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

# ----- runs beside the search


class Baseline(StrEnum):
    """What a study's winner is compared with, and the check that training itself changes nothing."""

    BASE = "base"
    """The untouched base model."""
    ZERO = "zero"
    """The defaults with learning rate 0, which must give the base's answers."""
    DEFAULTS = "defaults"
    """The field's defaults."""


class WinnerScoring(StrEnum):
    """The two times that a winner's adapter is scored when the search is over."""

    JUDGED = "winner"
    """On the verdict items and the test tasks."""
    RELOADED = "reloaded"
    """On a handful of items, once its adapter was loaded from disk as others will load it."""


Whose = int | Literal[Baseline.DEFAULTS]


@dataclass(frozen=True)
class Confirmation:
    """A further run of one of the best trials, which decides who wins.

    Attributes:
        trial: The trial's number.
        run: Which of its confirmations this is, from 1.
    """

    trial: int
    run: int

    def __str__(self) -> str:
        return f"confirm/{self.trial}/{self.run}"

    @property
    def words(self) -> str:
        """What a person calls this run."""
        return f"confirmation {self.run} of trial {self.trial}"


@dataclass(frozen=True)
class FreshRun:
    """A run of the winner or of the defaults with fresh seeds, which the verdict is given on.

    Attributes:
        whose: The winner's number, or the defaults.
        run: Which of its fresh runs this is, from 1.
    """

    whose: Whose
    run: int

    def __str__(self) -> str:
        return f"fresh/{self.whose}/{self.run}"

    @property
    def of_defaults(self) -> bool:
        """Whether the defaults ran."""
        return self.whose == Baseline.DEFAULTS

    @property
    def words(self) -> str:
        """What a person calls this run."""
        return f"fresh run {self.run} of {'the defaults' if self.of_defaults else f'trial {self.whose}'}"


FurtherRun = Confirmation | FreshRun
RunName = Baseline | WinnerScoring | Confirmation | FreshRun

_FURTHER = re.compile(r"(confirm|fresh)([/.])(\d+|defaults)\2(\d+)")


def run_name(text: str) -> RunName:
    """Return the name of a run from its text on record.

    Raises:
        ValueError: It names no run.
    """
    if text in list(Baseline):
        return Baseline(text)
    if text in list(WinnerScoring):
        return WinnerScoring(text)
    if (further := _further(text, "/")) is not None:
        return further
    raise ValueError(f"no run is called {text!r}")


def adapter_folder(name: RunName) -> str:
    """Return the name of the folder that a run's adapter is kept in."""
    return str(name).replace("/", ".")


def is_further_runs(folder: str) -> bool:
    """Return whether a folder's name is that of a further run's adapter."""
    return _further(folder, ".") is not None


def _further(text: str, separator: str) -> FurtherRun | None:
    parts = _FURTHER.fullmatch(text)
    if parts is None or parts[2] != separator or (parts[1] == "confirm" and parts[3] == Baseline.DEFAULTS):
        return None
    if parts[1] == "confirm":
        return Confirmation(int(parts[3]), int(parts[4]))
    return FreshRun(Baseline.DEFAULTS if parts[3] == Baseline.DEFAULTS else int(parts[3]), int(parts[4]))


# ----- scores and per-item results


class ItemSet(StrEnum):
    """Which items of a task something was scored on."""

    SEARCH = "search"
    """The items that the optimiser is told the score of."""
    VERDICT = "verdict"
    """The held-out items, which no optimiser sees. By itself also the name of the mean score on them, over tasks."""
    TEST = "test"
    """The items of a task that only watches for overfitting."""
    RUNG = "rung"
    """The search items that a trial is scored on at a rung."""


@dataclass(frozen=True)
class ResultName:
    """The name of a task's score, or of an array of its per-item results.

    Attributes:
        items: The items that were scored.
        task: The task's name, which may have slashes in it.
        what: A metric, or what else there is of each item ("doc_id", "loglikelihood", "leaf", "weight"); empty for the
            score in the metric that the task is judged by.
    """

    items: ItemSet
    task: str
    what: str = ""

    def __str__(self) -> str:
        return f"{self.items}/{self.task}/{self.what}" if self.what else f"{self.items}/{self.task}"

    @property
    def stderr(self) -> str:
        """The name of this score's standard error."""
        return stderr_name(str(self))

    @classmethod
    def of_array(cls, text: str) -> Self | None:
        """Return the name of an array of per-item results from its text; None for one that an objective made up."""
        items, _, rest = text.partition("/")
        task, _, what = rest.rpartition("/")
        return cls(ItemSet(items), task, what) if task and what and items in list(ItemSet) else None


def stderr_name(score: str) -> str:
    """Return the name of a score's standard error."""
    return f"{score}_stderr"


def score_on_verdict_items(scores: Mapping[str, float]) -> tuple[float, float | None] | None:
    """Return the mean score on the verdict items and its standard error; None where these were not scored."""
    if ItemSet.VERDICT not in scores:
        return None
    return scores[ItemSet.VERDICT], scores.get(stderr_name(ItemSet.VERDICT))


def scores_on_tests(scores: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return each test task's score and standard error, by task; without a task whose score is not finite."""
    by_task = {}
    for name, value in scores.items():
        items, _, task = name.partition("/")
        # A task's name may have a slash, as a metric's has: one whose front part is a score as well is a metric's.
        is_metric = name.rpartition("/")[0] in scores
        if items == ItemSet.TEST and stderr_name(name) in scores and not is_metric and math.isfinite(value):
            by_task[task] = value, scores[stderr_name(name)]
    return by_task


@dataclass(frozen=True)
class Rung:
    """The name of a score on the way, at a share of the trial's steps.

    Attributes:
        number: Which rung, from 0.
    """

    number: int

    def __str__(self) -> str:
        return f"rung/{self.number}"


def rung_scores(scores: Mapping[str, float]) -> dict[int, float]:
    """Return the scores on the way, by the number of the rung."""
    matches = ((re.fullmatch(r"rung/(\d+)", name), value) for name, value in scores.items())
    return {int(match[1]): value for match, value in matches if match is not None}


def without_held_out(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores that an optimiser may see: "score" and those at rungs."""
    rungs = {str(Rung(number)): value for number, value in rung_scores(scores).items()}
    return {name: value for name, value in scores.items() if name == "score" or name in rungs}
