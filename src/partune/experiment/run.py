"""Run the studies of an experiment, one after the other or several at once, and continue those that were interrupted.

All state is in the records of the studies. A worker process runs one study at a time, and exits if this process does.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from partune.config import StudyConfig
from partune.errors import UserError
from partune.experiment import calibration
from partune.experiment.findings import opened
from partune.experiment.protocol import CALIBRATION, Plan
from partune.report.facts import Facts
from partune.runtime.preemption import terminated_as_interrupted
from partune.study import StoppedError, Watcher
from partune.study import from_config as configured
from partune.trial import Trial

PATIENCE = 30.0  # seconds in which a study that must stop can save its running trials


class Job(NamedTuple):
    """A study to run, or to continue.

    Attributes:
        name: The name of the study's folder.
        config: The study's settings.
        directory: The study's folder.
    """

    name: str
    config: StudyConfig
    directory: Path


class Teller:
    """Base class of listeners to an experiment's progress. Its methods do nothing."""

    def noted(self, line: str) -> None:
        """Receive a line of text for the user."""

    def planned(self, trials: int, done: int) -> None:
        """Receive the number of trials in the experiment.

        Args:
            trials: The number of trials of all studies.
            done: The number of these trials that are already on record.
        """

    def calibrated(self, steps: list[calibration.Step], epochs: int) -> None:
        """Receive the result of the calibration.

        Args:
            steps: The comparison of each number of epochs with the full training.
            epochs: The number of epochs that is enough.
        """

    def began(self, name: str) -> None:
        """Handle the start of a study."""

    def trial(self, name: str) -> None:
        """Handle the end of a trial of a study."""

    def ended(self, name: str, facts: Facts) -> None:
        """Handle the end of a study.

        Args:
            name: The name of the study's folder.
            facts: The facts of the study.
        """

    def over(self) -> None:
        """Handle the end of the experiment, or its interruption."""


def run(plan: Plan, teller: Teller) -> None:
    """Run the studies of an experiment that are not finished.

    Args:
        plan: The experiment's plan.
        teller: The listener to the progress.

    Raises:
        UserError: The settings are wrong (this is checked before any work), or a study raised the error.
        StoppedError: A study stopped because it cannot continue.
    """
    plan.check()
    plan.begin()
    jobs = list(plan.studies(None).items())
    ladder = _calibration(plan)
    directories = [plan.directory / name for name, _ in jobs] + [job.directory for job in ladder]
    budget = len(jobs) * plan.base.search.budget + sum(job.config.search.budget for job in ladder)
    teller.planned(budget, sum(map(_ended, directories)))
    try:
        with terminated_as_interrupted():
            epochs = _calibrate(plan, ladder, teller)
            studies = [Job(name, study, plan.directory / name) for name, study in plan.studies(epochs).items()]
            _conduct(studies, plan.protocol.processes, teller)
    finally:
        teller.over()


def _calibrate(plan: Plan, ladder: list[Job], teller: Teller) -> int | None:
    """Run the calibration, and return the number of epochs that is enough; None if there is no calibration."""
    if not ladder:
        return None
    _conduct(ladder, 1, teller)
    steps = calibration.steps(calibration.scores(opened(ladder[0].directory).trials)[1])
    epochs = calibration.enough(steps, plan.protocol.sufficient)
    teller.calibrated(steps, epochs)
    return epochs


def _calibration(plan: Plan) -> list[Job]:
    return [Job(CALIBRATION, plan.calibration(), plan.directory / CALIBRATION)] if plan.calibrated else []


def _ended(directory: Path) -> int:
    return sum(trial.status.final for trial in opened(directory).trials) if directory.is_dir() else 0


def _conduct(jobs: list[Job], processes: int, teller: Teller) -> None:
    """Run those studies that are not finished."""
    missing = [job for job in jobs if not (job.directory.is_dir() and opened(job.directory).over)]
    if processes == 1 or len(missing) < 2:
        for job in missing:
            teller.began(job.name)
            conduct(job, partial(teller.trial, job.name))
            teller.ended(job.name, opened(job.directory))
    else:
        with _workers(min(processes, len(missing))) as workers:
            _share(missing, workers, teller)


def conduct(job: Job, after_trial: Callable[[], None]) -> None:
    """Run a study to its end in this process.

    Args:
        job: The study.
        after_trial: The function to call after each trial.
    """
    study = configured.study(job.config, job.directory, job.directory.is_dir(), watcher=_Counter(after_trial))
    try:
        study.run(job.config.search.budget)
    finally:
        study.close()
        del study
        # The base model and its engine refer to each other. Free them before the next study loads its own base model.
        gc.collect()


class _Counter(Watcher):
    def __init__(self, after_trial: Callable[[], None]) -> None:
        self._after_trial = after_trial

    def finished(self, trial: Trial) -> None:
        self._after_trial()


# ----- several at once


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection


def _share(jobs: Iterable[Job], workers: list[_Worker], teller: Teller) -> None:
    """Hand a study to each worker, and another to a worker that finishes; raise the error of a study that failed."""
    waiting = iter(jobs)
    busy: dict[Connection, Job] = {}

    def hand(pipe: Connection) -> None:
        if (job := next(waiting, None)) is not None:
            pipe.send(job)
            busy[pipe] = job
            teller.began(job.name)

    for worker in workers:
        hand(worker.pipe)
    while busy:
        for pipe in wait([*busy]):
            assert isinstance(pipe, Connection)
            job = busy[pipe]
            try:
                news = pipe.recv()
            except EOFError:
                raise UserError(
                    f"the process of {job.name} died (out of memory?): run the same command again to continue"
                ) from None
            if news == "trial":
                teller.trial(job.name)
                continue
            del busy[pipe]
            if isinstance(news, BaseException):
                raise news
            teller.ended(job.name, opened(job.directory))
            hand(pipe)


@contextmanager
def _workers(count: int) -> Iterator[list[_Worker]]:
    """Yield processes that run the studies sent through their pipes.

    After an error they are terminated, but have time to save their running trials.
    """
    # A forked process would have torch's locks but not its threads, and could not use CUDA.
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,))
            process.start()
            theirs.close()  # otherwise the pipe would stay open when the worker dies, and hide its death
            workers.append(_Worker(process, ours))
        yield workers
    except BaseException:
        for worker in workers:
            worker.process.terminate()
        raise
    finally:
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(PATIENCE)
            worker.process.kill()


def _work(pipe: Connection) -> None:
    """Run the studies that arrive through a pipe until it closes: the main function of a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            job: Job = pipe.recv()
            try:
                conduct(job, lambda: pipe.send("trial"))
            except (UserError, StoppedError) as error:
                pipe.send(error)
            else:
                pipe.send("done")


def _end_with_parent() -> None:
    """Exit when the parent process exits. Otherwise a study would run on, and nobody else could continue it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # sys.exit would only end this thread
