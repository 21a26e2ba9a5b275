"""Stop trials early at rungs: compare them after the same shares of their schedules, and stop the worst.

A trial continues after rung k if both of these hold:

- Its score is among the best 1 / ETA of all scores ever reported at rung k. This is asynchronous successive halving in
  its stopping form (Li et al. 2020, ASHA).
- Its score is at least the median of the rung-k scores of the trials that are done, once FEW trials are done. This is
  the median stopping rule (Golovin et al. 2017). It is needed because an optimiser's later trials are better than its
  first ones, so the first rule alone would let nearly all later trials continue.

Trials that are trained together in a pack reach a rung together, and all report before one is judged, so that their
order does not matter. Schedules are not shortened: up to the point where it is stopped, a trial is exactly what it
would be without rungs.
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
FEW = 3  # the number of trials that must be done before their median counts
SHARES = (1 / 16, 1 / 4)  # the shares of a trial's steps after which it reaches rung 0, 1, ...


class Judge(Protocol):
    """An object that decides at each rung whether one trial continues."""

    def report(self, rung: int, score: float) -> None:
        """Report the trial's score at a rung.

        All trials that reach a rung together report before one of them is judged, so that their order does not matter.

        Args:
            rung: The number of the rung, from 0.
            score: The trial's score.
        """

    def stops(self, rung: int) -> bool:
        """Return whether the trial must stop at this rung."""


class Rungs:
    """Collect the scores that trials report at each rung, and decide which trials stop."""

    def __init__(self) -> None:
        self._done: set[int] = set()
        self._scores: list[dict[int, float]] = [{} for _ in SHARES]
        self._lock = threading.Lock()

    def restore(self, trials: Iterable[Trial]) -> None:
        """Load the rung scores of the trials on record."""
        for trial in trials:
            scores = trial.observation.scores if trial.observation is not None else {}
            for rung, score in rung_scores(scores).items():
                if rung < len(SHARES):
                    self.report(trial.number, rung, score)
            self.end(trial)

    def end(self, trial: Trial) -> None:
        """Record that a trial has ended. Only a trial with the status DONE counts for the median."""
        if trial.status is Status.DONE:
            with self._lock:
                self._done.add(trial.number)

    def judge(self, trial: int) -> Judge:
        """Return the judge for the trial with this number."""
        return _TrialJudge(self, trial)

    def report(self, trial: int, rung: int, score: float) -> None:
        """Record a trial's score at a rung.

        Args:
            trial: The number of the trial.
            rung: The number of the rung, from 0.
            score: The trial's score.
        """
        with self._lock:
            self._scores[rung][trial] = score

    def stops(self, trial: int, rung: int) -> bool:
        """Return whether a trial must stop at a rung.

        A trial stops if at least n / ETA (rounded down, at least one) of the n trials scored at the rung are better. It
        also stops if its score is below the median of the trials that are done, once FEW trials are done.

        Args:
            trial: The number of the trial.
            rung: The number of the rung, from 0.
        """
        with self._lock:
            scores = self._scores[rung]
            # Accuracies on few items often tie, most often at the base model's accuracy. Then the trial that was
            # proposed first counts as better.
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
    """Return the numbers of training steps after which a trial reaches each rung; () if it has too few steps."""
    stops = tuple(round(share * steps) for share in SHARES)
    return stops if stops[0] > 0 and len(set(stops)) == len(stops) else ()
