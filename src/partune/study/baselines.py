"""What a study runs beside its search: baselines before it; confirmations, fresh runs and the winner's scores after it.

None of it counts against the budget, and no optimiser is told of it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

from partune.errors import UserError
from partune.objectives.base import Objective, observed, observed_fresh, unspoilt
from partune.study.calls import Calls, lost
from partune.study.loop import POLL, Running
from partune.study.seeds import Purpose, derived_seed
from partune.study.settings import Settings
from partune.study.state import State
from partune.study.stopped import StoppedError, UntrustworthyError
from partune.trial import Config, Observation, Status, Trial
from partune.trial.names import Baseline, Confirmation, FreshRun, FurtherRun, RunName, WinnerScoring
from partune.verdict.winner import (
    due,
    fresh_due,
    fresh_names,
    is_judged,
    looked_before,
    looking,
    reloaded,
    shipped,
    ships_fresh,
    what_items_show,
)
from partune.workers.base import WorkerLostError, Workers


class _Beside:
    """What both parts share: noting a run, and scoring one outside of the search."""

    def __init__(self, state: State, settings: Settings, seed: int) -> None:
        """Run beside a study's search.

        Args:
            state: What is known of the study.
            settings: The study's.
            seed: The study's seed.
        """
        self._state = state
        self._record = state.record
        self._settings = settings
        self._watcher = settings.watcher
        self._seed = seed

    def _score(self, name: Baseline | WinnerScoring, trial: Trial, score: Callable[[], Observation]) -> None:
        """Score a run and note it."""
        self._watcher.phase(name)
        began = time.perf_counter()
        observation = unspoilt(score())
        # An objective's own count of seconds comes first: this one includes the way to a worker.
        cost = {"seconds": time.perf_counter() - began, **observation.cost}
        self._note(name, trial.finished(dataclasses.replace(observation, cost=cost), told=0))

    def _note(self, name: RunName, final: Trial) -> None:
        """Put a run on record, and tell the watcher."""
        self._watcher.anchored(name, self._state.note(name, final))

    def _with_items(self, name: RunName) -> Observation:
        """Return the result of a run on record with its per-item results."""
        trial = self._state.baselines[name]
        assert trial.observation is not None
        return dataclasses.replace(trial.observation, items=self._record.items("anchors", trial.number))


class Baselines(_Beside):
    """The base, the check with learning rate 0, and the defaults: each is scored once in a study's life."""

    def __init__(self, state: State, settings: Settings, seed: int, calls: Calls) -> None:
        """Score the baselines of a study.

        Args:
            state: What is known of the study.
            settings: The study's.
            seed: The study's seed.
            calls: Calls the objective.
        """
        super().__init__(state, settings, seed)
        self._calls = calls

    def score(self) -> None:
        """Score what is not on record yet.

        Raises:
            StoppedError: No trial is worth running: the base has no score, or training does not work.
            UserError: A worker died.
        """
        objective = self._calls.objective
        self._record.describe(self._calls(lambda objective: objective.summary, "what was loaded"))
        objective.recall(self._record.loaded)
        self._watcher.loaded(self._record.loaded)
        self._once(Baseline.BASE, {}, lambda _: self._base())
        if (limits := what_items_show(self._record)) is not None:
            self._watcher.limited(limits)
        self._once(Baseline.ZERO, objective.zero, self._zero)
        kept = self._record.adapter(Baseline.DEFAULTS).absolute()  # a worker may run in another folder

        def score_defaults(trial: Trial) -> Observation:
            return self._calls(lambda objective: objective.score_defaults(trial, kept), "the run of the defaults")

        self._once(Baseline.DEFAULTS, objective.defaults, score_defaults)

    def wait(self) -> None:
        """Wait until the driver that leads has scored them.

        Where learning rate 0 does not give the base's answers, no trial is worth running.

        Raises:
            UserError: No driver leads any more.
        """
        self._watcher.phase("anchors")
        while not set(Baseline) <= set(self._state.baselines):
            if not self._record.drivers.led():
                raise UserError(
                    f"base and defaults of {self._record.directory} are not scored, and nobody does it now: "
                    "continue the study with partune resume"
                )
            time.sleep(POLL)
            self._state.baselines = self._record.anchors()
        self._calls.objective.recall(self._record.loaded)
        self._watcher.loaded(self._record.loaded)

    def _once(self, name: Baseline, config: Config, score: Callable[[Trial], Observation]) -> None:
        """Score a baseline and note it, where that has not happened."""
        if name not in self._state.baselines:
            trial = Trial(0, dict(config), seed=derived_seed(self._seed, Purpose.BASELINE, 0))
            self._score(name, trial, lambda: score(trial))

    def _base(self) -> Observation:
        """Score the untouched base; raise StoppedError where it has no score."""
        base = unspoilt(self._calls(lambda objective: objective.score_base(), "the scores of the base"))
        if base.status is Status.FAILED:
            raise StoppedError(f"the untouched base model has no score to compare with: {base.error}")
        return base

    def _zero(self, trial: Trial) -> Observation:
        """Run learning rate 0.

        Raises StoppedError where it fails, and UntrustworthyError where it does not answer as the base does.
        """
        zero = unspoilt(self._calls(lambda objective: objective.score_zero(trial), "the run with learning rate 0"))
        if zero.status is Status.FAILED:
            raise StoppedError(
                f"the first training, of a few steps with learning rate 0, failed, as all would: {zero.error}. "
                "Correct that, and begin again, or go on with partune resume"
            )
        base = self._with_items(Baseline.BASE)
        what = "the comparison of the run with learning rate 0"
        if reason := self._calls(lambda objective: objective.disagreement(base, zero), what):
            raise UntrustworthyError(
                f"training with learning rate 0 must leave the base model's answers as they are, but: {reason}. "
                "Every trial would be scored wrongly. Please report the model and the versions."
            )
        return zero


class Ending(_Beside):
    """What follows a search: confirmations, which decide who wins, fresh runs, and the scores of the winner."""

    def __init__(
        self, state: State, settings: Settings, seed: int, calls: Calls | None, objective: Objective, running: Running
    ) -> None:
        """End a study.

        Args:
            state: What is known of the study.
            settings: The study's.
            seed: The study's seed.
            calls: Calls the objective; None where it knows no baselines, so that no winner is judged.
            objective: What is searched.
            running: Takes what runs, so that it can be ended.
        """
        super().__init__(state, settings, seed)
        self._calls = calls
        self._objective = objective
        self._running = running

    def confirm(self, pool: Workers) -> None:
        """Run the best trials again with fresh seeds, round by round, until all that are due have run.

        Args:
            pool: The workers.

        Raises:
            UserError: Runs were lost with their workers.
        """
        state = self._state
        while True:
            trials, run = due(state.trials, state.baselines, self._settings.search.confirm, state.worths)
            if not trials:
                return
            self._watcher.phase("confirm")
            names: dict[Future[Observation], FurtherRun] = {}
            for trial in trials:
                name = Confirmation(trial.number, run)
                again = self._again(trial.number, trial.config, Purpose.CONFIRMATION, trial.number, run)
                adapter = None if self._calls is None else self._record.adapter(name).absolute()
                future = pool.submit(observed, self._objective, again, adapter, None)
                self._running[future], names[future] = again, name
            for noted in self._noted(names):
                self._record.artifacts.discard(noted)  # a preempted run saves its checkpoint there

    def run_fresh(self, pool: Workers) -> None:
        """Run the winner and the defaults with fresh seeds.

        Args:
            pool: The workers.

        Raises:
            UserError: Runs were lost with their workers.
        """
        winner = self._state.winner
        missing = [] if winner is None else fresh_due(winner, self._state.baselines, self._settings.search.seeds)
        if self._calls is None or winner is None or not missing:
            return
        self._watcher.phase("fresh")
        names: dict[Future[Observation], FurtherRun] = {}
        for name in missing:  # all at once, so that they can make a pack
            config = self._state.baselines[Baseline.DEFAULTS].config if name.of_defaults else winner.config
            # The defaults count as trial 0 and the winner as one beyond its number: no two have the same seed.
            number, key = (0, 0) if name.of_defaults else (winner.number, winner.number + 1)
            trial = self._again(number, config, Purpose.FRESH, key, name.run)
            future = pool.submit(observed_fresh, self._calls.objective, trial, self._record.adapter(name).absolute())
            self._running[future], names[future] = trial, name
        for noted in self._noted(names):
            of_defaults = isinstance(noted, FreshRun) and noted.of_defaults
            if self._settings.search.ship == "first" or of_defaults:
                self._record.artifacts.discard(noted)  # a preempted run saves its checkpoint there

    def score_winner(self) -> None:
        """Score the winner on what no optimiser saw, and keep the adapters that were asked for."""
        if self._calls is None:
            return
        winner = self._state.winner
        if winner is not None:
            self._look(winner)
            self._judge(winner, shipped(winner, self._state.baselines, self._settings.search.ship), self._calls)
        if (kept := self._settings.kept) is not None:
            self._state.prune(self._state.leading(self._state.trials, kept, winner))
        if winner is not None and reloaded(winner, self._state.baselines) is None:
            self._reload(winner, self._calls)

    def _look(self, winner: Trial) -> None:
        """Note the look at the winner before there is a verdict, so that none is read that does not count."""
        baselines = self._state.baselines
        if not self._record.looks and (before := looked_before(self._state.trials, baselines)) is not None:
            self._record.look(before)
        self._record.look(looking(winner, baselines))

    def _judge(self, winner: Trial, run: Trial, calls: Calls) -> None:
        """Score the run of the winner whose adapter ships, unless that has happened, and put the adapter in place."""
        baselines, artifacts = self._state.baselines, self._record.artifacts
        trained = self._trained_as(winner, run)
        scored = is_judged(winner, baselines) and baselines[WinnerScoring.JUDGED].seed == run.seed
        if not scored or (isinstance(trained, FreshRun) and not self._is_kept(trained)):
            # Whatever shipped before goes first, and this adapter lies where it was trained until its scores are on
            # record: broken off in between, nothing ships that another run's scores stand beside.
            artifacts.discard(WinnerScoring.JUDGED)
            adapter = self._record.adapter(trained).absolute()
            final = Trial(0, dict(winner.config), seed=run.seed, order=run.order)
            what = "the winner's scores on the verdict items"
            self._score(
                WinnerScoring.JUDGED, final, lambda: calls(lambda objective: objective.score_winner(run, adapter), what)
            )
        if is_judged(winner, baselines):
            if isinstance(trained, FreshRun):
                artifacts.ship(trained)
            for name in fresh_names(baselines, winner.number):
                artifacts.discard(name)  # where one was chosen, the others go

    def _reload(self, winner: Trial, calls: Calls) -> None:
        """Note whether the winner's adapter, loaded from disk as others will load it, answers as it was scored."""
        scored = self._state.baselines[WinnerScoring.JUDGED]
        ships_own = not ships_fresh(self._state.baselines)
        adapter = self._record.adapter(winner.number if ships_own else WinnerScoring.JUDGED).absolute()
        if scored.status is not Status.DONE or not adapter.is_dir():
            return
        before = self._with_items(WinnerScoring.JUDGED)
        what = "the check of the winner's adapter as others load it"
        observation = calls(lambda objective: objective.reload(winner, adapter, before), what)
        if observation is not None:
            final = Trial(0, dict(winner.config), seed=scored.seed).finished(observation, told=0)
            self._note(WinnerScoring.RELOADED, final)

    def _is_kept(self, fresh: FreshRun) -> bool:
        """Return whether a fresh run's adapter is there, in its own place or in that of the one that ships."""
        return any(self._record.adapter(name).is_dir() for name in (fresh, WinnerScoring.JUDGED))

    def _trained_as(self, winner: Trial, run: Trial) -> int | FreshRun:
        """Return what a winner's run was trained as: the trial, by its number, or a fresh run."""
        names = fresh_names(self._state.baselines, winner.number)
        return next((name for name in names if self._state.baselines[name].seed == run.seed), winner.number)

    def _again(self, number: int, config: Config, purpose: Purpose, *run: int) -> Trial:
        """Return a run with fresh seeds of initialisation, dropout and data order."""
        order = derived_seed(self._seed, Purpose.ORDER, int(purpose), *run)
        return Trial(number, config, seed=derived_seed(self._seed, purpose, *run), order=order)

    def _noted(self, names: Mapping[Future[Observation], FurtherRun]) -> Iterator[FurtherRun]:
        """Note further runs as they end, and yield the name of each that is on record.

        A run whose worker died is not: that says nothing of its configuration, and it is due when the study is resumed.

        Raises:
            UserError: When all have ended, where workers died.
        """
        missing: dict[str, WorkerLostError] = {}
        for future, name in names.items():
            try:
                observation = future.result()
            except WorkerLostError as error:
                missing[name.words] = error
                continue
            self._note(name, self._running[future].finished(observation, told=0))
            yield name
        if missing:
            raise lost(self._record.directory, ", ".join(missing), *missing.values())
