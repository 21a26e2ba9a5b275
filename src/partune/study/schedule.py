"""Plan a search with a limit in hours, so that the verdict is there in time.

A trial begins only if it is expected to end early enough for everything that follows the search: confirmations, fresh
runs, and the winner's scores on held-out items. What these take is predicted from the trials and baselines that have
ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

from partune.report.words import several, span
from partune.study.budget import Budget
from partune.study.settings import Settings
from partune.study.state import State
from partune.trial import Status, Trial
from partune.trial.names import Baseline, Confirmation, FreshRun, FurtherBaseline
from partune.verdict.winner import further_baselines, halvings, ranked
from partune.workers.base import Meter, Workers

USUAL = 0.9  # the share of the trials that end within the expected duration
DAY = 24 * 3600.0
LEADERS = 3  # the number of best trials, each of which may win
SPARE = 1.1  # how much longer than predicted the runs after the search may take


class Schedule:
    """Say whether another trial can begin, so that the study ends within its hours.

    Attributes:
        budget: What the study may spend.
        slots: The number of trials that each worker runs at once.
        meter: The meter of the workers' seconds, from now on.
    """

    def __init__(self, state: State, settings: Settings, budget: Budget, pool: Workers, slots: int) -> None:
        """Prepare a search.

        Args:
            state: The state of the study.
            settings: The settings of the study.
            budget: What the study may spend.
            pool: The workers of this process.
            slots: The number of trials that each worker runs at once.
        """
        self.budget, self.slots, self.meter = budget, slots, Meter(pool)
        self._state, self._settings, self._pool = state, settings, pool

    @property
    def limited(self) -> bool:
        """Whether the budget has a limit in hours."""
        return bool(self.budget.time_limits)

    def permits(self) -> bool:
        """Return whether a trial that begins now is expected to end early enough for the verdict."""
        return not self.limited or self.left() >= self.trial() + self.ending()

    def left(self) -> float:
        """Return the seconds of the clock that are left; infinity without a limit in hours."""
        left = math.inf
        if self.budget.deadline is not None:
            left = self.budget.deadline - time.time()
        if self.budget.device_hours is not None:
            spent = device_seconds(self._state) + self.meter.pending
            left = min(left, (3600 * self.budget.device_hours - spent) / max(1, self._pool.count))
        return left

    def trial(self) -> float:
        """Return the seconds within which a trial is expected to end, if all slots are filled."""
        # The seconds of a trial in a pack are its share of the pack's, which has a trial in each slot.
        return self.slots * self._usual()

    def _usual(self) -> float:
        """Return the seconds that most trials take at most, each alone or as its share of a pack."""
        if seconds := [_seconds(trial) for trial in self._state.trials if trial.status is Status.DONE]:
            return float(np.quantile(seconds, USUAL))
        baseline = self._state.baselines.get(Baseline.DEFAULTS)
        return 0.0 if baseline is None else _seconds(baseline)

    def ending(self) -> float:
        """Return the seconds that everything after the search is expected to take."""
        baselines, search = self._state.baselines, self._settings.search
        leaders = [_seconds(trial) for trial in ranked(self._state.trials)[: max(LEADERS, search.confirm)]]
        winner = max(leaders, default=self._usual())
        seconds = 0.0
        if not any(isinstance(name, Confirmation) for name in baselines):
            seconds += sum(self._together([winner] * size) for size in halvings(search.confirm))
        if (base := baselines.get(Baseline.BASE)) is not None:
            runs = [winner, *map(_seconds, self._without_fresh_runs())] * search.seeds
            # Runs also score the held-out items. The winner's adapter is scored on all items, and loaded again.
            scoring = _seconds(base)
            seconds += self._together([run + scoring for run in runs]) + 2 * scoring
        return SPARE * seconds

    def _without_fresh_runs(self) -> list[Trial]:
        """Return the first runs of the baselines whose fresh runs are missing."""
        baselines = self._state.baselines
        compared: list[Literal[Baseline.DEFAULTS] | FurtherBaseline] = [
            Baseline.DEFAULTS,
            *further_baselines(baselines),
        ]
        missing = [name for name in compared if FreshRun(name, self._settings.search.seeds) not in baselines]
        return [baselines[name] for name in missing if name in baselines]

    def _together(self, runs: Sequence[float]) -> float:
        """Return how long runs of some seconds take on all workers, at most; Graham 1969, on list scheduling."""
        workers = max(1, self._pool.count)
        return sum(runs) / workers + (1 - 1 / workers) * self.slots * max(runs, default=0.0)

    def expected(self) -> int | None:
        """Return the number of further trials for which there is room; None while no trial or baseline has ended."""
        done = [_seconds(trial) for trial in self._state.trials if trial.status is Status.DONE]
        each = float(np.median(done)) if done else self._usual()
        room = self.left() - self.ending()
        return max(0, int(max(1, self._pool.count) * room / each)) if each else None

    @property
    def sentence(self) -> str:
        """What is planned, for the user."""
        until = ""
        if self.budget.deadline is not None:
            form = "%H:%M" if self.left() < DAY else "%Y-%m-%d %H:%M"
            until = f" until {time.strftime(form, time.localtime(self.budget.deadline))}"
        room = self.expected()
        trials = (
            "nobody knows yet how long a trial takes" if room is None else f"room for about {several(room, 'trial')}"
        )
        ending = self.ending()
        after = f"; about {span(ending)} of it for the runs after the search and the verdict" if ending else ""
        return f"{span(max(0.0, self.left()))} left{until}{after}: {trials}."


def device_seconds(state: State) -> float:
    """Return the seconds of all workers that a study has spent, busy or idle, from its record."""
    trials = [trial.observation for trial in state.trials if trial.observation is not None]
    outside = [trial.observation for trial in state.baselines.values() if trial.observation is not None]
    return sum(observation.cost.get("worker_seconds", 0.0) for observation in trials) + sum(
        observation.cost.get("worker_seconds", observation.cost.get("seconds", 0.0)) for observation in outside
    )


def _seconds(trial: Trial) -> float:
    """Return how long a trial that has ended took."""
    return 0.0 if trial.observation is None else trial.observation.cost.get("seconds", 0.0)
