"""Send the runs of a study to an experiment tracker: what all trackers share.

A tracker gets one run of its own for each trial, and one for each run outside the search (base model, baselines,
confirmations, fresh runs, winner), once it has a result: configuration, scores, costs, and the courses of its training.

To add a tracker, derive a class from `Tracker` and implement `send`:

    class Prints(Tracker):
        name = "prints"

        def send(self, run: TrackedRun) -> None:
            print(run.name, dict(run.metrics))

    partune.Study(space, objective, directory="runs/first", watcher=Prints()).run(20)
"""

from __future__ import annotations

import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np

from partune.errors import reason
from partune.runtime import extras
from partune.study.budget import Budget
from partune.study.watcher import Watched, Watcher
from partune.trial import Config, Observation, Status, Trial
from partune.trial.goals import SCORE, goal_of, text_loss
from partune.trial.names import POINTS, TRAINING_LOSS, Baseline, ResultName, RunName, WinnerScoring

FOLDER = "tracked"  # in the study's directory: for each tracker, the names of the runs that it has
UNSENT = (Baseline.ZERO, WinnerScoring.RELOADED)  # checks, which say nothing about a configuration
PATIENCE = 60.0  # the largest number of seconds to wait at the end for what is not sent yet

Curve = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # steps and values, (n,) each


@dataclass(frozen=True)
class TrackedRun:
    """A run with its result, as a tracker gets it.

    Attributes:
        study: The name of the study.
        name: The name of the run within the study: "trial 3", "base", "defaults", "confirm/3/1", ...
        config: The configuration.
        metrics: The scores and costs by name; "score" is what the optimiser maximises. Only finite numbers.
        curves: The courses of the training by name. The steps count from 1.
        tags: Texts: status, seed, and the error of a failed run.
        failed: Whether the run failed.
        seconds: The duration of the run; None if unknown.
    """

    study: str
    name: str
    config: Config
    metrics: Mapping[str, float]
    curves: Mapping[str, Curve]
    tags: Mapping[str, str]
    failed: bool
    seconds: float | None

    @property
    def rows(self) -> dict[int, dict[str, float]]:
        """The values of all curves by step, in the order of the steps, and then by the name of the curve."""
        rows: dict[int, dict[str, float]] = {}
        for name, (steps, values) in self.curves.items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                rows.setdefault(step, {})[name] = value
        return dict(sorted(rows.items()))


class Tracker(Watcher, ABC):
    """A watcher that sends runs to an experiment tracker, in a thread of its own, so that no trial waits.

    The study's directory lists which runs were sent. If a study is resumed, runs that are missing are sent. If sending
    fails, the study goes on without the tracker, and says so once.

    Attributes:
        name: The tracker's name, as in `--track`.
        packages: The packages that the tracker imports.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, note: Callable[[str], None] = warnings.warn) -> None:
        """Check that the tracker can be used.

        Args:
            note: Receives the line that says that the tracker has failed.

        Raises:
            UserError: A package is missing, or the tracker is not set up.
        """
        extras.require_packages(f"tracking with {self.name}", self.packages)
        self._note = note
        self._study: Watched | None = None
        self._sent: set[str] = set()
        self._queue: SimpleQueue[TrackedRun | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed = False
        self._goal = SCORE

    @abstractmethod
    def send(self, run: TrackedRun) -> None:
        """Send a run that has ended. It is called in the tracker's thread, for one run at a time."""

    @property
    def directory(self) -> Path | None:
        """The study's folder; None for a study in memory, or before a study has begun."""
        return None if self._study is None else self._study.directory

    # ----- what a watcher receives

    def noted(self, line: str) -> None:
        """Ignore a note, which is for people."""

    def limited(self, limits: Any) -> None:
        """Ignore the smallest gain that can be shown, which is for people."""

    def began(self, study: Watched, budget: Budget) -> None:
        """Note which runs of the study were sent before.

        Args:
            study: The study.
            budget: What the study may spend.
        """
        self._study = study
        self._failed = False
        self._queue = SimpleQueue()
        # A daemon, so that a tracker that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._work, args=(self._queue,), name=self.name, daemon=True)
        self._thread.start()
        ledger = self._ledger
        self._sent = set(ledger.read_text(encoding="utf-8").splitlines()) if ledger and ledger.exists() else set()

    def phase(self, name: str) -> None:
        """Before the search, send the runs that the record has and the tracker lacks."""
        if name != "search" or self._study is None:
            return
        for anchor, trial in self._study.anchors.items():
            self.anchored(anchor, trial)
        for trial in self._study.trials:
            if trial.status.final:
                self.finished(trial)

    def loaded(self, summary: Mapping[str, Any]) -> None:
        """Note whether scores are minus a loss.

        Args:
            summary: What the objective has loaded.
        """
        self._goal = goal_of(summary)

    def anchored(self, name: RunName, trial: Trial) -> None:
        """Send a run outside the search.

        Args:
            name: The name of the run.
            trial: The run with its result.
        """
        if name not in UNSENT:
            self._submit(str(name), trial)

    def finished(self, trial: Trial) -> None:
        """Send a trial."""
        self._submit(f"trial {trial.number}", trial)

    def ended(self) -> None:
        """Wait until everything is sent, but not longer than a minute."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._fail(f"has not answered for {PATIENCE:.0f} s")
        self._thread = None

    # ----- sending

    @property
    def _ledger(self) -> Path | None:
        return None if self.directory is None else self.directory / FOLDER / self.name

    def _submit(self, name: str, trial: Trial) -> None:
        if self._thread is None or self._failed or name in self._sent or trial.observation is None:
            return
        self._sent.add(name)
        study = "study" if self.directory is None else self.directory.name
        self._queue.put(self._run(study, name, trial, trial.observation))

    def _work(self, queue: SimpleQueue[TrackedRun | None]) -> None:
        """Send the runs in the queue until its end, which is None, or until sending fails."""
        while (run := queue.get()) is not None and not self._failed:
            try:
                self.send(run)
                if (ledger := self._ledger) is not None:
                    ledger.parent.mkdir(exist_ok=True)
                    with ledger.open("a", encoding="utf-8") as file:
                        file.write(f"{run.name}\n")
            except Exception as error:
                self._fail(reason(error))

    def _fail(self, what: str) -> None:
        """Stop sending, and say so."""
        if not self._failed:
            self._failed = True
            again = "" if self.directory is None else "; `partune resume` sends the runs that are missing"
            self._note(f"{self.name}: {what}. The study goes on without it{again}.")

    def _run(self, study: str, name: str, trial: Trial, observation: Observation) -> TrackedRun:
        metrics = {**_shown(observation.scores), **{f"cost/{what}": value for what, value in observation.cost.items()}}
        if observation.stderr is not None:
            metrics["score_stderr"] = observation.stderr
        if self._goal.lower_is_better and "score" in observation.scores:
            metrics[self._goal.name] = self._goal.shown(observation.scores["score"])
        tags = {"status": str(observation.status), "seed": str(trial.seed)}
        if observation.error is not None:
            tags["error"] = observation.error
        return TrackedRun(
            study,
            name,
            dict(trial.config),
            {what: value for what, value in metrics.items() if np.isfinite(value)},
            self._curves(observation),
            tags,
            observation.status is Status.FAILED,
            observation.cost.get("seconds"),
        )

    def _curves(self, observation: Observation) -> dict[str, Curve]:
        curves = {}
        losses = np.asarray(observation.items.get(TRAINING_LOSS, ()), float)
        points = np.asarray(observation.items.get(POINTS, np.empty((0, 2))), float)
        if len(losses):
            curves[TRAINING_LOSS] = (np.arange(1, len(losses) + 1), losses)
        if len(points):
            curves[f"{self._goal.name} in training"] = (points[:, 0].astype(int), self._goal.sign * points[:, 1])
        return {
            name: (steps[np.isfinite(values)], values[np.isfinite(values)]) for name, (steps, values) in curves.items()
        }


def plain_name(name: str) -> str:
    """Return a name of letters, digits and ``_-. /`` only, which all trackers accept."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def _shown(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores with those of perplexities as losses, by the names that reports show."""
    named = {}
    for name, value in scores.items():
        stem = name.removesuffix("_stderr")
        result = ResultName.of_array(stem)
        if result is not None and (goal := text_loss(result.what)) is not None:
            result = replace(result, what=goal.name)
            named[str(result) if stem == name else result.stderr] = goal.shown(value) if stem == name else value
        else:
            named[name] = value
    return named
