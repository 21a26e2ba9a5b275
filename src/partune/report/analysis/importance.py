"""Which hyperparameters the score depends on: functional ANOVA of a random forest.

F. Hutter, H. Hoos, K. Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014; as Optuna
has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from partune.space import Space
from partune.space.distributions import distribution, quiet
from partune.trial import Trial

MOST = 200  # trials: the time grows with their square, and is seconds here
TREES = 32
FEW = 20  # trials, below which the shares are a guess


@dataclass(frozen=True)
class Importance:
    """shares: of the scores' variance, by hyperparameter, the largest first; they sum to 1.

    trials: how many it was computed from, of how many that were done.
    left_out: hyperparameters that do not exist in every trial, or never changed.
    """

    shares: Mapping[str, float]
    trials: int
    done: int
    left_out: tuple[str, ...]

    @property
    def rough(self) -> bool:
        return self.trials < FEW


def importance(space: Space, done: Sequence[Trial]) -> Importance | None:
    """done: the trials with a score. None where there is nothing to tell: one score, or one hyperparameter."""
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
    with quiet():
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            create_trial(
                params={name: trial.config[name] for name in names}, distributions=distributions, value=trial.score
            )
            for trial in trials
        )
        evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=0)
        found = get_param_importances(study, evaluator=evaluator, params=list(names))
    return {name: float(share) for name, share in found.items()}
