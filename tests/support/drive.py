"""Runs an optimiser as a study would, and keeps the record."""

import dataclasses
from collections.abc import Callable

from partune.optimizers import Optimizer
from partune.trial import Config, Observation, Proposal, Trial

Objective = Callable[[Config], float]


class Session:
    """An optimiser, an objective and the record of what passed between them."""

    def __init__(self, optimizer: Optimizer, objective: Objective) -> None:
        self.optimizer = optimizer
        self.objective = objective
        self.trials: list[Trial] = []

    @property
    def told(self) -> int:
        return sum(trial.told is not None for trial in self.trials)

    @property
    def pending(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.told is None]

    def ask(self, n: int = 1) -> list[Proposal]:
        proposals = self.optimizer.ask(n)
        for each in proposals:
            trial = Trial(each.number, each.config, each.point, notes=each.notes, told_before=self.told)
            self.trials.append(trial.started())
        return proposals

    def tell(self, trial: Trial) -> None:
        observation = Observation.of(self.objective(trial.config))
        self.trials[trial.number] = trial.finished(observation, told=self.told)
        self.optimizer.tell(trial.proposal, observation)

    def resumed(self, optimizer: Optimizer) -> "Session":
        """The same session on a fresh optimiser, rebuilt from the record; what was running starts again."""
        other = Session(optimizer, self.objective)
        other.trials = [dataclasses.replace(trial) for trial in self.trials]
        optimizer.replay(other.trials)
        return other


def drive(optimizer: Optimizer, objective: Objective, budget: int) -> list[Trial]:
    """One proposal at a time, each told at once, until the budget is spent or the search is finished."""
    session = Session(optimizer, objective)
    while len(session.trials) < budget and session.ask():
        session.tell(session.trials[-1])
    assert len(session.trials) == budget or optimizer.finished
    return session.trials
