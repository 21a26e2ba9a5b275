"""Show the progress of a study: one line per trial, and in a terminal a bar with the best score so far."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from partune.config import baseline, names_of
from partune.objectives.base import Anchored
from partune.report.data_notes import loaded_notes
from partune.report.words import coverage_words, progress, reloaded_words, settings, span
from partune.runtime import rounding
from partune.study import Budget, Watcher
from partune.study.watcher import Watched
from partune.trial import Config, Status, Trial
from partune.trial.goals import SCORE, goal_of
from partune.trial.names import (
    ROWS,
    Baseline,
    Confirmation,
    FreshRun,
    FurtherBaseline,
    ItemSet,
    ResultName,
    RunName,
    WinnerScoring,
    score_on_verdict_items,
)
from partune.verdict.limits import Limits
from partune.verdict.winner import ranked

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LONG = 60.0  # a search that takes fewer seconds than this needs no line that says how long it takes
PHASES = {
    "loading": "loading the model, the data and the tasks",
    Baseline.BASE: "scoring the untouched base model",
    Baseline.ZERO: "checking that learning rate 0 changes nothing",
    Baseline.DEFAULTS: "scoring the field's defaults",
    "search": "searching",
    "confirm": "running the leading trials again with fresh seeds",
    "fresh": "running winner and defaults again with fresh seeds, for the verdict",
    WinnerScoring.JUDGED: "scoring the winner on held-out items and test tasks",
}


class Quiet(Watcher):
    """A watcher that prints nothing, not even the notes that a `Watcher` logs as warnings."""

    def noted(self, line: str) -> None:
        """Ignore a note."""


class Terminal(Watcher):
    """A watcher that prints to a console, and draws a progress bar if the console is a terminal.

    Args:
        console: The console to print to, or None for standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        from partune.runtime.console import log_console

        # Keep the present stdout, because the engine later redirects sys.stdout to silence libraries.
        self.console = console or log_console()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._study: Watched | None = None
        self._budget: Budget | None = None
        self._goal = SCORE
        self._began = 0.0
        self._at_once = 1
        self._timed = False  # whether the expected time has been printed

    def began(self, study: Watched, budget: Budget) -> None:
        """Print which study begins or continues, and start the progress bar.

        Args:
            study: The study, as far as a watcher may see it.
            budget: What the study may spend.
        """
        from partune.runtime.console import progress_bar

        self._study, self._budget, self._began = study, budget, time.monotonic()
        done = self._done()
        if study.directory is not None:
            statuses = [trial.status for trial in study.trials]
            state = progress(statuses, budget.trials) if study.trials else budget.words
            self._print(f"Study {study.directory}: {state}")
        if self.console.is_terminal:
            self._bar = progress_bar(self.console)
            self._task = self._bar.add_task("loading", total=budget.trials, completed=done)  # not 0 for a resumed study
            self._bar.start()

    def noted(self, line: str) -> None:
        """Print a note."""
        self._print(line)

    def limited(self, limits: Limits) -> None:
        """Print the smallest gain that the verdict items can show."""
        self._print(limits.sentence)

    def phase(self, name: str) -> None:
        """Show what the study does now, in the bar if there is one, or in a line."""
        text = PHASES.get(name, name)
        if name.startswith("baseline/"):
            text = f"scoring the {name.replace('/', ' ')}"
        if name == "fresh" and self._first_called().startswith("the baseline "):
            text = text.replace("defaults", "baselines")
        if name == Baseline.DEFAULTS and self._study is not None and isinstance(self._study.objective, Anchored):
            text = f"scoring {self._first_called()}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)
        elif name != "search":  # the lines of the trials show that the search runs
            self._print(f"{text} ...")

    def loaded(self, summary: Mapping[str, Any]) -> None:
        """Print what was loaded, including how many rows were left out or cut.

        Args:
            summary: The objective's summary of what it loaded.
        """
        if data := summary.get("data"):
            self._print(f"{data['examples']} examples of {data['rows']} rows; {data['tokens']} tokens")
            for note in loaded_notes(summary):
                self._print(note)
            for targets, covered in summary.get("adapted", {}).items():
                self._print(f"{targets}: {coverage_words(covered)}")
            self._goal = goal_of(summary)
            self._at_once = summary.get("pack", 1)
            pack = f", {summary['pack']} trials at once" if summary.get("pack", 1) > 1 else ""
            self._print(f"{_scored(summary['scoring'])}; {summary['dtype']} on {summary['device']}{pack}")
        for note in summary.get("notes", []):
            self._print(f"note: {note}")

    def anchored(self, name: RunName, trial: Trial) -> None:
        """Print the line of a run that is not one of the search's trials: a baseline, a confirmation, a fresh run.

        Args:
            name: The run's name on record.
            trial: The run, with its observation.
        """
        assert trial.observation is not None
        if name is Baseline.ZERO:
            self._print(f"{'lr 0':>9}  gives the base model's answers, as it must")
        elif isinstance(name, Confirmation):
            self._print(f"trial {name.trial:>3}  {self._score(trial)}  run {name.run + 1}")
        elif name is WinnerScoring.RELOADED:
            self._print(f"{'adapter':>9}  {reloaded_words(trial.observation)}")
        elif isinstance(name, FreshRun):
            self._print(f"{self._whose(name):>9}  {self._judged(trial)}  fresh run {name.run}")
        elif name is WinnerScoring.JUDGED:
            self._print(f"{name:>9}  {self._judged(trial)}")
        else:
            called = self._first_called(trial.config) if name is Baseline.DEFAULTS else ""
            shown = f"  {called}" if " as given" in called and trial.status is not Status.FAILED else ""
            self._print(f"{self._label(name):>9}  {self._score(trial)}", shown)

    def finished(self, trial: Trial) -> None:
        """Print the line of a trial, and advance the bar."""
        assert trial.observation is not None
        assert self._study is not None
        leader = next(iter(ranked(self._study.trials)), None)
        took = span(trial.observation.cost.get("seconds", 0.0))
        outcome = self._score(trial)
        if trial.status is Status.STOPPED:
            outcome = f"stopped at {rounding.percent(trial.observation.fidelity)}, {outcome}"
        # The best trial so far. The winner is known only at the end, from neighbouring trials and from further runs.
        mark = ("best", "bold green") if leader is not None and leader.number == trial.number else "    "
        self._print(f"trial {trial.number:>3}  {outcome}  ", mark, f"  {settings(trial.config)}  ", (took, "dim"))
        # Refresh at once, because several trials that train together (a pack) may end between two regular refreshes.
        if self._bar is not None and self._task is not None:
            text = "searching"
            if leader is not None and leader.observation is not None:
                text += f", best so far {self._goal.score(leader.score, leader.observation.stderr)}"
            self._bar.update(
                self._task, completed=self._done(), description=f"{text}, {self._left()} left", refresh=True
            )
        elif not self._timed and self._at_once <= self._done() and self._trials_left():
            self._timed = True
            if (self._seconds_left() or 0.0) >= LONG:
                self._print(f"About {self._left()} for the {self._trials_left():,} trials that are left.")

    def exhausted(self) -> None:
        """Print that all configurations of the space have been tried."""
        self._print("Every configuration of the space has been tried: nothing is left to propose.")

    def ended(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _first_called(self, config: Config | None = None) -> str:
        """Return the name of the first baseline: a recipe's, or that of the defaults with a configuration."""
        objective = None if self._study is None else self._study.objective
        if isinstance(objective, Anchored) and (names := names_of(objective.identity)):
            return f"the baseline {names[0]}"
        if config is None:
            config = objective.defaults if isinstance(objective, Anchored) else {}
        return baseline(config)

    def _label(self, name: RunName) -> str:
        """Return the short name of a baseline, which stands before its score."""
        called = self._first_called()
        if name is Baseline.DEFAULTS and called.startswith("the baseline "):
            return called.removeprefix("the baseline ")
        return name.name if isinstance(name, FurtherBaseline) else str(name)

    def _whose(self, fresh: FreshRun) -> str:
        """Return the short name of the winner or baseline that a fresh run repeats."""
        return "winner" if isinstance(fresh.whose, int) else self._label(fresh.whose)

    def _print(self, *parts: str | tuple[str, str]) -> None:
        from partune.runtime.console import line

        self.console.print(line(*parts))

    def _judged(self, trial: Trial) -> str:
        """Return a run's score on the held-out items, or why it failed."""
        assert trial.observation is not None
        if trial.status is Status.FAILED:
            return f"failed: {trial.observation.error}"
        verdict_score = score_on_verdict_items(trial.observation.scores)
        assert verdict_score is not None
        return f"{self._goal.measured(*verdict_score)} on the held-out items"

    def _score(self, trial: Trial) -> str:
        """Return a run's score on the search items, or why it failed."""
        assert trial.observation is not None
        if trial.status is Status.FAILED:
            return f"failed: {trial.observation.error}"
        return self._goal.measured(trial.score, trial.observation.stderr)

    def _done(self) -> int:
        return sum(trial.status.final for trial in self._study.trials) if self._study is not None else 0

    def _left(self) -> str:
        """Return the remaining time: that of the trials, or that of the clock if it is limited and shorter."""
        assert self._budget is not None
        left = [] if (seconds := self._seconds_left()) is None else [seconds]
        if self._budget.deadline is not None:
            left.append(max(0.0, self._budget.deadline - time.time()))
        return span(min(left)) if left else "?"

    def _seconds_left(self) -> float | None:
        """Return the seconds for the rest of the trials, by the median trial, because one slow one distorts a mean."""
        assert self._study is not None
        seconds = [
            trial.observation.cost["seconds"]
            for trial in self._study.trials
            if trial.observation is not None and "seconds" in trial.observation.cost
        ]
        left = self._trials_left()
        return statistics.median(seconds) * left if seconds and left is not None else None

    def _trials_left(self) -> int | None:
        """Return the number of trials that have not ended; None if only hours limit it."""
        assert self._budget is not None
        return None if self._budget.trials is None else self._budget.trials - self._done()


def _scored(scoring: Mapping[str, Any]) -> str:
    """Return a description of how trials are scored, from the record."""
    counts = scoring["items"]
    search, verdict = (counts.get(str(ResultName(items, ROWS))) for items in (ItemSet.SEARCH, ItemSet.VERDICT))
    if search is not None:
        tests = "".join(f", {count} {name}" for name, count in counts.items() if name.startswith(ItemSet.TEST))
        score = "loss per trained token in nats (lower is better)"
        if labels := scoring.get("labels"):
            score = f"{scoring['metric']} of {len(labels)} labels; the likeliest label is the answer"
        if "max_new_tokens" in scoring:
            score = f"{scoring['metric']} of generated answers of up to {scoring['max_new_tokens']} tokens"
        rows = f"{search} validation rows score the trials, {verdict} are held out for the verdict"
        return f"{rows}{tests}; score: {score}"
    metric = scoring["metric"]
    left_out = "".join(
        f", {count} of {name} left out: no score in {metric}" for name, count in scoring.get("left_out", {}).items()
    )
    items = ", ".join(f"{count} {name}" for name, count in counts.items())
    goal = goal_of({"scoring": scoring})
    return f"{items} items{left_out}; score: {f'{goal.name} (lower is better)' if goal.lower_is_better else metric}"
