"""The state of a running study in one process: its trials, its runs outside the search, and its winner."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from partune.record.record import Record
from partune.trial import Trial
from partune.trial.names import RunName, WinnerScoring
from partune.verdict.winner import Worths, best, ranked, worths


class State:
    """The trials and other runs of a study that this process has read from the record or added to it.

    Per-item results stay on disk, so that memory does not grow with them.

    Attributes:
        record: The study's record.
        baselines: The latest result of each run outside the search (baselines, confirmations, fresh runs and the
            winner's scorings), by the run's name.
        unfinished: The numbers of the trials that have not ended.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.unfinished: set[int] = set()
        self._trials: dict[int, Trial] = {}
        self._worth: tuple[int, Worths] | None = None  # the number of ended trials, and the worths after them
        with record.turn():  # no driver can append between the two reads
            for trial in record.trials():
                self.learn(trial)
            self.baselines: dict[RunName, Trial] = record.anchors()

    @property
    def trials(self) -> list[Trial]:
        """The trials in the order of their numbers."""
        return [self._trials[number] for number in sorted(self._trials)]

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def ended(self) -> int:
        """The number of trials that have ended, which is the number of results told to the optimiser."""
        return len(self._trials) - len(self.unfinished)

    def learn(self, trial: Trial) -> None:
        """Store the latest version of a trial."""
        self._trials[trial.number] = trial
        (self.unfinished.discard if trial.status.final else self.unfinished.add)(trial.number)

    def note(self, name: RunName, final: Trial) -> Trial:
        """Record a run outside the search.

        Args:
            name: The name of the run.
            final: The run, with its result.

        Returns:
            The run without its per-item results.
        """
        self.baselines[name] = light(self.record.anchor(name, final))
        return self.baselines[name]

    @property
    def worths(self) -> Worths:
        """The worth of each trial that is done, by number. `partune.verdict.winner` computes it to choose the winner.

        It is the trial's score, corrected for the part that is due to chance.
        """
        # The worths need the fit of a Gaussian process, which takes time. They are cached until another trial ends.
        if self._worth is None or self._worth[0] != self.ended:
            self._worth = self.ended, worths(self.trials, self.record.space, self.record.noisy)
        return self._worth[1]

    @property
    def winner(self) -> Trial | None:
        """The winner among the trials so far; None if no trial has a score."""
        return best(self.trials, self.baselines, self.worths)

    def leading(self, trials: Iterable[Trial], count: int, winner: Trial | None = None) -> list[Trial]:
        """Return the winner followed by the trials with the best scores.

        Args:
            trials: The trials to choose from.
            count: The largest number of trials to return, including the winner.
            winner: The winner; by default the winner that was last scored on the verdict items.
        """
        judged = self.baselines.get(WinnerScoring.JUDGED)
        first = winner.config if winner is not None else None if judged is None else judged.config
        return sorted(ranked(trials), key=lambda trial: trial.config != first)[:count]

    def prune(self, leaders: Iterable[Trial]) -> None:
        """Delete the adapters of all trials except the leaders and the running trials."""
        self.record.artifacts.prune([*(trial.number for trial in leaders), *self.unfinished])


def scored_winner(winner: Trial | None, trials: Sequence[Trial]) -> Trial:
    """Return the winner, or raise an error that says why there is none.

    Args:
        winner: The winner, if there is one.
        trials: The study's trials, whose errors are used in the message.

    Raises:
        ValueError: No trial has a score.
    """
    if winner is None:
        errors = [trial.observation.error for trial in trials if trial.observation is not None]
        raise ValueError(f"all {len(errors)} trials failed, first: {errors[0]}" if errors else "no trial has ended yet")
    return winner


def light(trial: Trial) -> Trial:
    """Return an ended trial without its per-item results, which are on disk."""
    assert trial.observation is not None
    return dataclasses.replace(trial, observation=dataclasses.replace(trial.observation, items={}))
