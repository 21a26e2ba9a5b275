"""Compute how much the score depends on each hyperparameter, with Optuna's functional ANOVA of a random forest.

F. Hutter, H. Hoos, K. Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from partune.space import Space
from partune.space.distributions import distribution, quiet
from partune.trial import Trial

MOST = 200  # the largest number of trials used; the time grows with its square, and is some seconds for this number
TREES = 32
FEW = 20  # with fewer trials, the shares are only a guess


@dataclass(frozen=True)
class Importance:
    """How much of the scores' variance each hyperparameter explains.

    Attributes:
        shares: The share of the variance by hyperparameter, the largest first. The shares sum to 1.
        trials: The number of trials that the shares were computed from.
        done: The number of trials that have a score.
        left_out: The hyperparameters that do not exist in every trial, or never varied.
    """

    shares: Mapping[str, float]
    trials: int
    done: int
    left_out: tuple[str, ...]

    @property
    def rough(self) -> bool:
        """Whether there are too few trials for the shares to be more than a guess."""
        return self.trials < FEW


def importance(space: Space, done: Sequence[Trial]) -> Importance | None:
    """Return the importances; None if all scores are equal, or fewer than two hyperparameters vary.

    Args:
        space: The study's space.
        done: The trials that have a score.
    """
    chosen = list(done)
    if len(chosen) > MOST:
        chosen = [chosen[k] for k in np.sort(np.random.default_rng(0).choice(len(chosen), MOST, replace=False))]
    varied = [name for name in space.names if len({trial.config.get(name) for trial in chosen}) > 1]
    common = [name for name in varied if all(name in trial.config for trial in chosen)]
    if len({trial.score for trial in chosen}) < 2 or len(common) < 2:
        return None
    shares = _fanova(space, chosen, common)
    left_out = tuple(name for name in space.names if name not in shares)
    return Importance(shares, len(chosen), len(done), left_out)


def _fanova(space: Space, trials: Sequence[Trial], names: Sequence[str]) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    distributions = {name: distribution(space.hyperparameters[name]) for name in names}
    with quiet():  # Optuna would log that it creates a study, which does not concern the user
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            create_trial(
                params={name: trial.config[name] for name in names}, distributions=distributions, value=trial.score
            )
            for trial in trials
        )
        evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=0)
        shares = get_param_importances(study, evaluator=evaluator, params=list(names))
    return {name: float(share) for name, share in shares.items()}
