"""The names that a record uses for runs outside the search, for scores and for arrays of per-item results.

A record holds names as plain text, such as "confirm/17/2" or "verdict/arc_easy/acc". Only this module composes and
parses these texts. All other modules use the types:

    text on record                   type
    base, zero, defaults             Baseline
    baseline/<name>                  FurtherBaseline
    winner, reloaded                 WinnerScoring
    confirm/<trial>/<run>            Confirmation
    fresh/<whose>/<run>              FreshRun; whose is a trial's number, "defaults" or "baseline/<name>"
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

ROWS = "validation rows"  # the name of the task that scores the loss of validation rows

LIKELIHOODS = "loglikelihood"  # the array of items' log-likelihoods, (n, largest number of continuations per item)
TEXTS = "answer"  # the array of the texts that a model generated, (n, largest number of texts per item)
TRAINING_LOSS = "training_loss"  # the array of a trial's losses, (steps,)
POINTS = "points"  # the array of the points of a trial's training, (points, 2): the number of steps, and the score

# ----- runs outside the search


class Baseline(StrEnum):
    """The runs that a study's winner is compared with, and the check with learning rate 0."""

    BASE = "base"
    """The untouched base model."""
    ZERO = "zero"
    """The defaults with learning rate 0, which must give the same answers as the base model."""
    DEFAULTS = "defaults"
    """An adapter trained with the first baseline: the field's default hyperparameters, or a recipe by name."""


class WinnerScoring(StrEnum):
    """The two runs that score the winner's adapter after the search."""

    JUDGED = "winner"
    """Scores the adapter on all items, for the verdict and the test tasks."""
    RELOADED = "reloaded"
    """Loads the adapter from disk, as its users will, and scores it on a few items."""


@dataclass(frozen=True)
class FurtherBaseline:
    """An adapter trained with the second or a further recipe that the winner is compared with.

    Attributes:
        name: The name of the recipe: letters, digits, - and _.
    """

    name: str

    def __str__(self) -> str:
        return f"baseline/{self.name}"


Whose = int | Literal[Baseline.DEFAULTS] | FurtherBaseline


@dataclass(frozen=True)
class Confirmation:
    """A further run of one of the best trials with a fresh seed, which helps to choose the winner.

    Attributes:
        trial: The number of the trial.
        run: The index of this confirmation among those of the trial, from 1.
    """

    trial: int
    run: int

    def __str__(self) -> str:
        return f"confirm/{self.trial}/{self.run}"

    @property
    def words(self) -> str:
        """The name of this run as it is shown to the user."""
        return f"confirmation {self.run} of trial {self.trial}"


@dataclass(frozen=True)
class FreshRun:
    """A run of the winner or of a baseline with fresh seeds, on which the verdict is based.

    Attributes:
        whose: The number of the winning trial, or the baseline.
        run: The index of this run among the fresh runs of that trial or baseline, from 1.
    """

    whose: Whose
    run: int

    def __str__(self) -> str:
        return f"fresh/{self.whose}/{self.run}"

    @property
    def of_baseline(self) -> bool:
        """Whether this is a run of a baseline."""
        return not isinstance(self.whose, int)

    @property
    def words(self) -> str:
        """The name of this run as it is shown to the user."""
        match self.whose:
            case FurtherBaseline(name):
                whose = f"baseline {name}"
            case Baseline.DEFAULTS:
                whose = "the defaults"
            case number:
                whose = f"trial {number}"
        return f"fresh run {self.run} of {whose}"


FurtherRun = Confirmation | FreshRun
RunName = Baseline | WinnerScoring | Confirmation | FreshRun | FurtherBaseline

_NAME = r"[A-Za-z0-9_-]+"
_FURTHER = re.compile(rf"(confirm|fresh)([/.])(\d+|defaults|baseline\2{_NAME})\2(\d+)")


def run_name(text: str) -> RunName:
    """Parse the name of a run from its text on record.

    Raises:
        ValueError: The text does not name a run.
    """
    if text in list(Baseline):
        return Baseline(text)
    if text in list(WinnerScoring):
        return WinnerScoring(text)
    if (further := _further(text, "/")) is not None:
        return further
    if (named := re.fullmatch(rf"baseline/({_NAME})", text)) is not None:
        return FurtherBaseline(named[1])
    raise ValueError(f"no run is called {text!r}")


def adapter_folder(name: RunName) -> str:
    """Return the name of the folder for a run's adapter."""
    return str(name).replace("/", ".")


def is_further_runs(folder: str) -> bool:
    """Return whether a folder is, by its name, that of the adapter of a confirmation or a fresh run."""
    return _further(folder, ".") is not None


def _further(text: str, separator: str) -> FurtherRun | None:
    parts = _FURTHER.fullmatch(text)
    if parts is None or parts[2] != separator or (parts[1] == "confirm" and not parts[3].isdecimal()):
        return None
    if parts[1] == "confirm":
        return Confirmation(int(parts[3]), int(parts[4]))
    if parts[3] == Baseline.DEFAULTS:
        return FreshRun(Baseline.DEFAULTS, int(parts[4]))
    number, _, name = parts[3].partition(separator)
    return FreshRun(FurtherBaseline(name) if name else int(number), int(parts[4]))


# ----- scores and per-item results


class ItemSet(StrEnum):
    """The sets of items on which a model can be scored."""

    SEARCH = "search"
    """The items whose score the optimiser is told."""
    VERDICT = "verdict"
    """The held-out items, whose scores no optimiser sees.

    The text "verdict" by itself is also the name of a score: the mean over tasks on these items.
    """
    TEST = "test"
    """The items of a test task, which only watches for overfitting."""
    RUNG = "rung"
    """The search items that are scored at a rung, where a trial may be stopped early."""


@dataclass(frozen=True)
class ResultName:
    """The name of a task's score, or of an array of its per-item results.

    Attributes:
        items: The set of items that was scored.
        task: The name of the task, which may contain slashes.
        what: A metric, or another quantity of each item ("doc_id", "loglikelihood", "leaf", "weight"); empty for the
            score in the task's chosen metric.
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
        """Parse the name of an array of per-item results; return None for a name of an objective's own choosing."""
        items, _, rest = text.partition("/")
        task, _, what = rest.rpartition("/")
        return cls(ItemSet(items), task, what) if task and what and items in list(ItemSet) else None


def stderr_name(score: str) -> str:
    """Return the name of a score's standard error."""
    return f"{score}_stderr"


def score_on_verdict_items(scores: Mapping[str, float]) -> tuple[float, float | None] | None:
    """Return the mean score on the verdict items and its standard error; None if they were not scored."""
    if ItemSet.VERDICT not in scores:
        return None
    return scores[ItemSet.VERDICT], scores.get(stderr_name(ItemSet.VERDICT))


def scores_on_tests(scores: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the score and standard error of each test task whose score is finite, by task."""
    by_task = {}
    for name, value in scores.items():
        items, _, task = name.partition("/")
        # "test/a/b" is either task "a/b", or metric b of task "a". It is a metric if "test/a" is a score too.
        is_metric = name.rpartition("/")[0] in scores
        if items == ItemSet.TEST and stderr_name(name) in scores and not is_metric and math.isfinite(value):
            by_task[task] = value, scores[stderr_name(name)]
    return by_task


@dataclass(frozen=True)
class Rung:
    """The name of a score at a rung: an intermediate score after a fixed share of the trial's steps.

    Attributes:
        number: The number of the rung, from 0.
    """

    number: int

    def __str__(self) -> str:
        return f"rung/{self.number}"


def rung_scores(scores: Mapping[str, float]) -> dict[int, float]:
    """Return the scores at rungs, by the number of the rung."""
    matches = ((re.fullmatch(r"rung/(\d+)", name), value) for name, value in scores.items())
    return {int(match[1]): value for match, value in matches if match is not None}


def without_held_out(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores that an optimiser may see: "score" and those at rungs."""
    rungs = {str(Rung(number)): value for number, value in rung_scores(scores).items()}
    return {name: value for name, value in scores.items() if name == "score" or name in rungs}
