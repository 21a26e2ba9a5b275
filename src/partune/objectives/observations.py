"""An engine's outcome as what a study is told."""

from __future__ import annotations

import numpy as np

from partune.errors import UserError
from partune.finetune.engines import Outcome
from partune.finetune.failures import cause
from partune.trial import Observation, Status
from partune.trial.names import Rung


def observation_of(outcome: Outcome, fidelity: float = 1.0) -> Observation:
    """Return an engine's outcome as an observation.

    Args:
        outcome: What became of a trial, or of a model that was scored alone.
        fidelity: Share of the full training that the trial has; a stopped one's is where it was stopped.

    Raises:
        UserError: The outcome is one: every trial would end so.
    """
    scores, cost = outcome.scores, outcome.cost
    if isinstance(scores, UserError):
        raise scores
    if isinstance(scores, Exception):
        return Observation.failure(cause(scores), cost)
    rungs = {str(Rung(rung)): score for rung, score in enumerate(outcome.rungs)}
    if outcome.stopped is not None:
        # The last rung's score is of a few items, and all that is known of the trial.
        stopped_scores = {"score": outcome.rungs[-1], **rungs}
        return Observation(stopped_scores, status=Status.STOPPED, cost=cost, fidelity=outcome.stopped)
    if scores.score is None or not np.isfinite(scores.score):
        error = f"the score is {scores.score}"
        return Observation(rungs, status=Status.FAILED, error=error, cost=cost, fidelity=fidelity)
    stderr = scores.stderr if scores.stderr is not None and np.isfinite(scores.stderr) else None
    named = {"score": scores.score, **scores.named, **rungs}
    return Observation(named, stderr, cost=cost, fidelity=fidelity, items=scores.items)
