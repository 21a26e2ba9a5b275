"""Run one trial at a time: PEFT trains it on a base model that stays in memory, and lm-evaluation-harness scores it.

This engine is the reference. The module `training` defines what a trial means, and the other engines are tested against
this one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from partune import config
from partune.errors import UserError
from partune.finetune.engines import (
    RUNG,
    ZERO_SETTINGS,
    Assignment,
    Engine,
    Outcome,
    Reloaded,
    Settings,
    score_untrained,
)
from partune.finetune.materials import Materials, load_resident
from partune.trial import Value

if TYPE_CHECKING:
    import torch

    from partune.finetune.model import Base
    from partune.finetune.scoring.base import PackAnswers
    from partune.finetune.scoring.scores import Scorer


class PeftEngine(Engine):
    """Train and score one trial after the other.

    Args:
        study: The study's settings.
        answering: Takes a loaded base model and returns a function that answers requests with it and with the adapter
            attached to it. None means lm-evaluation-harness.
    """

    stoppable = False
    identity: Mapping[str, str] = {}
    zero_settings: Mapping[str, Value] = ZERO_SETTINGS

    def __init__(self, study: config.StudyConfig, answering: Callable[[Base], PackAnswers] | None = None) -> None:
        self.materials = Materials(study, self._load_base)
        self._answering = answering or self._harness
        self._answers: dict[str, PackAnswers] = {}
        batch = "" if answering else f"batch_size {self.materials.validation.batch_size}, "
        self.sizes = f" ({batch}dtype {study.training.dtype})"

    def _load_base(self, dtype: str) -> Base:
        base = load_resident(self.materials.study, dtype)
        self._answers[base.dtype] = self._answering(base)
        return base

    def _harness(self, base: Base) -> PackAnswers:
        from partune.finetune.scoring.harness_generation import harness_answers

        answers = harness_answers(base, self.materials.validation.batch_size)
        return lambda name, requests: [answers(requests)]

    def refuse(self) -> None:
        """Accept every study, because the reference defines what a study may ask for."""

    def refuse_training(self, training: config.Training) -> None:
        """Accept all settings."""

    def check(self, targets: Sequence[str], settings: Sequence[Settings]) -> None:
        """Accept all targets. Whether PEFT accepts them is checked elsewhere, for every engine."""

    def capacity(self, typical: Callable[[], Settings], recorded: int | None) -> int:
        """Return 1: trials take turns."""
        return 1

    def describe(self, slots: int) -> Mapping[str, int | str]:
        """Return an empty mapping: only the other engines have entries in the record."""
        return {}

    def evaluate(self, assignment: Assignment) -> Outcome:
        """Train an assignment, save its adapter and score it.

        An error that concerns this trial only is not raised, but returned as the outcome's `scores`.
        """
        training, max_length, loss_on = assignment.settings
        cost = {"seconds": 0.0}
        began = time.perf_counter()
        self.materials.prepare()
        try:
            from partune.finetune import adapter as adapters
            from partune.finetune.training import count_steps, put_back, trained

            with self.materials.lent(training.dtype) as base:
                began = time.perf_counter()  # set again, to leave out the time spent waiting for another trial
                examples = self.materials.examples(base, max_length, loss_on)
                cost["examples"] = float(len(examples))
                course = _Course(assignment, count_steps(len(examples), training), lambda: self._at_point(base))
                seeds = assignment.seed, assignment.order_seed
                with trained(base, examples, training, *seeds, lambda steps: course.score_point(base, steps)) as tuned:
                    put_back(base.model, course.best)
                    seconds = time.perf_counter() - began - course.seconds
                    cost |= {"train_seconds": seconds, "tokens": float(tuned.tokens)}
                    scoring_began = time.perf_counter()
                    scores = self.materials.scorer.score_one(self._answers[base.dtype], assignment.parts)
                    cost["score_seconds"] = time.perf_counter() - scoring_began + course.seconds
                    if assignment.adapter is not None:
                        adapters.save(tuned.model, assignment.adapter)
        except UserError:
            raise
        except Exception as error:
            cost["seconds"] = time.perf_counter() - began
            return Outcome(error, cost)
        cost["seconds"] = time.perf_counter() - began
        return Outcome(scores, cost, losses=tuned.losses, points=tuple(course.points), selected=course.selected)

    def _at_point(self, base: Base) -> float:
        """Return the score of the base model with its adapter on the items of a rung."""
        scores = self.materials.scorer.score_one(self._answers[base.dtype], RUNG)
        return -math.inf if scores.score is None else scores.score

    def score_zero(self, assignment: Assignment) -> Outcome:
        """Evaluate an assignment with learning rate 0 in the same way as a trial."""
        return self.evaluate(assignment)

    def score_base(self, dtype: str, parts: frozenset[str]) -> Outcome:
        """Score the untouched base model."""
        self.materials.prepare()
        with self.materials.lent(dtype) as base:
            return self._score_carried(base, parts)

    def score_kept(self, training: config.Training, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter that this engine saved, in the same way as an adapter from another source."""
        return self.score_adapter(training.dtype, adapter, parts)

    def score_adapter(self, dtype: str, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter from any source; raise UserError if it does not fit the base model."""
        from partune.finetune import adapter as adapters

        adapters.check(adapter)
        self.materials.prepare()
        with self.materials.lent(dtype) as base, adapters.loaded(base, adapter):
            return self._score_carried(base, parts)

    def _score_carried(self, base: Base, parts: frozenset[str]) -> Outcome:
        """Score the base model with the adapter that is attached to it, if there is one."""
        answers, scorer = self._answers[base.dtype], self.materials.scorer
        return score_untrained(lambda: scorer.score_one(answers, parts), self.sizes, tokens=0.0)

    def reload(self, dtype: str, adapter: Path) -> Reloaded | None:
        """Load a saved adapter through PEFT and answer a few items with lm-evaluation-harness."""
        self.materials.prepare()
        with self.materials.lent(dtype) as base:
            return reload(base, self.materials.scorer, self.materials.validation.batch_size, adapter)

    def interrupt(self) -> None:
        """Do nothing: a trial runs in the caller's own thread, where the interrupt already stops it."""

    def close(self) -> None:
        """Release the base models and everything else that was loaded."""
        self._answers.clear()
        self.materials.release()


class _Course:
    """The scores of one trial at the points of its training.

    Args:
        assignment: The trial's work.
        steps: The number of its steps.
        score: Scores the base model with the adapter in its current state.
    """

    def __init__(self, assignment: Assignment, steps: int, score: Callable[[], float]) -> None:
        self.points: list[tuple[int, float]] = []
        self.best: Mapping[str, torch.Tensor] = {}
        self.selected: int | None = None
        self.seconds = 0.0
        self._steps, self._score = assignment.point_steps(steps), score
        self._select = assignment.select == "best"

    def score_point(self, base: Base, steps: int) -> None:
        """Score the adapter if it is at a point; keep it if it is the best so far and the best one is wanted.

        Args:
            base: The base model with the adapter in training.
            steps: The number of steps taken.
        """
        from partune.finetune.training import copied, evaluating

        if steps not in self._steps:
            return
        began = time.perf_counter()
        with evaluating(base.model):
            score = self._score()
        if self._select and (not self.points or score > max(score for _, score in self.points)):
            self.best, self.selected = copied(base.model), steps
        self.points.append((steps, score))
        self.seconds += time.perf_counter() - began


def reload(base: Base, scorer: Scorer, batch_size: int, adapter: Path) -> Reloaded:
    """Load an adapter through PEFT, and answer a few search items with lm-evaluation-harness.

    Args:
        base: The base model, without an adapter before and after the call.
        scorer: The scorer, which has the items.
        batch_size: The number of requests per forward pass.
        adapter: The adapter's folder.
    """
    from partune.finetune import adapter as adapters
    from partune.finetune.scoring.harness_generation import harness_answers
    from partune.runtime.failures import one_line

    try:
        with adapters.loaded(base, adapter) as adapted:
            fault = adapters.unlike(adapted, adapter)
            # For every engine, the harness computes these answers, because users would score an adapter with it.
            answers = scorer.score_first_items(harness_answers(base, batch_size))
    except Exception as error:  # users of the adapter would get the same exception, whatever its type
        return Reloaded(one_line(error), {}, base.dtype)
    return Reloaded(fault, answers, base.dtype)
