"""The class `Study`: a search with its record, with baselines before it and a verdict after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Unpack

from partune.errors import UserError, shown
from partune.objectives.base import Anchored, Objective, not_searched
from partune.objectives.function import as_objective
from partune.optimizers.base import Optimizer
from partune.record.record import Record
from partune.report.words import span
from partune.runtime.paths import as_path
from partune.runtime.preemption import terminated_as_interrupted
from partune.runtime.urls import masked
from partune.space import Space
from partune.study import opening
from partune.study.baselines import Baselines, Ending
from partune.study.budget import Budget
from partune.study.calls import Calls, continuing
from partune.study.loop import Loop, Searcher
from partune.study.schedule import Schedule
from partune.study.settings import Keywords, Settings
from partune.study.state import State, scored_winner
from partune.study.stopped import StoppedError
from partune.trial import Config, Observation, Trial
from partune.trial.contents import Contents, as_data
from partune.trial.names import RunName
from partune.verdict.paired import Verdict
from partune.verdict.winner import judge
from partune.workers.base import Workers, in_process


class Study:
    """A search for the best configuration in a space, with an objective, an optimiser and a record.

    Attributes:
        space: The space that is searched, without the hyperparameters that the objective's settings fix.
        objective: The objective that is maximised.
        seed: The study's seed.
        settings: The checked keyword arguments.
        watcher: The watcher that is told of the study's progress.
        record: The record of the study.
    """

    def __init__(
        self,
        space: Space,
        objective: str | Objective | Callable[[Config], Observation | float],
        algorithm: str | type[Optimizer] | Optimizer = "auto",
        seed: int = 0,
        directory: str | Path | None = None,
        **keywords: Unpack[Keywords],
    ) -> None:
        """Begin a study, or open one to continue it. Nothing is evaluated yet.

        Args:
            space: The hyperparameters to search.
            objective: A function that takes a configuration (a dict) and returns a number (higher is better), an
                `Objective` such as `FineTune`, or the name of either (`branin`, `package.module:function`).
            algorithm: The name of an optimiser (`auto` is the best by measurement), `package.module:Class`, a class, or
                an instance that has not been asked yet.
            seed: The seed of everything random. Studies with the same seed and results make the same proposals.
            directory: The folder of the record; None keeps the record in memory. A folder that exists is refused unless
                the study is resumed or joined.
            **keywords: `options` (of the algorithm), `keep`, `confirm`, `seeds`, `ship` and `stop` as in a study's
                file; `noisy`, `resume`, `join`, `storage`, `config`, `watcher` and `workers` as described by `Keywords`
                in `partune.study.settings`.

        Raises:
            UserError: An argument is not valid, the directory contains another study, or the objective cannot work.
        """
        if not isinstance(space, Space):
            raise UserError(f"a study needs a partune.Space, got {type(space).__name__}")
        if not isinstance(directory, str | Path | None):
            raise UserError(f"a study's directory must be a path, or None for memory, got {shown(directory)}")
        self.settings = settings = Settings.of(**keywords)
        self.seed = seed
        self.watcher = settings.watcher
        self.objective = as_objective(objective)
        tuned = self.objective if isinstance(self.objective, Anchored) else None
        _check_rungs(self.objective, settings)
        folder = None if directory is None else as_path(directory)
        exists = folder is not None and folder.exists()
        self.space = space if tuned is None else self._without_fixed(space, tuned, folder if exists else None)
        searcher = Searcher(algorithm, self.space, seed, settings)
        header = opening.header_of(algorithm, seed, self.objective, settings)
        if tuned is not None and folder is None:
            raise UserError("a fine-tuning study keeps adapters, so it needs a directory")
        if settings.join and not exists:
            raise UserError(f"no study in {folder} to join")
        recorded = None
        if folder is not None and exists:
            recorded = opening.matching(folder, self.space, header, settings)
            self.objective.recall(recorded.loaded)
            self.objective.expect(recorded.contents)
        elif folder is not None:
            Record.check(folder, settings.storage)  # before anything loads: a base can take minutes
        calls = None if tuned is None else Calls(tuned, settings.workers, folder)
        contents = self._load(calls, exists)
        for note in [] if recorded is None else opening.notes_on(recorded, contents):
            self.watcher.noted(note)
        if folder is not None and recorded is not None:
            self.record = Record.open(folder, join=settings.join, storage=settings.storage)
            if recorded.dated and not settings.join:
                self.record.adopt(contents)
        else:
            header["contents"] = as_data(contents)
            self.record = Record.create(folder, self.space, header, settings.config, settings.storage)
        self.objective.expect(self.record.contents)
        self._state = state = State(self.record)
        self._searcher = searcher
        self._loop = Loop(state, self.objective, searcher, seed, settings, keeps_adapters=tuned is not None)
        self._baselines = None if calls is None else Baselines(state, settings, seed, calls)
        self._ending = Ending(state, settings, seed, calls, self.objective, self._loop.running)

    def _without_fixed(self, space: Space, objective: Anchored, existing: Path | None) -> Space:
        """Return the space without the hyperparameters that the objective's settings fix.

        A space that equals the recorded one is returned unchanged.

        Args:
            space: The space that was passed to the study.
            objective: The objective that is maximised.
            existing: The study's directory, if the study exists.
        """
        fixed = objective.fixed(space)
        if not fixed:
            return space
        if existing is not None:
            recorded = Record.open(existing, read_only=True, storage=self.settings.storage)
            if recorded.space == space:
                return space
        self.watcher.noted(not_searched(fixed))
        return space.fixing(fixed)

    def _load(self, calls: Calls | None, exists: bool) -> Contents:
        """Let the objective load and check what it needs, and return the digests of what its scores depend on."""
        space, workers = self.space, self.settings.workers
        if calls is not None:
            if not exists:
                calls.objective.vet(space)
            self.watcher.phase("loading")
            calls.objective.declare(space)
        if workers is not None:
            workers.prepare(self.objective.prepare)  # all workers load now, and not when their first trials start
        if calls is None:
            return self.objective.contents
        calls(lambda objective: objective.check(space))
        return calls(lambda objective: objective.contents)

    def close(self) -> None:
        """Close the record, so that another process or another `Study` can lead the study in the directory."""
        self.record.close()

    # ----- results

    @property
    def directory(self) -> Path | None:
        """The study's folder; None for a study in memory."""
        return self.record.directory

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser in its current state."""
        return self._searcher.optimizer

    @property
    def trials(self) -> list[Trial]:
        """The optimiser's trials in the order of their numbers."""
        return self._state.trials

    @property
    def anchors(self) -> Mapping[RunName, Trial]:
        """Runs outside the search, by name: base, zero, defaults, confirmations, fresh runs, the winner's scorings."""
        return dict(self._state.baselines)

    @property
    def best(self) -> Trial:
        """The winner among the trials so far (`partune.verdict.winner`); raises ValueError if no trial has a score."""
        return scored_winner(self._state.winner, self.trials)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the winner; None if the winner is not scored on the held-out items yet."""
        return judge(self.record, self._state.winner)

    # ----- the run

    def run(self, budget: int | Budget, workers: int = 1) -> Study:
        """Run the study until `budget` trials in total have started and all of them have ended.

        Failed trials count, but baselines do not. If a run is interrupted, the next call of `run` continues it. The
        budget is shared by all processes that run the study. A process that joined returns when the budget is spent and
        its own trials have ended. Each worker has slots, and a slot runs one trial at a time. With rungs, a few more
        trials wait, so that the slot of a stopped trial is filled at once.

        Args:
            budget: The total number of trials, including those of earlier runs; or a `Budget`, which may also limit
                the hours.
            workers: The number of threads of this process; ignored if the study has worker processes.

        Returns:
            The study itself.

        Raises:
            UserError: An argument is not valid, or a worker died before it returned a result that the study needs.
            StoppedError: The results of the study would be useless, or its hours were over before a trial began.
        """
        budget = Budget.of(budget)
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise UserError(f"workers must be an integer, and workers >= 1 must hold, got {shown(workers)}")
        if not self.settings.join:
            self.record.plan(budget.trials, budget.time_limits)
            self.record.stop(None)
        self.watcher.began(self, budget)
        try:
            with terminated_as_interrupted():
                self._run(budget, workers)
        except BaseException as error:
            self.objective.interrupt()
            self._note_stop(error)
            raise
        finally:
            self.watcher.ended()
        return self

    def _note_stop(self, error: BaseException) -> None:
        """Record why the run stopped, for its report. An interruption is no reason, and a full disk takes no note."""
        if isinstance(error, (UserError, StoppedError)) and not self.settings.join:
            with suppress(UserError, OSError):
                self.record.stop(masked(str(error)))

    def _run(self, budget: Budget, workers: int) -> None:
        """Score the baselines, search, confirm, and score the winner; a driver that joined only searches."""
        leads = not self.settings.join
        if budget.deadline is not None and budget.deadline <= time.time() and not len(self._state):
            raise StoppedError(
                f"{budget.words} were over before the first run began. With more time: {continuing(self.directory)}"
                f"{'' if self.directory is None else ' --hours H'}"
            )
        if self._baselines is not None:
            self._baselines.score() if leads else self._baselines.wait()
        self.watcher.phase("search")
        slots = self._loop.count_slots()
        with self._workers_or(in_process(workers, workers * slots)) as pool:
            pool.hold(slots)
            try:
                schedule = Schedule(self._state, self.settings, budget, pool, slots)
                if leads and schedule.limited:
                    self.watcher.noted(schedule.sentence)
                self._loop.search(pool, schedule)
                if leads:
                    if self._loop.out_of_time:
                        self._note_end(schedule)
                    self._ending.confirm(pool)
                    self._ending.run_fresh(pool)
            except BaseException:
                self._loop.give_up(pool)
                raise
        if leads:
            self._ending.score_winner()

    def _note_end(self, schedule: Schedule) -> None:
        """Record that the hours of a search are over; raise StoppedError if no trial has begun."""
        if not len(self._state):
            left = span(max(0.0, schedule.left()))
            raise StoppedError(
                f"{schedule.budget.words} are not enough: {left} are left, but a trial may take "
                f"{span(schedule.trial())}, and the runs after it {span(schedule.ending())}. With more time: "
                f"{continuing(self.directory)}{'' if self.directory is None else ' --hours H'}"
            )
        self.record.plan(len(self._state), {**schedule.budget.time_limits, "over": 1.0})

    def _workers_or(self, threads: Workers) -> AbstractContextManager[Workers]:
        """Return the study's worker processes, which outlive a run, or else the threads, which end with the run."""
        return threads if self.settings.workers is None else nullcontext(self.settings.workers)


def _check_rungs(objective: Objective, settings: Settings) -> None:
    """Raise UserError if the settings stop trials at rungs but the objective or the workers cannot."""
    if settings.run.stop != "rungs":
        return
    if not objective.stoppable:
        raise UserError("stop: rungs needs an objective that can stop its trials: fine-tuning with engine: packed")
    if settings.workers is not None and settings.workers.remote:
        raise UserError("stop: rungs compares the trials of one process: use one worker")
    if settings.join:
        raise UserError("stop: rungs compares the trials of one process, so no other process can join the study")
