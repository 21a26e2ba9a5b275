"""Define the interface of an engine, which turns settings into an adapter and the adapter into scores.

There are three engines. `peft` runs one trial after the other, and is the reference that defines what a trial means.
`packed` runs many trials at once on one base model. `litgpt` runs LitGPT's commands, with a process for each step. All
three take a trial as an `Assignment` and return an `Outcome`.
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
from partune.trial.names import ItemSet
from partune.trial.rungs import Judge

if TYPE_CHECKING:
    from partune.finetune.scoring.scores import Scores

# Training with learning rate 0 must not change the base model's answers. Three steps are enough for this check, because
# a wrong base model, tokenizer or scoring path shows at once. More steps would only cost time in every study.
RUNG = frozenset({ItemSet.RUNG})  # the items that are scored at a rung, and at a point of a training
ZERO_SETTINGS: Mapping[str, Value] = {"learning_rate": 0.0, "steps": 3}


class Settings(NamedTuple):
    """The training settings of one configuration.

    Attributes:
        training: The study's section `training`, with the configuration's values filled in.
        max_length: The number of tokens to which examples are cut.
        loss_on: Which tokens the loss includes.
    """

    training: config.Training
    max_length: int
    loss_on: Literal["answer", "all"]


@dataclass(frozen=True)
class Assignment:
    """The work of one trial, as it is passed to an engine.

    Attributes:
        number: The trial's number, for the names of folders and logs.
        settings: The trial's settings.
        seed: The seed of initialisation and dropout.
        order_seed: The seed of the data's order.
        parts: The parts of the items to score: "search", "verdict", "test".
        slots: The number of trials that are trained at once, including this one.
        adapter: The folder to save the adapter in, or None to keep no adapter.
        judge: Decides at each rung (a step at which trials are compared) whether to stop the trial early. None never
            stops it.
        points: The number of points of the training at which some search items are scored, including the end.
        select: Which adapter to keep and to score: the last one, or the best of those at the points.
    """

    number: int
    settings: Settings
    seed: int
    order_seed: int
    parts: frozenset[str]
    slots: int = 1
    adapter: Path | None = None
    judge: Judge | None = None
    points: int = 0
    select: Literal["last", "best"] = "last"

    def point_steps(self, steps: int) -> tuple[int, ...]:
        """Return after how many steps the trial reaches each of its points; the last point is the end of training.

        Args:
            steps: The number of all steps.
        """
        shares = (number / self.points for number in range(1, self.points + 1))
        return tuple(dict.fromkeys(max(1, round(share * steps)) for share in shares))


@dataclass(frozen=True)
class Outcome:
    """The result of an assignment.

    Attributes:
        scores: The scores, or the exception with which the trial failed.
        cost: The costs (seconds, tokens) by the names that `Observation.cost` has. A failed trial has the costs that
            were known when it failed.
        rungs: The scores at the rungs that the trial reached.
        stopped: The share of its steps after which the trial was stopped early; None if it was not stopped.
        losses: (steps,), the mean loss per trained token; None if the engine does not report it.
        points: The numbers of steps and the scores at the points of the training.
        selected: The number of steps after which the adapter was kept; None if it is the last one.
    """

    scores: Scores | Exception
    cost: Mapping[str, float]
    rungs: tuple[float, ...] = ()
    stopped: float | None = None
    losses: npt.NDArray[np.float64] | None = None
    points: tuple[tuple[int, float], ...] = ()
    selected: int | None = None


@dataclass(frozen=True)
class Reloaded:
    """A saved adapter after PEFT has loaded it from disk, as its users will.

    Attributes:
        error: Why PEFT cannot load the adapter as it was saved; None if it can.
        answers: The log-likelihoods of each task's first search items, (n, choices). The keys are names as in
            `Scores.items`.
        dtype: The precision of the base model.
    """

    error: str | None
    answers: Mapping[str, npt.NDArray[np.float64]]
    dtype: str


class Engine(Protocol):
    """Train and score assignments on a study's base model.

    The constructor loads nothing. Methods that need the base model, the data or the tasks load them first
    (`materials.prepare`). All methods raise UserError for mistakes that the user has to correct.
    """

    materials: Materials
    """The base models, training examples and scorer that all trials share."""
    stoppable: bool
    """Whether the engine can stop a trial early when the judge of its assignment says so."""
    identity: Mapping[str, str]
    """Properties of the engine that change scores, for the record; empty if it scores as the reference does."""
    zero_settings: Mapping[str, Value]
    """Settings that turn any trial into the check with learning rate 0."""

    def refuse(self) -> None:
        """Raise UserError for a section of the study that the engine does not support, without loading anything."""

    def refuse_training(self, training: config.Training) -> None:
        """Raise UserError for training settings that the engine does not support, without loading anything."""

    def check(self, targets: Sequence[str], settings: Sequence[Settings]) -> None:
        """Raise UserError for settings with which the loaded base model cannot be trained.

        Args:
            targets: Every value that the setting `targets` may have in the study.
            settings: The settings of some configurations.
        """

    def capacity(self, typical: Callable[[], Settings], recorded: int | None) -> int:
        """Return the best number of trials to train at once.

        Args:
            typical: Returns the settings of a typical trial. It is called only if the number has to be measured.
            recorded: The number that was measured when the study began; None if none was.
        """

    def describe(self, slots: int) -> Mapping[str, int | str]:
        """Return the engine's entries in the record.

        Args:
            slots: The number of trials that are trained at once.
        """

    def evaluate(self, assignment: Assignment) -> Outcome:
        """Train an assignment, save its adapter and score it.

        An error that concerns this trial only is not raised, but returned as the outcome's `scores`.
        """

    def score_zero(self, assignment: Assignment) -> Outcome:
        """Evaluate an assignment with learning rate 0 in exactly the same way as a trial."""

    def score_base(self, dtype: str, parts: frozenset[str]) -> Outcome:
        """Score the untouched base model.

        Args:
            dtype: The precision of the base model: fp32, bf16, fp16 or "auto".
            parts: The parts of the items to score.
        """

    def score_kept(self, training: config.Training, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter that this engine trained and saved, in the same way as a trial.

        Args:
            training: The settings with which the adapter was trained.
            adapter: The adapter's folder.
            parts: The parts of the items to score.
        """

    def score_adapter(self, dtype: str, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter from any source; raise UserError if it does not fit the base model.

        Args:
            dtype: The precision of the base model: fp32, bf16, fp16 or "auto".
            adapter: The adapter's folder.
            parts: The parts of the items to score.
        """

    def reload(self, dtype: str, adapter: Path) -> Reloaded | None:
        """Load a saved adapter through PEFT and answer a few items; return None if it is not in PEFT's format.

        Args:
            dtype: The precision of the base model: fp32, bf16, fp16 or "auto".
            adapter: The adapter's folder.
        """

    def interrupt(self) -> None:
        """Make evaluations in other threads raise an exception; return once the base model has no adapters again."""

    def close(self) -> None:
        """Release everything that is loaded and remove temporary files. Later calls load again what they need."""


def score_untrained(score: Callable[[], Scores], sizes: str = "", **cost: float) -> Outcome:
    """Return the scores and the cost of a model that is scored without training.

    Args:
        score: Scores the model.
        sizes: The settings on which memory use depends, for the error message; begins with a space.
        cost: Further costs beside the seconds, by name.

    Raises:
        UserError: Scoring failed. It would fail in every trial too, so the user has to correct the cause.
    """
    from partune.finetune.scoring.base import UndefinedScoreError

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
