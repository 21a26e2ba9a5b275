"""Show the progress of an experiment: one line per study, and in a terminal a bar with the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from partune.experiment.calibration import Step
from partune.experiment.protocol import CALIBRATION
from partune.experiment.run import Teller
from partune.report import sentences, words
from partune.report.facts import Facts
from partune.report.words import span
from partune.runtime import rounding

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class Terminal(Teller):
    """Listener that prints to a console, with a progress bar if the console is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        from partune.runtime.console import log_console

        self.console = console or log_console()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._running: list[str] = []
        self._all = self._done = self._new = 0
        self._began = time.monotonic()

    def noted(self, line: str) -> None:
        """Print a line."""
        self._print(line)

    def planned(self, trials: int, done: int) -> None:
        """Print the number of trials, and start the bar.

        Args:
            trials: The number of trials of all studies.
            done: The number of these trials that are already on record.
        """
        from partune.runtime.console import progress_bar

        self._all, self._done, self._began = trials, done, time.monotonic()
        recorded = f", {done:,} of which are on record" if done else ""
        self._print(f"Experiment: {words.several(trials, 'trial')}{recorded}")
        if self.console.is_terminal and done < trials:
            self._bar = progress_bar(self.console)
            self._task = self._bar.add_task("", total=trials, completed=done)
            self._bar.start()

    def calibrated(self, steps: Sequence[Step], epochs: int) -> None:
        """Print how many epochs are enough.

        Args:
            steps: The comparison of each number of epochs with the full training.
            epochs: The number of epochs that is enough.
        """
        correlations = ", ".join(
            rounding.NONE if step.correlation is None else rounding.fixed(step.correlation, 2) for step in steps
        )
        self._print(
            f"{words.several(epochs, 'epoch')} {'is' if epochs == 1 else 'are'} enough: rank correlation {correlations}"
        )

    def began(self, name: str) -> None:
        """Show that a study began."""
        self._running.append(name)
        if self._bar is None:
            self._print(f"{name} ...")
        self._show()

    def trial(self, name: str) -> None:
        """Count a trial that ended."""
        self._done, self._new = self._done + 1, self._new + 1
        self._show()

    def ended(self, name: str, facts: Facts) -> None:
        """Print a study's verdict.

        Args:
            name: The name of the study's folder.
            facts: The facts of the study.
        """
        self._running.remove(name)
        took = span(sum(part.seconds for part in facts.parts))
        if name != CALIBRATION:
            self._print(f"{name:>14}  {sentences.headline(facts)}  ", (took, "dim"))
        self._show()

    def over(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, *parts: str | tuple[str, str]) -> None:
        from partune.runtime.console import line

        self.console.print(line(*parts))

    def _show(self) -> None:
        if self._bar is not None and self._task is not None:
            text = words.listed(self._running)
            if self._new:
                left = (time.monotonic() - self._began) / self._new * (self._all - self._done)
                text += f", {span(left)} left"
            self._bar.update(self._task, completed=self._done, description=text, refresh=True)
