"""Early stopping in rungs: trials are compared at equal shares of their own full schedules, and the worst end there.

At rung k a trial goes on if both hold:

- its score is among the best 1 / ETA of all that were ever scored at rung k: asynchronous successive halving (Li et al.
  2020, ASHA) in its stopping form;
- it is at least the median, at rung k, of the trials that are done, once these are FEW: the median stopping rule
  (Golovin et al. 2017). An optimiser's later trials are better than its first and would nearly all pass the other.

Trials of a pack stand at a rung together and all report before one is judged, so their order does not matter. No
schedule is shortened: a trial at a rung is what it would be there without rungs, and one that survives is the very
trial of a study without.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from partune.trial import Status, Trial
from partune.trial.names import rung_scores

ETA = 4
FEW = 3  # trials that have to be done for their median to count
SHARES = (1 / 16, 1 / 4)  # of a trial's steps, at which it stands at rung 0, 1, ...


class Judge(Protocol):
    """What tells a trial at a rung whether it goes on."""

    def report(self, rung: int, score: float) -> None:
        """Report the trial's score at a rung.

        All trials that stand there report before one of them is judged, so that their order does not matter.

        Args:
            rung: Which rung, from 0.
            score: The score.
        """

    def stops(self, rung: int) -> bool:
        """Return whether the trial ends at this rung."""


class Rungs:
    """The scores that trials reported at each rung, and which trials are done."""

    def __init__(self) -> None:
        self._done: set[int] = set()
        self._scores: list[dict[int, float]] = [{} for _ in SHARES]
        self._lock = threading.Lock()

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take over the scores that recorded trials had at their rungs."""
        for trial in trials:
            scores = trial.observation.scores if trial.observation is not None else {}
            for rung, score in rung_scores(scores).items():
                if rung < len(SHARES):
                    self.report(trial.number, rung, score)
            self.end(trial)

    def end(self, trial: Trial) -> None:
        """Take note of a trial that has ended; only those that are done count."""
        if trial.status is Status.DONE:
            with self._lock:
                self._done.add(trial.number)

    def judge(self, trial: int) -> Judge:
        """Return the judge of one trial, by its number."""
        return _TrialJudge(self, trial)

    def report(self, trial: int, rung: int, score: float) -> None:
        """Take note of a trial's score at a rung.

        Args:
            trial: The trial's number.
            rung: Which rung, from 0.
            score: The score.
        """
        with self._lock:
            self._scores[rung][trial] = score

    def stops(self, trial: int, rung: int) -> bool:
        """Return whether a trial ends at a rung.

        It does if n / ETA of the rung's n trials, rounded down but at least one, are better; or if half of those are
        that are done.

        Args:
            trial: The trial's number.
            rung: Which rung, from 0.
        """
        with self._lock:
            scores = self._scores[rung]
            # Of equals the first proposed is better: accuracies on few items often tie, above all with the base's.
            rank = scores[trial], -trial
            better = sum((score, -other) > rank for other, score in scores.items())
            done = [scores[number] for number in self._done if number in scores]
            below = len(done) >= FEW and scores[trial] < statistics.median(done)
            return below or better >= max(1, len(scores) // ETA)


@dataclass(frozen=True)
class _TrialJudge:
    """The judge of one trial."""

    rungs: Rungs
    trial: int

    def report(self, rung: int, score: float) -> None:
        self.rungs.report(self.trial, rung, score)

    def stops(self, rung: int) -> bool:
        return self.rungs.stops(self.trial, rung)


def rung_steps(steps: int) -> tuple[int, ...]:
    """Return after how many of its optimiser steps a trial stands at each rung; () if steps are too few for rungs."""
    stops = tuple(round(share * steps) for share in SHARES)
    return stops if stops[0] > 0 and len(set(stops)) == len(stops) else ()
