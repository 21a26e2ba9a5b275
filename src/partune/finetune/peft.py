"""The engine of one trial at a time: PEFT trains it on the resident base, lm-evaluation-harness scores it.

It is the reference: `training` says what a trial means, and whatever other engines do is tested against this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from partune import config
from partune.errors import UserError
from partune.finetune.engines import ZERO_SETTINGS, Assignment, Engine, Outcome, Reloaded, Settings, score_untrained
from partune.finetune.materials import Materials, load_resident
from partune.trial import Value

if TYPE_CHECKING:
    from partune.finetune.model import Base
    from partune.finetune.scoring.scores import Scorer
    from partune.finetune.scoring.tasks import PackAnswers


class PeftEngine(Engine):
    """Trains and scores one trial after the other.

    Args:
        study: The study's settings.
        answering: Makes what answers requests for a loaded base and whatever adapter it carries; the harness's model
            where none is given.
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
        from partune.finetune.scoring.harness import harness_model

        loglikelihoods = harness_model(base, self.materials.validation.batch_size)
        return lambda name, requests: [loglikelihoods(requests)]

    def refuse(self) -> None:
        """Accept every study: the reference defines what a study may ask for."""

    def refuse_training(self, training: config.Training) -> None:
        """Accept all settings."""

    def check(self, targets: Sequence[str], settings: Sequence[Settings]) -> None:
        """Accept all targets: whether PEFT takes them is checked for every engine."""

    def capacity(self, typical: Callable[[], Settings], recorded: int | None) -> int:
        """Return 1: trials take turns."""
        return 1

    def describe(self, slots: int) -> Mapping[str, int | str]:
        """Return nothing: records name an engine where it is not the reference."""
        return {}

    def evaluate(self, assignment: Assignment) -> Outcome:
        """Train an assignment, save its adapter and score it. What goes wrong in it alone is its outcome."""
        training, max_length, loss_on = assignment.settings
        cost = {"seconds": 0.0}
        began = time.perf_counter()
        self.materials.prepare()
        try:
            from partune.finetune import adapter as adapters
            from partune.finetune.training import trained

            with self.materials.lent(training.dtype) as base:
                began = time.perf_counter()  # waiting for another trial to end is no cost of this one
                examples = self.materials.examples(base, max_length, loss_on)
                cost["examples"] = float(len(examples))
                with trained(base, examples, training, assignment.seed, assignment.order_seed) as tuned:
                    cost |= {"train_seconds": time.perf_counter() - began, "tokens": float(tuned.tokens)}
                    scoring_began = time.perf_counter()
                    scores = self.materials.scorer.score_one(self._answers[base.dtype], assignment.parts)
                    cost["score_seconds"] = time.perf_counter() - scoring_began
                    if assignment.adapter is not None:
                        adapters.save(tuned.model, assignment.adapter)
        except UserError:
            raise
        except Exception as error:
            cost["seconds"] = time.perf_counter() - began
            return Outcome(error, cost)
        cost["seconds"] = time.perf_counter() - began
        return Outcome(scores, cost, losses=tuned.losses)

    def score_zero(self, assignment: Assignment) -> Outcome:
        """Evaluate an assignment with learning rate 0, as any other."""
        return self.evaluate(assignment)

    def score_base(self, dtype: str, parts: frozenset[str]) -> Outcome:
        """Score the untouched base."""
        self.materials.prepare()
        with self.materials.lent(dtype) as base:
            return self._score_carried(base, parts)

    def score_kept(self, training: config.Training, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter that PEFT saved; it loads as any other."""
        return self.score_adapter(training.dtype, adapter, parts)

    def score_adapter(self, dtype: str, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter from anywhere; raise UserError where it does not fit the base."""
        from partune.finetune import adapter as adapters

        adapters.check(adapter)
        self.materials.prepare()
        with self.materials.lent(dtype) as base, adapters.loaded(base, adapter):
            return self._score_carried(base, parts)

    def _score_carried(self, base: Base, parts: frozenset[str]) -> Outcome:
        """Score the base with whatever adapter it carries."""
        answers, scorer = self._answers[base.dtype], self.materials.scorer
        return score_untrained(lambda: scorer.score_one(answers, parts), self.sizes, tokens=0.0)

    def reload(self, dtype: str, adapter: Path) -> Reloaded | None:
        """Load a kept adapter through PEFT and answer a handful of items by the harness."""
        self.materials.prepare()
        with self.materials.lent(dtype) as base:
            return reload(base, self.materials.scorer, self.materials.validation.batch_size, adapter)

    def interrupt(self) -> None:
        """Let the trial under way end: it runs in the caller's own thread, which the interrupt reaches by itself."""

    def close(self) -> None:
        """Release the bases and all that was loaded beside them."""
        self._answers.clear()
        self.materials.release()


def reload(base: Base, scorer: Scorer, batch_size: int, adapter: Path) -> Reloaded:
    """Load an adapter into a base through PEFT, and let the harness answer a handful of search items.

    Args:
        base: The base, untouched; it is so again afterwards.
        scorer: Has the items.
        batch_size: Requests per forward pass.
        adapter: The adapter's folder.
    """
    from partune.finetune import adapter as adapters
    from partune.finetune.scoring.harness import harness_model
    from partune.runtime.failures import one_line

    try:
        with adapters.loaded(base, adapter) as adapted:
            fault = adapters.unlike(adapted, adapter)
            answers = scorer.handful(harness_model(base, batch_size))
    # The harness, not a pack's likelihoods: this is how whoever is handed the adapter will score it.
    except Exception as error:  # whatever it is, others will meet it as well
        return Reloaded(one_line(error), {}, base.dtype)
    return Reloaded(fault, answers, base.dtype)
