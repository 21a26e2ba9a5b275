"""A study: ask, run, record, tell; anchors before, the verdict after.

Whatever happens is appended to the record before anything else learns of it. A resumed study therefore replays its
optimiser from the record, runs what was interrupted once more, and goes on as if it had never stopped.

Several processes may drive one study. Each asks and tells in its turn (`Record.turn`), after it has learned what the
others appended, so that the record is as one process would have written it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from partune.config import Run, Search, Ship, validated
from partune.errors import UserError, shown
from partune.objectives.base import Anchored, Objective, not_searched, observed, observed_fresh, unspoilt
from partune.objectives.function import as_objective
from partune.optimizers import made as make_optimizer
from partune.optimizers import resolved
from partune.optimizers.base import Optimizer, Sampler
from partune.record.record import Record
from partune.runtime.paths import place
from partune.runtime.preemption import terminated_as_interrupted
from partune.space import Space
from partune.study.watcher import Watcher
from partune.trial import Config, Observation, Status, Trial
from partune.trial.contents import Contents, as_data, check, versions
from partune.trial.names import Baseline, Confirmation, FreshRun, FurtherRun, RunName, WinnerScoring
from partune.trial.rungs import ETA, Rungs
from partune.verdict.paired import Verdict
from partune.verdict.winner import (
    Worths,
    best,
    due,
    fresh_due,
    fresh_names,
    is_judged,
    judge,
    looked_before,
    looking,
    ranked,
    reloaded,
    shipped,
    ships_fresh,
    what_items_show,
    worths,
)
from partune.workers.base import Meter, WorkerLostError, Workers, in_process

SEARCH, ANCHOR, AGAIN, FRESH, ORDER = range(5)  # what a seed is for
T = TypeVar("T")

POLL = 1.0  # seconds between two looks at what other drivers do, at most

DATED = (
    "{directory} was begun by an older partune, which noted neither its objective nor digests of what its scores "
    "stand on: whether these are the same cannot be checked before now"
)

SAME = 3  # trials that one exception may end before any has a score

SPARE = 3  # adapters kept beyond those asked for while a study runs, as its winner need not be the best score


class Study:
    """A space, an objective, an optimiser, and a directory that records what happens.

    objective: a function of a configuration (a dict) that answers a number, higher is better; an `Objective`
        such as `FineTune`; or the name of one (`branin`, `package.module:function`).
    algorithm: an optimiser's name (`auto`: the best by measurement), `package.module:Class`, class or (fresh) instance;
        options are keyword arguments.
    directory: holds the record; None keeps it in memory. One that exists is refused unless `resume` is true.
    keep: how many of the best adapters stay on disk; "all" keeps every one.
    noisy: whether another evaluation of a configuration would score otherwise; None for where scores have standard
        errors. Then the winner is not the best score, part of which is luck (`partune.verdict.winner`).
    confirm: how many of the best run again with fresh seeds, when the budget is spent, the better half of them once
        more, and so on; the winner is then the best in the mean.
    seeds: how often the winner and the field's defaults run again with fresh seeds of initialisation, dropout and data
        order, for a verdict on hyperparameters; 0 for one on the adapters that the search left.
    ship: which adapter of the winner is handed over: "first", of the run that won, or of the fresh runs the "median" or
        the "best" on the search items.
    stop: "rungs" stops trials early that score worst at equal shares of their steps (`partune.trial.rungs`).
    workers: worker processes (`partune.workers.cluster`) that everything is evaluated in; by default this process does.
    storage: the URL of a database for the record, instead of a journal in the directory (`partune.record.database`);
        when a study is resumed, only where the URL needs a password or has changed.
    join: take part in a study that another process leads: search only. The leader scores anchors and winner.
    """

    def __init__(
        self,
        space: Space,
        objective: str | Objective | Callable[[Config], Observation | float],
        algorithm: str | type[Optimizer] | Optimizer = "auto",
        seed: int = 0,
        directory: str | Path | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        keep: int | str = 1,
        noisy: bool | None = None,
        confirm: int = 0,
        seeds: int = 4,
        ship: Ship = "first",
        stop: str = "none",
        resume: bool = False,
        config: str | None = None,
        watcher: Watcher | None = None,
        workers: Workers | None = None,
        storage: str | None = None,
        join: bool = False,
    ) -> None:
        if not isinstance(space, Space):
            raise UserError(f"a study needs a partune.Space, got {type(space).__name__}")
        options = {} if options is None else options
        _check_settings(directory, noisy, options)
        validated(Search, {"confirm": confirm, "seeds": seeds, "ship": ship}, strict=True)
        validated(Run, {"keep": keep, "stop": stop}, strict=True)
        self.space = space
        self.objective = as_objective(objective)
        self.seed = seed
        self.keep = keep
        self.confirm = confirm
        self.seeds = seeds
        self.ship: Ship = ship
        self.watcher = watcher or Watcher()
        self._workers = workers
        if stop == "rungs" and not self.objective.stoppable:
            raise UserError("stop: rungs needs an objective that can stop its trials: fine-tuning with engine: packed")
        if stop == "rungs" and workers is not None and workers.remote:
            raise UserError("stop: rungs compares the trials of one process: use one worker")
        if stop == "rungs" and join:
            raise UserError("stop: rungs compares the trials of one process: such a study has one driver")
        where = None if directory is None else place(directory)
        there = where is not None and where.exists()
        if isinstance(self.objective, Anchored):
            self.space = space = self._to_search(space, self.objective, where if there else None, storage)
        self._rungs = Rungs() if stop == "rungs" else None
        self._search_seconds = 0.0  # not yet on record
        self.optimizer = make_optimizer(algorithm, space, seed, options)
        if isinstance(algorithm, Optimizer):
            self._anew: Callable[[], Optimizer] = functools.partial(copy.deepcopy, copy.deepcopy(algorithm))
        else:
            self._anew = functools.partial(make_optimizer, algorithm, space, seed, options)
        header = {
            "algorithm": _name(algorithm),
            "options": dict(options),
            "seed": seed,
            "function": self.objective.name,
            "objective": dict(self.objective.identity),
            **({"stop": stop} if stop != "none" else {}),
            **({"noisy": noisy} if noisy is not None else {}),
        }
        if isinstance(self.objective, Anchored) and where is None:
            raise UserError("a fine-tuning study keeps adapters: give it a directory")
        self._joined = join
        if join and not there:
            raise UserError(f"no study in {where} to join")
        recorded = None
        if where is not None and there:
            recorded = self._refuse_or_check(where, header, resume or join, storage)
        elif where is not None:
            Record.check(where, storage)
        if isinstance(self.objective, Anchored):
            if not there:
                self.objective.vet(space)
            self.watcher.phase("loading")
            self.objective.declare(space)
        if self._workers is not None:  # all load at once
            self._workers.prepare(self.objective.prepare)
        if isinstance(self.objective, Anchored):
            self._use(self.objective, lambda objective: objective.check(space))
        contents = self._contents(recorded)
        if where is not None and there:
            self.record = Record.open(where, join=join, storage=storage)
            if recorded is not None and recorded.dated and not join:
                self.record.adopt(contents)
        else:
            self.record = Record.create(where, space, {**header, "contents": as_data(contents)}, config, storage)
        self.objective.expect(self.record.contents)
        self._trials: dict[int, Trial] = {}
        self._open: set[int] = set()  # the numbers of those that are not final
        with self.record.turn():
            for trial in self.record.trials():
                self._learn(trial)
            self._anchors = self.record.anchors()
        self._running: dict[Future[Observation], Trial] = {}
        self._under_way: set[int] = set()  # numbers of the trials that this driver runs
        self._ended_before: set[int] = set()  # numbers of the trials that ended before this run
        self._leaders: list[Trial] = []
        self._worth: tuple[int, Worths] | None = None  # of so many trials that have ended
        self.optimizer.replay(self.trials)
        if self._rungs is not None:
            self._rungs.restore(self.trials)

    def _to_search(self, space: Space, objective: Anchored, there: Path | None, storage: str | None) -> Space:
        """Return the space without what the objective's settings fix; a space on record is what it is.

        there: the study's directory, where there is one.
        """
        fixed = objective.fixed(space)
        recorded = fixed and there is not None and Record.open(there, read_only=True, storage=storage).space
        if not fixed or recorded == space:
            return space
        self.watcher.noted(not_searched(fixed))
        return space.fixing(fixed)

    def _contents(self, recorded: Record | None) -> Contents:
        """What the study stands on; raises UserError where that is not what the record says, and tells what may be."""
        objective = self.objective
        if isinstance(objective, Anchored):
            found = self._use(objective, lambda each: each.contents)
        else:
            found = objective.contents
        if recorded is not None:
            if note := check(recorded.contents, {**found, **versions()}):
                self.watcher.noted(note)
            if recorded.dated:
                self.watcher.noted(DATED.format(directory=recorded.directory))
        return found

    def _refuse_or_check(self, directory: Path, header: Mapping[str, Any], resume: bool, storage: str | None) -> Record:
        """The record in the directory; raises UserError unless it is of this very study, which is to be resumed."""
        recorded = Record.open(directory, read_only=True, storage=storage)
        if recorded.space != self.space:
            raise UserError(f"{directory} holds a study of a different space: choose another name")
        given = {"stop": "none", **json.loads(json.dumps(header))}
        known = {"stop": "none", "function": given["function"], **recorded.header}
        if _same_function(known["function"], given["function"]):
            known["function"] = given["function"]
        if (found := _difference(known, given)) is not None:
            raise UserError(f"{directory} holds another study: {found}")
        if not resume:
            raise UserError(f"{directory} holds a study already: resume it, or choose another name")
        self.objective.recall(recorded.loaded)
        self.objective.expect(recorded.contents)
        return recorded

    def close(self) -> None:
        """Ends this driver's part: another process, or another `Study`, may lead what is in the directory."""
        self.record.close()

    # ----- what is known

    @property
    def directory(self) -> Path | None:
        """The study's folder; None for a study in memory."""
        return self.record.directory

    @property
    def trials(self) -> list[Trial]:
        """The optimiser's trials in the order of their numbers."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def anchors(self) -> Mapping[RunName, Trial]:
        """Trials that no optimiser is told: base, zero, defaults, confirmations, the winner's verdict."""
        return dict(self._anchors)

    @property
    def best(self) -> Trial:
        """The winner (`partune.verdict.winner`) of what is done; raises ValueError while no trial has a score."""
        found = best(self.trials, self._anchors, self._worths())
        if found is None:
            errors = [trial.observation.error for trial in self.trials if trial.observation is not None]
            raise ValueError(
                f"all {len(errors)} trials failed, first: {errors[0]}" if errors else "no trial has ended yet"
            )
        return found

    @property
    def verdict(self) -> Verdict | None:
        return judge(self.record, best(self.trials, self._anchors, self._worths()))

    # ----- the loop

    def run(self, budget: int, workers: int = 1) -> Study:
        """Runs until `budget` trials in all were started and all have ended; returns the study itself.

        Failed trials count, anchors do not. Interrupted, it leaves a record that `run` continues. As many trials are
        under way as the workers have slots; with rungs a few more, which wait for the slots that rungs will empty.
        The budget is common to all drivers. One that joined returns when the budget is spent and its own trials ended.

        workers: threads of this process; of no account where the study was given worker processes.
        """
        for name, value in (("budget", budget), ("workers", workers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name} must be an integer, and {name} >= 1 must hold, got {shown(value)}")
        if not self._joined:
            self.record.plan(budget)
        self.watcher.began(self, budget)
        try:
            with terminated_as_interrupted():
                self._run(budget, workers)
        except BaseException:
            self.objective.interrupt()
            raise
        finally:
            self.watcher.ended()
        return self

    def _run(self, budget: int, workers: int) -> None:
        """Anchors, search, confirmation, verdict."""
        if isinstance(self.objective, Anchored):
            if self._joined:
                self._await_anchors(self.objective)
            else:
                self._score_anchors(self.objective)
        self.watcher.phase("search")
        slots = self.objective.count_slots()
        if self._rungs is not None:  # some wait, so that a slot that a rung empties is filled at once
            slots += math.ceil(slots * (1 - 1 / ETA))
        with self._workers_or(in_process(workers, workers * slots)) as pool:
            pool.hold(slots)
            try:
                self._search(pool, budget, slots)
                if not self._joined:
                    self._confirm(pool)
                if isinstance(self.objective, Anchored) and not self._joined:
                    self._run_fresh(self.objective, pool)
            except BaseException:
                self._give_up(pool)
                raise
        if isinstance(self.objective, Anchored) and not self._joined:
            self._score_winner(self.objective)

    def _workers_or(self, own: Workers) -> AbstractContextManager[Workers]:
        """The worker processes, which outlive a run, or workers of this process, which do not."""
        return own if self._workers is None else nullcontext(self._workers)

    def _use(self, objective: Anchored, use: Callable[[Anchored], T], what: str | None = None) -> T:
        """Call `use` with the objective, in a worker process where there are any.

        Args:
            objective: What is evaluated.
            use: The call.
            what: What the study lacks where the worker dies, in words; None where there is no study yet.

        Raises:
            UserError: The worker died.
        """
        if self._workers is None:
            return use(objective)
        try:
            return self._workers.submit(use, objective).result()
        except WorkerLostError as error:
            if what is not None:
                raise self._lost(what, error) from None
            raise UserError(f"nothing can be evaluated: {error}") from None

    def _search(self, pool: Workers, budget: int, slots: int) -> None:
        """Keeps every worker's slots filled.

        Trials that begin together in the slots of this process and end together make rounds: the next is proposed when
        all of one are told, whatever the order in which they arrive, so that a study of packs proposes the same when it
        is run again. Worker processes never wait for each other's trials.
        """
        self._ended_before = {trial.number for trial in self.trials if trial.status.final}
        rounds = slots > 1 and self.objective.even and self._rungs is None and not pool.remote
        self._leaders = self._leading(self.trials, self._spared)
        running = self._running = dict[Future[Observation], Trial]()
        self._under_way.clear()
        meter = Meter(pool)
        pause = POLL / 16
        while True:
            pool.remain(max(0, budget - self._told))
            meter.look()
            ready: list[Trial] = []
            while len(running) + len(ready) < self._most(pool, budget, slots):
                wait_for_round = rounds and any(t.told_before < self._told for t in (*running.values(), *ready))
                if (trial := self._next(budget, propose=not wait_for_round)) is None:
                    break
                ready.append(trial)
                if pool.remote:  # it runs while the next is asked for
                    self._begin(pool, ready)
            self._begin(pool, ready)  # all at once, so that they can make a pack
            if not running:
                if not self._others_matter(budget):
                    pool.remain(0)
                    return
                time.sleep(pause)
                pause = min(2 * pause, POLL)
                continue
            pause = POLL / 16
            for future in sorted(pool.first(running), key=lambda each: (_ends_the_run(each), running[each].number)):
                outcome = self._outcome(future)
                cost = {**outcome.cost, "worker_seconds": meter.take(), "search_seconds": self._search_seconds}
                self._search_seconds = 0.0
                self._tell(running.pop(future), dataclasses.replace(outcome, cost=cost))
                if self._told < budget:
                    self._stop_where_futile()

    def _stop_where_futile(self) -> None:
        """Raise FutileError where one exception ended SAME trials of this run, and no trial has ever had a score.

        What a configuration alone may be to blame for, a loss that is not finite or memory that ran out, is no
        exception's failure (`Observation.cause`).
        """
        if any(trial.status in (Status.DONE, Status.STOPPED) for trial in self._trials.values()):
            return
        failures: dict[str, list[str]] = {}
        for trial in self.trials:
            if trial.number not in self._ended_before and (seen := trial.observation) and seen.cause and seen.error:
                failures.setdefault(seen.cause, []).append(seen.error)
        for errors in failures.values():
            if len(errors) >= SAME:
                raise FutileError(
                    f"{len(errors)} trials failed with the same error before any had a score: {errors[0]}. "
                    f"Mend that, and continue: {self._continuing}"
                )

    def _most(self, pool: Workers, budget: int, slots: int) -> int:
        """How many trials to have under way: as many as there are slots.

        Of worker processes with several slots each, an optimiser that learns is asked for half of what remains at
        most, or for one a worker: what is asked for at once is asked for blindly (docs/scaling.md, "Slots").
        """
        workers = max(1, pool.count)
        if not pool.remote or not self.optimizer.learns:
            return workers * slots
        return min(workers * slots, max(workers, math.ceil((budget - self._told) / 2)))

    def _begin(self, pool: Workers, ready: list[Trial]) -> None:
        """Hands trials to the workers, and takes them from the list."""
        for trial in ready:
            self.watcher.started(trial)
            self._running[self._submit(pool, trial)] = trial
        ready.clear()

    def _give_up(self, pool: Workers) -> None:
        """Ends what runs, again and again: a thread may only be about to hand its trial in."""
        pool.shutdown(wait=False, cancel_futures=True)
        while left := [each for each in self._running if not each.done()]:
            self.objective.interrupt()
            wait(left, timeout=0.2)

    def _others_matter(self, budget: int) -> bool:
        """Whether a driver with nothing to run waits for trials of the others: for their results, or their deaths."""
        return bool(self._open) and not (self._joined and len(self._trials) >= budget)

    def _next(self, budget: int, propose: bool = True) -> Trial | None:
        """The next trial, recorded as started: what was interrupted first, then what the optimiser proposes."""
        with self.record.turn():
            self._catch_up()
            trial = self._interrupted()
            if trial is not None:
                trial = trial.started()
                self.record.restart(trial)
            elif propose and len(self._trials) < budget:
                trial = self._proposed()
            if trial is not None:
                self._learn(trial)
                self._under_way.add(trial.number)
            return trial

    def _interrupted(self) -> Trial | None:
        """The first trial that nobody runs any more."""
        waiting = sorted(self._open - self._under_way)
        return next((self._trials[number] for number in waiting if self.record.abandoned(number)), None)

    def _proposed(self) -> Trial | None:
        """What the optimiser proposes, recorded as started."""
        with self._searching():
            proposals = self.optimizer.ask(1)
        if not proposals:
            if self.optimizer.finished:
                self.watcher.exhausted()
            return None
        (proposal,) = proposals
        trial = Trial(
            proposal.number,
            proposal.config,
            proposal.point,
            seed=self._seed(SEARCH, proposal.number),
            notes=proposal.notes,
            told_before=self._told,
        ).started()
        self.record.propose(trial)
        return trial

    def _catch_up(self) -> None:
        """Learns what other drivers appended. Nobody else writes meanwhile: it is this driver's turn.

        A sequential optimiser may have gone on beyond its last proposal, on a way that is not the one the others took:
        it is made again from the record.
        """
        news = self.record.news(len(self._trials), self._open)
        for trial in news.values():
            self._learn(self._light(trial) if trial.status.final else trial)
        asked, known = len(self.optimizer.proposals), len(self._trials)
        if asked > known or (asked < known and not isinstance(self.optimizer, Sampler)):
            self.optimizer = self._anew()
        if news or asked != known:
            with self._searching():
                self.optimizer.follow(self.trials)
        for trial in news.values():
            if trial.status.final:
                self._leaders = self._leading([*self._leaders, self._light(trial)], self._spared)
                self.watcher.finished(trial)

    def _submit(self, pool: Workers, trial: Trial, anchor: RunName | None = None) -> Future[Observation]:
        place = trial.number if anchor is None else anchor
        adapter = self.record.adapter(place).absolute() if isinstance(self.objective, Anchored) else None
        judge = None if self._rungs is None or anchor is not None else self._rungs.judge(trial.number)
        return pool.submit(observed, self.objective, trial, adapter, judge)

    def _again(self, number: int, config: Config, purpose: int, *run: int) -> Trial:
        """Return a run with fresh seeds of initialisation, dropout and data order."""
        order = self._seed(ORDER, purpose, *run)
        return Trial(number, config, seed=self._seed(purpose, *run), order=order)

    @staticmethod
    def _outcome(future: Future[Observation]) -> Observation:
        try:
            return future.result()
        except WorkerLostError as error:
            return Observation.failure(str(error))

    def _tell(self, trial: Trial, observation: Observation) -> None:
        """Records a result, in its place among those of all drivers.

        It is dropped where this driver was taken for dead meanwhile and another runs, or ran, the trial.
        """
        self._under_way.discard(trial.number)
        with self.record.turn():
            self._catch_up()
            if self._trials[trial.number].status.final or not self.record.mine(trial.number):
                return
            final = trial.finished(observation, told=self._told)
            self.record.finish(final)
            self._learn(self._light(final))
            with self._searching():
                self.optimizer.tell(final.proposal, observation.blinded())
            if self._rungs is not None:
                self._rungs.end(final)
            if isinstance(self.objective, Anchored) and self.keep != "all":
                self._leaders = self._leading([*self._leaders, self._light(final)], self._spared)
                self._prune(self._leaders)
        self.watcher.finished(final)

    @contextmanager
    def _searching(self) -> Iterator[None]:
        """Counts the seconds in which the optimiser works."""
        began = time.perf_counter()
        yield
        self._search_seconds += time.perf_counter() - began

    def _learn(self, trial: Trial) -> None:
        """The latest state of a trial."""
        self._trials[trial.number] = trial
        (self._open.discard if trial.status.final else self._open.add)(trial.number)

    @property
    def _told(self) -> int:
        return len(self._trials) - len(self._open)

    @property
    def _spared(self) -> int:
        """How many adapters of the best stay while trials run; none are counted where all stay."""
        return 0 if self.keep == "all" else max(int(self.keep), self.confirm) + SPARE

    def _leading(self, trials: Iterable[Trial], count: int, winner: Trial | None = None) -> list[Trial]:
        """The winner, or the last one that was judged, and the best scores: so many in all."""
        judged = self._anchors.get(WinnerScoring.JUDGED)
        first = winner.config if winner is not None else None if judged is None else judged.config
        return sorted(ranked(trials), key=lambda trial: trial.config != first)[:count]

    def _prune(self, leaders: Iterable[Trial]) -> None:
        """Keeps the adapters of leaders, and of what runs."""
        self.record.artifacts.prune([*(trial.number for trial in leaders), *self._open])

    def _worths(self) -> Worths:
        """Return what the scores are worth; the process is fitted once for as long as no further trial ends."""
        if self._worth is None or self._worth[0] != self._told:
            self._worth = self._told, worths(self.trials, self.space, self.record.noisy)
        return self._worth[1]

    def _seed(self, purpose: int, *numbers: int) -> int:
        return int(np.random.SeedSequence([self.seed, purpose, *numbers]).generate_state(1)[0])

    @staticmethod
    def _light(trial: Trial) -> Trial:
        """Without per-item results, which are on disk: memory stays flat over a study."""
        assert trial.observation is not None
        return dataclasses.replace(trial, observation=dataclasses.replace(trial.observation, items={}))

    # ----- honest scores

    def _confirm(self, pool: Workers) -> None:
        """Runs the best again, round by round, each time with a fresh seed."""
        while True:
            trials, run = due(self.trials, self._anchors, self.confirm, self._worths())
            if not trials:
                break
            self.watcher.phase("confirm")
            again = [self._again(each.number, each.config, AGAIN, each.number, run) for each in trials]
            self._running = {self._submit(pool, each, Confirmation(each.number, run)): each for each in again}
            for name in self._noted({future: Confirmation(t.number, run) for future, t in self._running.items()}):
                self.record.artifacts.discard(name)  # had a place for what a preempted one saves

    def _run_fresh(self, objective: Anchored, pool: Workers) -> None:
        """Run the winner and the defaults with fresh seeds, all at once, so that they can make a pack."""
        winner = best(self.trials, self._anchors, self._worths())
        due = [] if winner is None else fresh_due(winner, self._anchors, self.seeds)
        if winner is None or not due:
            return
        self.watcher.phase("fresh")
        names: dict[Future[Observation], FurtherRun] = {}
        for name in due:
            of_winner = not name.of_defaults
            number, config = (
                (winner.number, winner.config) if of_winner else (0, self._anchors[Baseline.DEFAULTS].config)
            )
            trial = self._again(number, config, FRESH, number + of_winner, name.run)
            future = pool.submit(observed_fresh, objective, trial, self.record.adapter(name).absolute())
            self._running[future], names[future] = trial, name
        for noted in self._noted(names):
            if self.ship == "first" or (isinstance(noted, FreshRun) and noted.of_defaults):
                self.record.artifacts.discard(noted)  # had a place for what a preempted one saves

    def _noted(self, names: Mapping[Future[Observation], FurtherRun]) -> Iterator[FurtherRun]:
        """Note further runs as they end, and yield the name of each that is on record.

        A run whose worker died is not: that says nothing of its configuration, and it is due when the study is resumed.

        Raises:
            UserError: When all have ended, where workers died.
        """
        lost: dict[str, WorkerLostError] = {}
        for future, name in names.items():
            try:
                observation = future.result()
            except WorkerLostError as error:
                lost[name.words] = error
                continue
            self._note(name, self._running[future].finished(observation, told=0))
            yield name
        if lost:
            raise self._lost(", ".join(lost), *lost.values())

    def _lost(self, what: str, *errors: WorkerLostError) -> UserError:
        """Return the error that ends a run of the study, as something it needs was lost with a worker."""
        why = "; ".join(dict.fromkeys(map(str, errors)))
        return UserError(f"lost, and not on record: {what} ({why}). To run what is missing: {self._continuing}")

    @property
    def _continuing(self) -> str:
        """What continues the study."""
        directory = self.record.directory
        return "run it again" if directory is None else f"partune resume {shlex.quote(str(directory))}"

    def _score_anchors(self, objective: Anchored) -> None:
        """Base, learning rate 0 (which must give the base's answers), defaults; each once in a study's life."""
        self.record.describe(self._use(objective, lambda each: each.summary, "what was loaded"))
        objective.recall(self.record.loaded)
        self.watcher.loaded(self.record.loaded)
        defaults = objective.defaults
        self._anchor(Baseline.BASE, {}, lambda trial: self._base(objective))
        if (limits := what_items_show(self.record)) is not None:
            self.watcher.limited(limits)
        self._anchor(Baseline.ZERO, {**defaults, "learning_rate": 0.0}, lambda trial: self._agreeing(objective, trial))
        kept = self.record.adapter(Baseline.DEFAULTS).absolute()

        def score_defaults(trial: Trial) -> Observation:
            return self._use(objective, lambda each: each.score_defaults(trial, kept), "the run of the defaults")

        self._anchor(Baseline.DEFAULTS, defaults, score_defaults)

    def _await_anchors(self, objective: Anchored) -> None:
        """Waits for the leader's: where learning rate 0 does not give the base's answers, no trial is worth running."""
        self.watcher.phase("anchors")
        while not set(Baseline) <= set(self._anchors):
            if not self.record.drivers.led():
                raise UserError(
                    f"base and defaults of {self.record.directory} are not scored, and nobody does it now: "
                    "continue the study with partune resume"
                )
            time.sleep(POLL)
            self._anchors = self.record.anchors()
        objective.recall(self.record.loaded)
        self.watcher.loaded(self.record.loaded)

    def _base(self, objective: Anchored) -> Observation:
        """Return the untouched base; raises StoppedError where it has no score."""
        base = unspoilt(self._use(objective, lambda each: each.score_base(), "the scores of the base"))
        if base.status is Status.FAILED:
            raise StoppedError(f"the untouched base model has no score to compare with: {base.error}")
        return base

    def _agreeing(self, objective: Anchored, trial: Trial) -> Observation:
        """Return the trial with learning rate 0.

        Raises StoppedError where it fails, and UntrustworthyError where it does not answer as the base does.
        """
        zero = unspoilt(self._use(objective, lambda each: each.score_zero(trial), "the run with learning rate 0"))
        if zero.status is Status.FAILED:
            raise StoppedError(
                f"the first training, of a few steps with learning rate 0, failed, as all would: {zero.error}. "
                "Mend that, and begin again, or go on with partune resume"
            )
        base = self._anchors[Baseline.BASE]
        assert base.observation is not None
        with_items = dataclasses.replace(base.observation, items=self.record.items("anchors", base.number))
        what = "the comparison of the run with learning rate 0"
        if reason := self._use(objective, lambda each: each.disagreement(with_items, zero), what):
            raise UntrustworthyError(
                f"training with learning rate 0 must leave the base model's answers as they are, but: {reason}. "
                "Every trial would be scored wrongly. Please report the model and the versions."
            )
        return zero

    def _score_winner(self, objective: Anchored) -> None:
        """Score the winner on what no optimiser saw, and keep the adapters that were asked for."""
        winner = best(self.trials, self._anchors, self._worths())
        if winner is not None:
            if not self.record.looks and (before := looked_before(self.trials, self._anchors)) is not None:
                self.record.look(before)
            self.record.look(looking(winner, self._anchors))  # first, so that no verdict is read that does not count
            run = shipped(winner, self._anchors, self.ship)
            own = self._own_place(winner, run)
            scored = is_judged(winner, self._anchors) and self._anchors[WinnerScoring.JUDGED].seed == run.seed
            if not scored or (isinstance(own, FreshRun) and not self._is_kept(own)):
                # Whatever shipped before goes first, and this adapter lies where it was trained until its scores are on
                # record: broken off in between, nothing ships that another run's scores stand beside.
                self.record.artifacts.discard(WinnerScoring.JUDGED)
                adapter = self.record.adapter(own).absolute()
                what = "the winner's scores on the verdict items"
                score = functools.partial(self._use, objective, lambda each: each.score_winner(run, adapter), what)
                self._anchor(WinnerScoring.JUDGED, winner.config, lambda _: score(), again=True, run=run)
            if is_judged(winner, self._anchors):
                if isinstance(own, FreshRun):
                    self.record.artifacts.ship(own)
                for name in fresh_names(self._anchors, winner.number):
                    self.record.artifacts.discard(name)  # where one was chosen, the others go
        if self.keep != "all":
            self._prune(self._leading(self.trials, int(self.keep), winner))
        if winner is not None and reloaded(winner, self._anchors) is None:
            self._reload(objective, winner)

    def _reload(self, objective: Anchored, winner: Trial) -> None:
        """Notes whether the winner's adapter, loaded from disk as others will load it, answers as it was scored."""
        scored = self._anchors[WinnerScoring.JUDGED]
        adapter = self.record.adapter(WinnerScoring.JUDGED if ships_fresh(self._anchors) else winner.number).absolute()
        if scored.observation is None or scored.status is not Status.DONE or not adapter.is_dir():
            return
        before = dataclasses.replace(scored.observation, items=self.record.items("anchors", scored.number))
        what = "the check of the winner's adapter as others load it"
        found = self._use(objective, lambda each: each.reload(winner, adapter, before), what)
        if found is not None:
            self._note(WinnerScoring.RELOADED, Trial(0, dict(winner.config), seed=scored.seed).finished(found, told=0))

    def _is_kept(self, fresh: FreshRun) -> bool:
        """Return whether a fresh run's adapter is there, in its own place or in that of the one that ships."""
        return any(self.record.adapter(place).is_dir() for place in (fresh, WinnerScoring.JUDGED))

    def _own_place(self, winner: Trial, run: Trial) -> int | FreshRun:
        """Return the place in which a winner's run was trained: the trial's number, or a fresh run's name."""
        names = fresh_names(self._anchors, winner.number)
        return next((name for name in names if self._anchors[name].seed == run.seed), winner.number)

    def _anchor(
        self,
        name: Baseline | WinnerScoring,
        config: Config,
        score: Callable[[Trial], Observation],
        again: bool = False,
        run: Trial | None = None,
    ) -> None:
        """Score an anchor and note it. run: whose adapter is scored, where it was trained already."""
        if name in self._anchors and not again:
            return
        self.watcher.phase(name)
        began = time.perf_counter()
        seed, order = (self._seed(ANCHOR, 0), None) if run is None else (run.seed, run.order)
        trial = Trial(0, dict(config), seed=seed, order=order)
        observation = unspoilt(score(trial))
        cost = {"seconds": time.perf_counter() - began, **observation.cost}
        self._note(name, trial.finished(dataclasses.replace(observation, cost=cost), told=0))

    def _note(self, name: RunName, final: Trial) -> None:
        self._anchors[name] = self._light(self.record.anchor(name, final))
        self.watcher.anchored(name, self._anchors[name])


def _ends_the_run(future: Future[Observation]) -> bool:
    """Whether a future has no result to tell, but a reason to stop."""
    return not isinstance(future.exception(), (WorkerLostError, type(None)))


class StoppedError(RuntimeError):
    """A study stopped itself, as nothing worth having could come of it; its record is whole."""


class UntrustworthyError(StoppedError):
    """The objective's scores cannot be what they claim to be."""


class FutileError(StoppedError):
    """The objective fails in the same way again and again, and nothing has a score."""


def _difference(recorded: Mapping[str, Any], given: Mapping[str, Any], place: str = "") -> str | None:
    """The first setting in which two mappings differ, in words; None where they do not.

    given: what has to be there. Of options nothing else may be: one that is left out is the default.
    """
    whole = place.startswith("options.")
    absent = "the default" if whole else None
    for key in {**given, **(recorded if whole else {})}:
        there, here = recorded.get(key, absent), given.get(key, absent)
        if isinstance(here, dict) and isinstance(there, dict):
            if (found := _difference(there, here, f"{place}{key}.")) is not None:
                return found
        elif there != here:
            return f"{place}{key} is {there} there, and {here} here"
    return None


def _check_settings(directory: object, noisy: object, options: object) -> None:
    """Raises UserError for what a study cannot keep to, or not put on record."""
    if not isinstance(directory, str | Path | None):
        raise UserError(f"a study's directory is a path, or None for memory, got {shown(directory)}")
    if not isinstance(noisy, bool | None):
        raise UserError(f"noisy is true, false or None, got {shown(noisy)}")
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        rule = "finite numbers, texts, true, false, null, and lists and mappings of them"
        raise UserError(f"an algorithm's options are put on record: they are {rule}, got {shown(options)}") from None


def _same_function(there: str, here: str) -> bool:
    """Whether two names are of one function: a script that is run has no name of its own."""
    (module, name), (other, same) = (each.rpartition(":")[::2] for each in (there, here))
    return name == same and (module == other or "__main__" in (module, other))


def _name(algorithm: str | type[Optimizer] | Optimizer) -> str:
    if isinstance(algorithm, str):
        return resolved(algorithm)
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    return f"{kind.__module__}:{kind.__qualname__}"
