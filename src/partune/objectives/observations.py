"""Convert the outcome of a fine-tuning engine into an observation."""

from __future__ import annotations

from typing import Any

import numpy as np

from partune.errors import UserError
from partune.finetune.engines import Outcome
from partune.finetune.failures import cause
from partune.trial import Observation, Status
from partune.trial.names import POINTS, TRAINING_LOSS, Rung


def observation_of(outcome: Outcome, fidelity: float = 1.0) -> Observation:
    """Convert an engine's outcome into an observation.

    Args:
        outcome: The outcome of a trial, or of a model that was scored without training.
        fidelity: The share of the full training that the trial was to run. For a trial that was stopped early, the
            share after which it was stopped is used instead.

    Raises:
        UserError: The outcome holds a UserError, which every other trial would raise too.
    """
    scores, cost = outcome.scores, outcome.cost
    if isinstance(scores, UserError):
        raise scores
    if isinstance(scores, Exception):
        return Observation.failure(cause(scores), cost)
    rungs = {str(Rung(rung)): score for rung, score in enumerate(outcome.rungs)}
    if outcome.stopped is not None:
        # The score at the last rung is from few items, but a stopped trial has no better estimate.
        stopped_scores = {"score": outcome.rungs[-1], **rungs}
        return Observation(stopped_scores, status=Status.STOPPED, cost=cost, fidelity=outcome.stopped)
    if scores.score is None or not np.isfinite(scores.score):
        error = f"the score is {scores.score}"
        return Observation(rungs, status=Status.FAILED, error=error, cost=cost, fidelity=fidelity)
    stderr = scores.stderr if scores.stderr is not None and np.isfinite(scores.stderr) else None
    named = {"score": scores.score, **scores.named, **rungs}
    if outcome.selected is not None:
        named["selected"] = float(outcome.selected)
    return Observation(named, stderr, cost=cost, fidelity=fidelity, items={**scores.items, **_course(outcome)})


def _course(outcome: Outcome) -> dict[str, np.ndarray[Any, Any]]:
    """Return the curves of a training: the loss of each step, and the steps and scores at its scored points."""
    course = {} if outcome.losses is None else {TRAINING_LOSS: outcome.losses.astype(np.float32)}
    return course | ({POINTS: np.array(outcome.points)} if outcome.points else {})
