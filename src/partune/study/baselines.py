"""Runs of a study outside its search: baselines before it; confirmations, fresh runs and the winner's scores after it.

These runs do not count against the budget, and their results are not told to the optimiser.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

from partune.errors import UserError
from partune.objectives.base import Objective, observed, observed_baseline, observed_fresh, unspoilt
from partune.study.calls import Calls, continuing, lost
from partune.study.loop import POLL, Running
from partune.study.seeds import Purpose, derived_seed
from partune.study.settings import Settings
from partune.study.state import State
from partune.study.stopped import StoppedError, UntrustworthyError
from partune.trial import Config, Observation, Status, Trial
from partune.trial.names import (
    Baseline,
    Confirmation,
    FreshRun,
    FurtherBaseline,
    FurtherRun,
    RunName,
    WinnerScoring,
)
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
from partune.workers.base import Meter, WorkerLostError, Workers


class _OutsideSearch:
    """The base class of the runs before and after the search, which scores and records them."""

    def __init__(self, state: State, settings: Settings, seed: int) -> None:
        """Prepare runs outside a study's search.

        Args:
            state: The state of the study.
            settings: The settings of the study.
            seed: The study's seed.
        """
        self._state = state
        self._record = state.record
        self._settings = settings
        self._watcher = settings.watcher
        self._seed = seed

    def _score(
        self, name: Baseline | FurtherBaseline | WinnerScoring, trial: Trial, score: Callable[[], Observation]
    ) -> None:
        """Score a run and record its result."""
        self._watcher.phase(str(name))
        began = time.perf_counter()
        observation = unspoilt(score())
        # If the objective has measured its seconds itself, its number is used, because the number measured here
        # includes the transfer to a worker.
        cost = {"seconds": time.perf_counter() - began, **observation.cost}
        self._note(name, trial.finished(dataclasses.replace(observation, cost=cost), told=0))

    def _note(self, name: RunName, final: Trial) -> None:
        """Record the result of a run, and notify the watcher."""
        self._watcher.anchored(name, self._state.note(name, final))

    def _with_items(self, name: RunName) -> Observation:
        """Return the result of a recorded run, including its per-item results."""
        trial = self._state.baselines[name]
        assert trial.observation is not None
        return dataclasses.replace(trial.observation, items=self._record.items("anchors", trial.number))


class Baselines(_OutsideSearch):
    """The baselines that a study scores before its search: the base model, learning rate 0, the defaults, recipes."""

    def __init__(self, state: State, settings: Settings, seed: int, calls: Calls) -> None:
        """Prepare the baselines of a study.

        Args:
            state: The state of the study.
            settings: The settings of the study.
            seed: The study's seed.
            calls: The caller of the objective.
        """
        super().__init__(state, settings, seed)
        self._calls = calls

    def score(self) -> None:
        """Score the baselines that are not recorded yet.

        Raises:
            StoppedError: The base model has no score, or training does not work, so trials would be useless.
            UserError: A worker died.
        """
        objective = self._calls.objective
        self._record.describe(self._calls(lambda objective: objective.summary, "what was loaded"))
        objective.recall(self._record.loaded)
        self._watcher.loaded(self._record.loaded)
        self._score_if_new(Baseline.BASE, {}, lambda _: self._score_base())
        if (limits := what_items_show(self._record, self._settings.search.seeds)) is not None:
            self._watcher.limited(limits)
        self._score_if_new(Baseline.ZERO, objective.zero, self._score_zero)
        self._score_adapter(Baseline.DEFAULTS, objective.defaults, "the run of the defaults")
        for name, config in objective.further.items():
            self._score_adapter(FurtherBaseline(name), config, f"the run of the baseline {name}")

    def wait(self) -> None:
        """Wait until the leading driver, which is another process, has scored the baselines.

        Raises:
            UserError: No driver leads the study any more.
        """
        self._watcher.phase("anchors")
        awaited = {*Baseline, *map(FurtherBaseline, self._calls.objective.further)}
        while not awaited <= set(self._state.baselines):
            if not self._record.drivers.led():
                raise UserError(
                    f"the baselines of {self._record.directory} are not scored, and no process is scoring them. "
                    f"Continue the study with `{continuing(self._record.directory)}`"
                )
            time.sleep(POLL)
            self._state.baselines = self._record.anchors()
        self._calls.objective.recall(self._record.loaded)
        self._watcher.loaded(self._record.loaded)

    def _score_adapter(self, name: Baseline | FurtherBaseline, config: Config, what: str) -> None:
        """Train a baseline's adapter and score it, unless that is already recorded.

        A baseline that fails by itself, for example because its loss is not finite, is recorded as failed and not
        repeated. If its worker dies, nothing is recorded, and the baseline runs again when the study is resumed.
        """
        adapter = self._record.adapter(name).absolute()
        self._score_if_new(
            name,
            config,
            lambda trial: self._calls(lambda objective: observed_baseline(objective, trial, adapter), what),
        )

    def _score_if_new(
        self, name: Baseline | FurtherBaseline, config: Config, score: Callable[[Trial], Observation]
    ) -> None:
        """Score a baseline and record the result, unless it is already recorded."""
        if name not in self._state.baselines:
            trial = Trial(0, dict(config), seed=derived_seed(self._seed, Purpose.BASELINE, 0))
            self._score(name, trial, lambda: score(trial))

    def _score_base(self) -> Observation:
        """Score the untouched base model; raise StoppedError if it has no score."""
        base = unspoilt(self._calls(lambda objective: objective.score_base(), "the scores of the base"))
        if base.status is Status.FAILED:
            raise StoppedError(f"the untouched base model has no score to compare with: {base.error}")
        return base

    def _score_zero(self, trial: Trial) -> Observation:
        """Train with learning rate 0, and score the result.

        Raises StoppedError if that fails, and UntrustworthyError if the answers differ from those of the base model.
        """
        zero = unspoilt(self._calls(lambda objective: objective.score_zero(trial), "the run with learning rate 0"))
        if zero.status is Status.FAILED:
            raise StoppedError(
                f"the first training, a few steps with learning rate 0, failed, so all others would too: {zero.error}. "
                f"Correct the cause and continue: {continuing(self._record.directory)}"
            )
        base = self._with_items(Baseline.BASE)
        what = "the comparison of the run with learning rate 0"
        if reason := self._calls(lambda objective: objective.disagreement(base, zero), what):
            raise UntrustworthyError(
                f"training with learning rate 0 must leave the base model's answers as they are, but: {reason}. "
                "Every trial would be scored wrongly. Please report the model and the versions."
            )
        return zero


class Ending(_OutsideSearch):
    """The runs after a search: confirmations, which choose the winner, fresh runs, and the winner's scores."""

    def __init__(
        self, state: State, settings: Settings, seed: int, calls: Calls | None, objective: Objective, running: Running
    ) -> None:
        """Prepare the runs after a study's search.

        Args:
            state: The state of the study.
            settings: The settings of the study.
            seed: The study's seed.
            calls: The caller of the objective; None if the objective has no baselines, so that there is no verdict.
            objective: The objective that is maximised.
            running: The running trials by their futures. The runs after the search are added to this mapping, so that
                they too are ended if the study is interrupted.
        """
        super().__init__(state, settings, seed)
        self._calls = calls
        self._objective = objective
        self._running = running

    def confirm(self, pool: Workers) -> None:
        """Run the best trials again with fresh seeds, round by round, until every confirmation that is due has run.

        Args:
            pool: The workers.

        Raises:
            UserError: Workers died before their runs ended.
        """
        state = self._state
        while True:
            trials, run = due(state.trials, state.baselines, self._settings.search.confirm, state.worths)
            if not trials:
                return
            self._watcher.phase("confirm")
            meter = Meter(pool)
            names: dict[Future[Observation], FurtherRun] = {}
            for trial in trials:
                name = Confirmation(trial.number, run)
                further = self._further_run(trial.number, trial.config, Purpose.CONFIRMATION, trial.number, run)
                adapter = None if self._calls is None else self._record.adapter(name).absolute()
                future = pool.submit(observed, self._objective, further, adapter, None)
                self._running[future], names[future] = further, name
            for recorded in self._record_results(names, meter):
                self._record.artifacts.discard(recorded)  # deletes the checkpoint that a preempted run may have left

    def run_fresh(self, pool: Workers) -> None:
        """Run the winner and the baselines with fresh seeds.

        Args:
            pool: The workers.

        Raises:
            UserError: Workers died before their runs ended.
        """
        winner = self._state.winner
        missing = [] if winner is None else fresh_due(winner, self._state.baselines, self._settings.search.seeds)
        if self._calls is None or winner is None or not missing:
            return
        self._watcher.phase("fresh")
        meter = Meter(pool)
        names: dict[Future[Observation], FurtherRun] = {}
        for name in missing:  # all at once, so that they can make a pack
            # The seeds of the defaults are derived from 0, and those of trial n from n + 1, so that they all differ.
            # All baselines share their seeds, because each is compared with the winner and none with another baseline.
            of_winner = isinstance(name.whose, int)
            number, key = (winner.number, winner.number + 1) if of_winner else (0, 0)
            config = winner.config if isinstance(name.whose, int) else self._state.baselines[name.whose].config
            trial = self._further_run(number, config, Purpose.FRESH, key, name.run)
            future = pool.submit(observed_fresh, self._calls.objective, trial, self._record.adapter(name).absolute())
            self._running[future], names[future] = trial, name
        for recorded in self._record_results(names, meter):
            of_baseline = isinstance(recorded, FreshRun) and recorded.of_baseline
            if self._settings.search.ship == "first" or of_baseline:
                self._record.artifacts.discard(recorded)  # deletes the checkpoint that a preempted run may have left

    def score_winner(self) -> None:
        """Score the winner on the verdict items, and delete the adapters that the settings do not keep."""
        if self._calls is None:
            return
        winner = self._state.winner
        if winner is not None:
            self._record_look(winner)
            self._score_shipped(winner, shipped(winner, self._state.baselines, self._settings.search.ship), self._calls)
        if (kept := self._settings.kept) is not None:
            self._state.prune(self._state.leading(self._state.trials, kept, winner))
        if winner is not None and reloaded(winner, self._state.baselines) is None:
            self._check_reloaded(winner, self._calls)

    def _record_look(self, winner: Trial) -> None:
        """Record the verdict's runs before the winner's scores, so that every verdict that can be read is counted."""
        baselines = self._state.baselines
        if not self._record.looks and (before := looked_before(self._state.trials, baselines)) is not None:
            self._record.look(before)
        self._record.look(looking(winner, baselines))

    def _score_shipped(self, winner: Trial, run: Trial, calls: Calls) -> None:
        """Score the winner's run whose adapter will be exported, unless that is done, and put the adapter in place."""
        baselines, artifacts = self._state.baselines, self._record.artifacts
        trained = self._trained_as(winner, run)
        scored = is_judged(winner, baselines) and baselines[WinnerScoring.JUDGED].seed == run.seed
        if not scored or (isinstance(trained, FreshRun) and not self._has_adapter(trained)):
            # The adapter shipped before is deleted first, and the new one is moved only once its scores are recorded.
            # If the study is interrupted in between, no adapter is exported with the scores of another run.
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
                artifacts.discard(name)  # the fresh runs that were not chosen

    def _check_reloaded(self, winner: Trial, calls: Calls) -> None:
        """Load the winner's adapter from disk as a user would, and record whether it still gives the scored answers."""
        scored = self._state.baselines[WinnerScoring.JUDGED]
        source = WinnerScoring.JUDGED if ships_fresh(self._state.baselines) else winner.number
        adapter = self._record.adapter(source).absolute()
        if scored.status is not Status.DONE or not adapter.is_dir():
            return
        before = self._with_items(WinnerScoring.JUDGED)
        what = "the check of the winner's adapter after loading it from disk"
        observation = calls(lambda objective: objective.reload(winner, adapter, before), what)
        if observation is not None:
            final = Trial(0, dict(winner.config), seed=scored.seed).finished(observation, told=0)
            self._note(WinnerScoring.RELOADED, final)

    def _has_adapter(self, fresh: FreshRun) -> bool:
        """Return whether the adapter of a fresh run exists, in the run's folder or in that of the shipped adapter."""
        return any(self._record.adapter(name).is_dir() for name in (fresh, WinnerScoring.JUDGED))

    def _trained_as(self, winner: Trial, run: Trial) -> int | FreshRun:
        """Return the name of a run: the winner's number for the winning trial itself, otherwise a fresh run's name."""
        names = fresh_names(self._state.baselines, winner.number)
        return next((name for name in names if self._state.baselines[name].seed == run.seed), winner.number)

    def _further_run(self, number: int, config: Config, purpose: Purpose, *run: int) -> Trial:
        """Return a trial with fresh seeds of initialisation, dropout and data order."""
        order = derived_seed(self._seed, Purpose.ORDER, int(purpose), *run)
        return Trial(number, config, seed=derived_seed(self._seed, purpose, *run), order=order)

    def _record_results(self, names: Mapping[Future[Observation], FurtherRun], meter: Meter) -> Iterator[FurtherRun]:
        """Record the results of further runs, and yield the name of each recorded run.

        A run whose worker died is not recorded, because its configuration need not be the cause. It runs again when the
        study is resumed.

        names: The runs by their futures.
        meter: The meter of the workers' seconds since the runs began.

        Raises:
            UserError: Workers died. It is raised after all runs have ended.
        """
        missing: dict[str, WorkerLostError] = {}
        for future, name in names.items():
            try:
                observation = future.result()
            except WorkerLostError as error:
                missing[name.words] = error
                continue
            cost = {**observation.cost, "worker_seconds": meter.take()}
            final = self._running[future].finished(dataclasses.replace(observation, cost=cost), told=0)
            self._note(name, final)
            yield name
        if missing:
            raise lost(self._record.directory, ", ".join(missing), *missing.values())
