"""The search of a study: ask, submit, record, tell.

Every event is appended to the record before it has any other effect. A resumed study therefore replays its optimiser
from the record, runs interrupted trials again, and continues as if it had never stopped.

Several processes, called drivers, may run one study. A driver asks and tells only in its turn (`Record.turn`), after it
has read what the others appended. The record is therefore the same as if one process had written it.
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
from partune.study.schedule import Schedule
from partune.study.seeds import Purpose, derived_seed
from partune.study.settings import Settings
from partune.study.state import State, light
from partune.study.stopped import FutileError
from partune.trial import Observation, Status, Trial
from partune.trial.rungs import ETA, Rungs
from partune.workers.base import WorkerLostError, Workers

POLL = 1.0  # the largest number of seconds between two checks of the other drivers' progress
SAME = 3  # the number of trials that may fail with the same exception before the study stops
SPARE = 3  # adapters that a running study keeps beyond the wanted number, because the winner need not score best

UNLIMITED = 10**9  # trials, where only hours are limited

Running = dict[Future[Observation], Trial]


class Searcher:
    """An optimiser that can be restarted, and the time that it has used.

    Attributes:
        optimizer: The current optimiser, which `restart` replaces.
    """

    def __init__(
        self, algorithm: str | type[Optimizer] | Optimizer, space: Space, seed: int, settings: Settings
    ) -> None:
        """Make the optimiser.

        Args:
            algorithm: The name or class of an optimiser, or an instance that has not been asked yet.
            space: The space to search.
            seed: The study's seed.
            settings: The settings of the study, which contain the algorithm's options.
        """
        options = settings.search.options
        self.optimizer = optimizer_with(algorithm, space, seed, options)
        # An optimiser that was passed as an instance cannot be made by name. An unused copy of it is kept, and each
        # restart copies that copy.
        self._make: Callable[[], Optimizer] = (
            functools.partial(copy.deepcopy, copy.deepcopy(algorithm))
            if isinstance(algorithm, Optimizer)
            else functools.partial(optimizer_with, algorithm, space, seed, options)
        )
        self._seconds = 0.0  # the optimiser's seconds that are not recorded yet

    def restart(self) -> None:
        """Make the optimiser again."""
        self.optimizer = self._make()

    @contextmanager
    def working(self) -> Iterator[Optimizer]:
        """Return a context that adds its duration to the optimiser's seconds."""
        began = time.perf_counter()
        yield self.optimizer
        self._seconds += time.perf_counter() - began

    def take_seconds(self) -> float:
        """Return the optimiser's seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class Loop:
    """The search of one study by this driver.

    Attributes:
        running: The running trials by their futures, including confirmations and fresh runs.
        rungs: The early stopping at rungs; None if trials are not stopped early.
        out_of_time: Whether the last search ended because no further trial could end in time.
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
        """Prepare the search, and replay the record in the optimiser.

        Args:
            state: The state of the study.
            objective: The objective that is maximised.
            searcher: The optimiser, which has not been asked yet.
            seed: The study's seed.
            settings: The settings of the study.
            keeps_adapters: Whether trials leave adapters on disk.
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
        self.out_of_time = False
        self._schedule: Schedule | None = None
        self.rungs = Rungs() if settings.run.stop == "rungs" else None
        self._started_here: set[int] = set()  # the numbers of the trials that this driver is running
        self._ended_before: set[int] = set()  # the numbers of the trials that ended before this run
        self._leaders: list[Trial] = []
        searcher.optimizer.replay(state.trials)
        if self.rungs is not None:
            self.rungs.restore(state.trials)

    def count_slots(self) -> int:
        """Return the number of trials to run at once per worker; the objective may load the model to measure it."""
        slots = self._objective.count_slots()
        if self.rungs is None:
            return slots
        # With rungs, additional trials wait, so that the slot of a stopped trial is filled at once.
        return slots + math.ceil(slots * (1 - 1 / ETA))

    def search(self, pool: Workers, schedule: Schedule) -> None:
        """Keep every worker's slots filled until the budget is spent or the time is over.

        If trials run in this process, those of a pack may begin and end together. Such trials form a round, and the
        next trials are proposed only after all results of the round are told. So a repeated study makes the same
        proposals, whatever the order in which the results arrive. Worker processes do not wait for each other.

        Args:
            pool: The workers.
            schedule: What all drivers together may spend, and whether a trial can still end in time.
        """
        state, running = self._state, self.running
        self._schedule, self.out_of_time = schedule, False
        budget, slots = schedule.budget.trials or UNLIMITED, schedule.slots
        self._ended_before = {trial.number for trial in state.trials if trial.status.final}
        rounds = slots > 1 and self._objective.even and self.rungs is None and not pool.remote
        self._leaders = state.leading(state.trials, self._adapters_to_keep)
        running.clear()
        self._started_here.clear()
        meter = schedule.meter
        pause = POLL / 16
        while True:
            pool.remain(max(0, budget - state.ended))
            meter.update()
            ready: list[Trial] = []
            while len(running) + len(ready) < self._target(pool, budget, slots):
                wait_for_round = rounds and any(t.told_before < state.ended for t in (*running.values(), *ready))
                if (trial := self.next(budget, propose=not wait_for_round)) is None:
                    break
                ready.append(trial)
                if pool.remote:  # the trial runs while the optimiser is asked for the next one
                    self._submit(pool, ready)
            self._submit(pool, ready)  # all at once, so that they can form a pack
            if not running:
                if not self._waits_for_others(budget):
                    pool.remain(0)
                    return
                # Other drivers may end a trial soon or run for hours, so the pauses grow while nothing happens.
                time.sleep(pause)
                pause = min(2 * pause, POLL)
                continue
            pause = POLL / 16
            # Futures whose exceptions end the run come last, so that the other results are recorded first.
            for future in sorted(pool.first(running), key=lambda each: (_ends_the_run(each), running[each].number)):
                outcome = _outcome(future)
                seconds = {"worker_seconds": meter.take(), "search_seconds": self._searcher.take_seconds()}
                self.tell(running.pop(future), dataclasses.replace(outcome, cost={**outcome.cost, **seconds}))
                if state.ended < budget:
                    self._stop_if_futile()

    def next(self, budget: int, propose: bool = True) -> Trial | None:
        """Return the next trial, recorded as started, or None if there is no trial to start now.

        Args:
            budget: The number of trials that all drivers together may start.
            propose: Whether the optimiser may be asked. Otherwise only an interrupted trial is returned.
        """
        with self._record.turn():
            self._catch_up()
            trial = self._interrupted()
            wanted = trial is not None or len(self._state) < budget
            self.out_of_time = wanted and self._schedule is not None and not self._schedule.permits()
            if self.out_of_time:
                return None
            if trial is not None:
                trial = trial.started()
                self._record.restart(trial)
            elif propose and len(self._state) < budget:
                trial = self._proposed()
            if trial is not None:
                self._state.learn(trial)
                self._started_here.add(trial.number)
            return trial

    def tell(self, trial: Trial, observation: Observation) -> None:
        """Record a result in the order of all drivers' results, and tell it to the optimiser.

        The result is dropped if another driver has taken over the trial because it considered this driver dead.

        Args:
            trial: The trial that ended.
            observation: The result of the trial.
        """
        self._started_here.discard(trial.number)
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
                self._update_leaders(final)
                self._state.prune(self._leaders)
        self._watcher.finished(final)

    def give_up(self, pool: Workers) -> None:
        """End the running trials.

        Args:
            pool: The workers that run the trials.
        """
        pool.shutdown(wait=False, cancel_futures=True)
        # The objective is interrupted repeatedly, because a thread may start its trial just after an interruption.
        while unfinished := [future for future in self.running if not future.done()]:
            self._objective.interrupt()
            wait(unfinished, timeout=0.2)

    # ----- starting trials

    def _target(self, pool: Workers, budget: int, slots: int) -> int:
        """Return how many trials should be running: one per slot of all workers.

        With worker processes and an optimiser that learns, the number is also limited to half of the remaining budget
        or one per worker, whichever is larger. Trials that are proposed at once cannot learn from each other
        (docs/scaling.md, "Slots").
        """
        workers = max(1, pool.count)
        if not pool.remote or not self._searcher.optimizer.learns:
            return workers * slots
        return min(workers * slots, max(workers, math.ceil((budget - self._state.ended) / 2)))

    def _submit(self, pool: Workers, ready: list[Trial]) -> None:
        """Submit trials to the workers, and clear the list."""
        for trial in ready:
            self._watcher.started(trial)
            adapter = self._record.adapter(trial.number).absolute() if self._keeps_adapters else None
            judge = None if self.rungs is None else self.rungs.judge(trial.number)
            self.running[pool.submit(observed, self._objective, trial, adapter, judge)] = trial
        ready.clear()

    def _waits_for_others(self, budget: int) -> bool:
        """Return whether this driver, which has nothing to run, should wait for results or deaths of other drivers."""
        joined_and_spent = self._settings.join and len(self._state) >= budget
        unfinished = self._state.unfinished
        if self.out_of_time:  # interrupted trials stay as they are
            unfinished = {number for number in unfinished if not self._record.abandoned(number)}
        return bool(unfinished) and not joined_and_spent

    def _interrupted(self) -> Trial | None:
        """Return the first unfinished trial that no driver is running, or None."""
        elsewhere = sorted(self._state.unfinished - self._started_here)
        return next((self._state[number] for number in elsewhere if self._record.abandoned(number)), None)

    def _proposed(self) -> Trial | None:
        """Ask the optimiser for a trial, and return the trial, recorded as started."""
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

    # ----- learning from other drivers

    def _catch_up(self) -> None:
        """Read what other drivers appended. Call it only in this driver's turn, in which no other driver writes."""
        state = self._state
        news = self._record.news(len(state), state.unfinished)
        for trial in news.values():
            state.learn(light(trial) if trial.status.final else trial)
        asked, known = len(self._searcher.optimizer.proposals), len(state)
        # Since its last proposal, a sequential optimiser may have continued in another way than the other drivers'
        # optimisers. It is therefore restarted and replays the record.
        if asked > known or (asked < known and not isinstance(self._searcher.optimizer, Sampler)):
            self._searcher.restart()
        if news or asked != known:
            with self._searcher.working() as optimizer:
                optimizer.follow(state.trials)
        for trial in news.values():
            if trial.status.final:
                self._update_leaders(trial)
                self._watcher.finished(trial)

    def _update_leaders(self, final: Trial) -> None:
        """Add a trial to the leaders, whose adapters are kept, if its score is good enough."""
        self._leaders = self._state.leading([*self._leaders, light(final)], self._adapters_to_keep)

    @property
    def _adapters_to_keep(self) -> int:
        """The number of best trials whose adapters are kept while trials run; 0 if all adapters are kept."""
        kept = self._settings.kept
        return 0 if kept is None else max(kept, self._settings.search.confirm) + SPARE

    def _stop_if_futile(self) -> None:
        """Raise FutileError if SAME trials of this run failed with the same exception and no trial ever had a score.

        Failures that the configuration may have caused, such as a loss that is not finite or a lack of memory, do not
        count (`Observation.cause`).
        """
        trials = self._state.trials
        if any(trial.status in (Status.DONE, Status.STOPPED) for trial in trials):
            return
        failures: dict[str, list[str]] = {}
        for trial in trials:
            result = trial.observation
            if trial.number not in self._ended_before and result is not None and result.cause and result.error:
                failures.setdefault(result.cause, []).append(result.error)
        for errors in failures.values():
            if len(errors) >= SAME:
                raise FutileError(
                    f"{len(errors)} trials failed with the same error before any had a score: {errors[0]}. "
                    f"Correct the cause and continue: {continuing(self._record.directory)}"
                )


def _outcome(future: Future[Observation]) -> Observation:
    """Return a trial's result, which is a failure if the trial killed its workers."""
    try:
        return future.result()
    except WorkerLostError as error:
        return Observation.failure(str(error))


def _ends_the_run(future: Future[Observation]) -> bool:
    """Return whether a future ended with an exception that stops the study."""
    return not isinstance(future.exception(), (WorkerLostError, type(None)))
