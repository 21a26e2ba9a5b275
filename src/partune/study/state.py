"""What a process knows of a study while it runs: its trials, the runs beside them, and who leads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from partune.record.record import Record
from partune.trial import Trial
from partune.trial.names import RunName, WinnerScoring
from partune.verdict.winner import Worths, best, ranked, worths


class State:
    """The trials and baselines of a study, as far as this process has learned of them.

    Per-item results are left on disk: memory stays flat over a study.

    Attributes:
        record: The study's record.
        baselines: The latest of each run that is not one of the search's trials, by its name.
        unfinished: The numbers of the trials that are not final.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.unfinished: set[int] = set()
        self._trials: dict[int, Trial] = {}
        self._worth: tuple[int, Worths] | None = None  # with the number of trials that had ended
        with record.turn():  # trials and baselines of one moment
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
        """How many trials have ended, which is how many results the optimiser has been told."""
        return len(self._trials) - len(self.unfinished)

    def learn(self, trial: Trial) -> None:
        """Take over the latest state of a trial."""
        self._trials[trial.number] = trial
        (self.unfinished.discard if trial.status.final else self.unfinished.add)(trial.number)

    def note(self, name: RunName, final: Trial) -> Trial:
        """Put a run that is not one of the search's trials on record.

        Args:
            name: What it is called.
            final: The run, with its result.

        Returns:
            The run without its per-item results.
        """
        self.baselines[name] = light(self.record.anchor(name, final))
        return self.baselines[name]

    @property
    def worths(self) -> Worths:
        """What the trials' scores are worth (`partune.verdict.winner`)."""
        # A Gaussian process is fitted for it, which takes a while: once for as long as no further trial ends.
        if self._worth is None or self._worth[0] != self.ended:
            self._worth = self.ended, worths(self.trials, self.record.space, self.record.noisy)
        return self._worth[1]

    @property
    def winner(self) -> Trial | None:
        """The winner of what is done; None while no trial has a score."""
        return best(self.trials, self.baselines, self.worths)

    def leading(self, trials: Iterable[Trial], count: int, winner: Trial | None = None) -> list[Trial]:
        """Return the winner and the best scores.

        Args:
            trials: Those to choose among.
            count: How many to return, the winner included.
            winner: By default the one that was judged last.
        """
        judged = self.baselines.get(WinnerScoring.JUDGED)
        first = winner.config if winner is not None else None if judged is None else judged.config
        return sorted(ranked(trials), key=lambda trial: trial.config != first)[:count]

    def prune(self, leaders: Iterable[Trial]) -> None:
        """Delete the adapters of all trials but leaders and those that run."""
        self.record.artifacts.prune([*(trial.number for trial in leaders), *self.unfinished])


def scored_winner(winner: Trial | None, trials: Sequence[Trial]) -> Trial:
    """Return the winner.

    Args:
        winner: The winner, if there is one.
        trials: The study's trials, which say why not.

    Raises:
        ValueError: No trial has a score.
    """
    if winner is None:
        errors = [trial.observation.error for trial in trials if trial.observation is not None]
        raise ValueError(f"all {len(errors)} trials failed, first: {errors[0]}" if errors else "no trial has ended yet")
    return winner


def light(trial: Trial) -> Trial:
    """Return a trial without its per-item results, which are on disk."""
    assert trial.observation is not None
    return dataclasses.replace(trial, observation=dataclasses.replace(trial.observation, items={}))
