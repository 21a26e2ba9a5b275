"""What is asked of an engine: to turn settings into an adapter, and the adapter into scores.

Three engines stand side by side: `peft` (one trial after the other: the reference that defines what a trial means),
`packed` (many trials at once on one base) and `litgpt` (LitGPT's command line, a process per step). A trial goes
through all three as an `Assignment` and comes back as an `Outcome`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from partune import config
from partune.errors import UserError
from partune.finetune.failures import cause
from partune.finetune.materials import Materials
from partune.trial import Value
from partune.trial.rungs import Judge

if TYPE_CHECKING:
    from partune.finetune.scoring.scores import Scores

# Learning rate 0 has to leave the base's answers as they are. A few steps are enough to show it: a wrong base,
# tokenizer or scoring path shows at once, and the check is paid for in every study.
ZERO_SETTINGS: Mapping[str, Value] = {"learning_rate": 0.0, "steps": 3}


class Settings(NamedTuple):
    """How a configuration trains.

    Attributes:
        training: The training section, with the configuration's values in it.
        max_length: Tokens to which examples are cut.
        loss_on: Which tokens the loss is on.
    """

    training: config.Training
    max_length: int
    loss_on: Literal["answer", "all"]


@dataclass(frozen=True)
class Assignment:
    """One trial's work, as an engine is given it.

    Attributes:
        number: The trial's number, for names of folders and logs.
        settings: How it trains.
        seed: Seed of initialisation and dropout.
        order_seed: Seed of the data's order.
        parts: Parts of the items to score: "search", "verdict", "test".
        slots: Trials that are trained at once, this one included.
        adapter: Folder to save the adapter in; None keeps none.
        judge: Asked at each rung whether the trial goes on; None lets it run to its end.
    """

    number: int
    settings: Settings
    seed: int
    order_seed: int
    parts: frozenset[str]
    slots: int = 1
    adapter: Path | None = None
    judge: Judge | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of an assignment.

    Attributes:
        scores: Its scores, or the exception with which the trial failed.
        cost: Seconds and tokens by name, as an observation has them. A failed trial has those that it came to.
        rungs: Scores at the rungs that it reached.
        stopped: Share of its steps after which a judge stopped it; None where it ran to its end.
        losses: (steps,), mean per trained token; None where the engine does not say.
    """

    scores: Scores | Exception
    cost: Mapping[str, float]
    rungs: tuple[float, ...] = ()
    stopped: float | None = None
    losses: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Reloaded:
    """A kept adapter as PEFT loads it from disk, which is how others will load it.

    Attributes:
        error: Why it does not load as it was saved; None where it does.
        answers: Log-likelihoods of each task's first search items, (n, choices), by the names of `Scores.items`.
        dtype: Precision of the base that carried it.
    """

    error: str | None
    answers: Mapping[str, npt.NDArray[np.float64]]
    dtype: str


class Engine(Protocol):
    """Trains and scores assignments on a study's base model.

    Constructing one loads nothing. Methods that need the base, the data or the tasks load them first
    (`materials.prepare`). All of them raise UserError for what the user has to correct.
    """

    materials: Materials
    """What its trials share: base models, training examples, scorer."""
    stoppable: bool
    """Whether it asks an assignment's judge."""
    identity: Mapping[str, str]
    """What of the engine decides what a trial scores, for the record; empty where it scores as the reference does."""
    zero_settings: Mapping[str, Value]
    """Settings that make any trial the check of learning rate 0."""

    def refuse(self) -> None:
        """Raise UserError for a section of the study that the engine cannot serve. Loads nothing."""

    def refuse_training(self, training: config.Training) -> None:
        """Raise UserError for training settings that the engine cannot do. Loads nothing."""

    def check(self, targets: Sequence[str], settings: Sequence[Settings]) -> None:
        """Raise UserError for what cannot be trained on the loaded base.

        Args:
            targets: Every value that the setting `targets` may have in the study.
            settings: Some configurations' settings.
        """

    def capacity(self, typical: Callable[[], Settings], recorded: int | None) -> int:
        """Return how many trials are best trained at once.

        Args:
            typical: Gives the settings of a usual trial, to measure with; called where it has to be measured.
            recorded: What was measured when the study began; None where it was not.
        """

    def describe(self, slots: int) -> Mapping[str, int | str]:
        """Return what the record says of the engine.

        Args:
            slots: Trials that are trained at once.
        """

    def evaluate(self, assignment: Assignment) -> Outcome:
        """Train an assignment, save its adapter and score it. What goes wrong in it alone is its outcome."""

    def score_zero(self, assignment: Assignment) -> Outcome:
        """Evaluate an assignment with learning rate 0, by the very path that trials take."""

    def score_base(self, dtype: str, parts: frozenset[str]) -> Outcome:
        """Score the untouched base.

        Args:
            dtype: Its precision, as the setting says it.
            parts: Parts of the items to score.
        """

    def score_kept(self, training: config.Training, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter that this engine trained and saved, by the path that trials take.

        Args:
            training: The settings that it was trained with.
            adapter: Its folder.
            parts: Parts of the items to score.
        """

    def score_adapter(self, dtype: str, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter from anywhere; raise UserError where it does not fit the base.

        Args:
            dtype: Precision of the base, as the setting says it.
            adapter: Its folder.
            parts: Parts of the items to score.
        """

    def reload(self, dtype: str, adapter: Path) -> Reloaded | None:
        """Load a kept adapter through PEFT and answer a handful of items; None where it has no form that PEFT reads.

        Args:
            dtype: Precision of the base, as the setting says it.
            adapter: Its folder.
        """

    def interrupt(self) -> None:
        """End evaluations under way in other threads by an exception, and return once the base is as it was."""

    def close(self) -> None:
        """Release what is loaded and remove temporary files. What is used again afterwards loads again."""


def score_untrained(score: Callable[[], Scores], sizes: str = "", **cost: float) -> Outcome:
    """Return the scores and the cost of a model that nothing is trained for.

    Args:
        score: Scores it.
        sizes: Settings that decide whether it fits in memory, for the message; begins with a space.
        cost: What is known of its cost beside the seconds, by name.

    Raises:
        UserError: Scoring failed. It would fail in every trial too, so it is for the user to correct.
    """
    from partune.finetune.scoring.scores import UndefinedScoreError

    began = time.perf_counter()
    try:
        scores = score()
    except UserError:
        raise
    except UndefinedScoreError as error:
        raise UserError(str(error)) from error
    except Exception as error:
        raise UserError(f"the model cannot be scored{sizes}: {cause(error)}") from error
    seconds = time.perf_counter() - began
    return Outcome(scores, {"seconds": seconds, "train_seconds": 0.0, "score_seconds": seconds, **cost})
