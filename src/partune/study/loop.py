"""The search of a study: ask, submit, record, tell.

Whatever happens is appended to the record before anything else learns of it. A resumed study therefore replays its
optimiser from the record, runs what was interrupted once more, and goes on as if it had never stopped.

Several processes may drive one study. Each asks and tells in its turn (`Record.turn`), after it has learned what the
others appended, so that the record is as one process would have written it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager

from partune.objectives.base import Objective, observed
from partune.optimizers import optimizer_with
from partune.optimizers.base import Optimizer, Sampler
from partune.space import Space
from partune.study.calls import continuing
from partune.study.seeds import Purpose, derived_seed
from partune.study.settings import Settings
from partune.study.state import State, light
from partune.study.stopped import FutileError
from partune.trial import Observation, Status, Trial
from partune.trial.rungs import ETA, Rungs
from partune.workers.base import Meter, WorkerLostError, Workers

POLL = 1.0  # seconds between two looks at what other drivers do, at most
SAME = 3  # trials that one exception may end before any has a score
SPARE = 3  # adapters kept beyond those asked for while a study runs, as its winner need not be the best score

Running = dict[Future[Observation], Trial]


class Searcher:
    """An optimiser that can be made again, and the seconds in which it worked.

    Attributes:
        optimizer: The optimiser as it stands; another object once it was made again.
    """

    def __init__(
        self, algorithm: str | type[Optimizer] | Optimizer, space: Space, seed: int, settings: Settings
    ) -> None:
        """Make the optimiser.

        Args:
            algorithm: Its name, class or instance, which was asked nothing yet.
            space: What it searches.
            seed: The study's seed.
            settings: The study's, for the algorithm's options.
        """
        options = settings.search.options
        self.optimizer = optimizer_with(algorithm, space, seed, options)
        # An instance cannot be made by name: the copy that is kept is copied each time, so that it stays fresh.
        self._make: Callable[[], Optimizer] = (
            functools.partial(copy.deepcopy, copy.deepcopy(algorithm))
            if isinstance(algorithm, Optimizer)
            else functools.partial(optimizer_with, algorithm, space, seed, options)
        )
        self._seconds = 0.0  # not yet on record

    def restart(self) -> None:
        """Make the optimiser again."""
        self.optimizer = self._make()

    @contextmanager
    def working(self) -> Iterator[Optimizer]:
        """Count the seconds in which the optimiser works."""
        began = time.perf_counter()
        yield self.optimizer
        self._seconds += time.perf_counter() - began

    def take_seconds(self) -> float:
        """Return the seconds since they were last taken."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class Loop:
    """The search of one study by this driver.

    Attributes:
        running: What runs, by its future; confirmations and fresh runs are in it as well.
        rungs: What stops trials early; None where none is.
    """

    def __init__(
        self,
        state: State,
        objective: Objective,
        searcher: Searcher,
        seed: int,
        settings: Settings,
        keeps_adapters: bool,
    ) -> None:
        """Continue the search where its record stands.

        Args:
            state: What is known of the study.
            objective: What is searched.
            searcher: Its optimiser, asked nothing yet.
            seed: The study's seed.
            settings: The study's.
            keeps_adapters: Whether trials leave adapters.
        """
        self._state = state
        self._record = state.record
        self._objective = objective
        self._searcher = searcher
        self._seed = seed
        self._settings = settings
        self._watcher = settings.watcher
        self._keeps_adapters = keeps_adapters
        self.running: Running = {}
        self.rungs = Rungs() if settings.run.stop == "rungs" else None
        self._own_numbers: set[int] = set()  # numbers of the trials that this driver runs
        self._ended_before: set[int] = set()  # numbers of the trials that ended before this run
        self._leaders: list[Trial] = []
        searcher.optimizer.replay(state.trials)
        if self.rungs is not None:
            self.rungs.restore(state.trials)

    def count_slots(self) -> int:
        """Return how many trials to have under way per worker; the objective may load and measure for it."""
        slots = self._objective.count_slots()
        if self.rungs is None:
            return slots
        return slots + math.ceil(
            slots * (1 - 1 / ETA)
        )  # some wait, so that a slot that a rung empties is filled at once

    def search(self, pool: Workers, budget: int, slots: int) -> None:
        """Keep every worker's slots filled until the budget is spent.

        Trials that begin together in the slots of this process and end together make rounds: the next is proposed when
        all of one are told, whatever the order in which they arrive, so that a study of packs proposes the same when it
        is run again. Worker processes never wait for each other's trials.

        Args:
            pool: The workers.
            budget: Trials that may be started in all, by all drivers.
            slots: How many trials to have under way per worker.
        """
        state, running = self._state, self.running
        self._ended_before = {trial.number for trial in state.trials if trial.status.final}
        rounds = slots > 1 and self._objective.even and self.rungs is None and not pool.remote
        self._leaders = state.leading(state.trials, self._spared)
        running.clear()
        self._own_numbers.clear()
        meter = Meter(pool)
        pause = POLL / 16
        while True:
            pool.remain(max(0, budget - state.ended))
            meter.look()
            ready: list[Trial] = []
            while len(running) + len(ready) < self._most(pool, budget, slots):
                wait_for_round = rounds and any(t.told_before < state.ended for t in (*running.values(), *ready))
                if (trial := self.next(budget, propose=not wait_for_round)) is None:
                    break
                ready.append(trial)
                if pool.remote:  # it runs while the next is asked for
                    self._begin(pool, ready)
            self._begin(pool, ready)  # all at once, so that they can make a pack
            if not running:
                if not self._others_matter(budget):
                    pool.remain(0)
                    return
                # Other drivers may end a trial soon, or run for hours: looks become rarer while nothing happens.
                time.sleep(pause)
                pause = min(2 * pause, POLL)
                continue
            pause = POLL / 16
            # What ends the run comes last: results that are there already are put on record before.
            for future in sorted(
                pool.first(running), key=lambda future: (_ends_the_run(future), running[future].number)
            ):
                outcome = _outcome(future)
                seconds = {"worker_seconds": meter.take(), "search_seconds": self._searcher.take_seconds()}
                self.tell(running.pop(future), dataclasses.replace(outcome, cost={**outcome.cost, **seconds}))
                if state.ended < budget:
                    self._stop_where_futile()

    def next(self, budget: int, propose: bool = True) -> Trial | None:
        """Return the next trial, recorded as started; None where there is nothing to start now.

        Args:
            budget: Trials that may be started in all.
            propose: Whether the optimiser may be asked; else only what was interrupted runs.
        """
        with self._record.turn():
            self._catch_up()
            trial = self._interrupted()
            if trial is not None:
                trial = trial.started()
                self._record.restart(trial)
            elif propose and len(self._state) < budget:
                trial = self._proposed()
            if trial is not None:
                self._state.learn(trial)
                self._own_numbers.add(trial.number)
            return trial

    def tell(self, trial: Trial, observation: Observation) -> None:
        """Record a result, in its place among those of all drivers.

        It is dropped where this driver was taken for dead meanwhile and another runs, or ran, the trial.

        Args:
            trial: The trial that ended.
            observation: Its result.
        """
        self._own_numbers.discard(trial.number)
        with self._record.turn():
            self._catch_up()
            if self._state[trial.number].status.final or not self._record.mine(trial.number):
                return
            final = trial.finished(observation, told=self._state.ended)
            self._record.finish(final)
            self._state.learn(light(final))
            with self._searcher.working() as optimizer:
                optimizer.tell(final.proposal, observation.blinded())
            if self.rungs is not None:
                self.rungs.end(final)
            if self._keeps_adapters and self._settings.kept is not None:
                self._lead(final)
                self._state.prune(self._leaders)
        self._watcher.finished(final)

    def give_up(self, pool: Workers) -> None:
        """End what runs.

        Args:
            pool: The workers that run it.
        """
        pool.shutdown(wait=False, cancel_futures=True)
        # Again and again: a thread may only be about to hand its trial in when it is interrupted.
        while left := [future for future in self.running if not future.done()]:
            self._objective.interrupt()
            wait(left, timeout=0.2)

    # ----- what to start

    def _most(self, pool: Workers, budget: int, slots: int) -> int:
        """Return how many trials to have under way: as many as there are slots.

        Of worker processes with several slots each, an optimiser that learns is asked for half of what remains at
        most, or for one per worker: what is asked for at once is asked for blindly (docs/scaling.md, "Slots").
        """
        workers = max(1, pool.count)
        if not pool.remote or not self._searcher.optimizer.learns:
            return workers * slots
        return min(workers * slots, max(workers, math.ceil((budget - self._state.ended) / 2)))

    def _begin(self, pool: Workers, ready: list[Trial]) -> None:
        """Hand trials to the workers, and take them from the list."""
        for trial in ready:
            self._watcher.started(trial)
            adapter = self._record.adapter(trial.number).absolute() if self._keeps_adapters else None
            judge = None if self.rungs is None else self.rungs.judge(trial.number)
            self.running[pool.submit(observed, self._objective, trial, adapter, judge)] = trial
        ready.clear()

    def _others_matter(self, budget: int) -> bool:
        """Return whether a driver with nothing to run waits for the trials of others: for their results or deaths."""
        joined_and_spent = self._settings.join and len(self._state) >= budget
        return bool(self._state.unfinished) and not joined_and_spent

    def _interrupted(self) -> Trial | None:
        """Return the first trial that nobody runs any more."""
        waiting = sorted(self._state.unfinished - self._own_numbers)
        return next((self._state[number] for number in waiting if self._record.abandoned(number)), None)

    def _proposed(self) -> Trial | None:
        """Return what the optimiser proposes, recorded as started."""
        with self._searcher.working() as optimizer:
            proposals = optimizer.ask(1)
        if not proposals:
            if optimizer.finished:
                self._watcher.exhausted()
            return None
        (proposal,) = proposals
        trial = Trial(
            proposal.number,
            proposal.config,
            proposal.point,
            seed=derived_seed(self._seed, Purpose.SEARCH, proposal.number),
            notes=proposal.notes,
            told_before=self._state.ended,
        ).started()
        self._record.propose(trial)
        return trial

    # ----- what to learn

    def _catch_up(self) -> None:
        """Learn what other drivers appended. Nobody else writes meanwhile: it is this driver's turn."""
        state = self._state
        news = self._record.news(len(state), state.unfinished)
        for trial in news.values():
            state.learn(light(trial) if trial.status.final else trial)
        asked, known = len(self._searcher.optimizer.proposals), len(state)
        # A sequential optimiser may have gone on beyond its last proposal, on a way that is not the one the others
        # took: it is made again from the record.
        if asked > known or (asked < known and not isinstance(self._searcher.optimizer, Sampler)):
            self._searcher.restart()
        if news or asked != known:
            with self._searcher.working() as optimizer:
                optimizer.follow(state.trials)
        for trial in news.values():
            if trial.status.final:
                self._lead(trial)
                self._watcher.finished(trial)

    def _lead(self, final: Trial) -> None:
        """Take a trial among the leaders, whose adapters stay, where it is one."""
        self._leaders = self._state.leading([*self._leaders, light(final)], self._spared)

    @property
    def _spared(self) -> int:
        """How many adapters of the best stay while trials run; none are counted where all stay."""
        kept = self._settings.kept
        return 0 if kept is None else max(kept, self._settings.search.confirm) + SPARE

    def _stop_where_futile(self) -> None:
        """Raise FutileError where one exception ended SAME trials of this run, and no trial has ever had a score.

        What a configuration alone may be to blame for, a loss that is not finite or memory that ran out, is no
        exception's failure (`Observation.cause`).
        """
        trials = self._state.trials
        if any(trial.status in (Status.DONE, Status.STOPPED) for trial in trials):
            return
        failures: dict[str, list[str]] = {}
        for trial in trials:
            if trial.number not in self._ended_before and (seen := trial.observation) and seen.cause and seen.error:
                failures.setdefault(seen.cause, []).append(seen.error)
        for errors in failures.values():
            if len(errors) >= SAME:
                raise FutileError(
                    f"{len(errors)} trials failed with the same error before any had a score: {errors[0]}. "
                    f"Correct that, and continue: {continuing(self._record.directory)}"
                )


def _outcome(future: Future[Observation]) -> Observation:
    """Return a trial's result; one that killed its workers has failed."""
    try:
        return future.result()
    except WorkerLostError as error:
        return Observation.failure(str(error))


def _ends_the_run(future: Future[Observation]) -> bool:
    """Return whether a future has no result to tell, but a reason to stop."""
    return not isinstance(future.exception(), (WorkerLostError, type(None)))
