"""The studies of an experiment, run one after the other or some beside each other, and continued where they stopped.

All that has to last is in the studies' own records. A worker process has one study at a time and ends with this one.
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

PATIENCE = 30.0  # seconds for a study to save what it runs, when it is told to stop


class Job(NamedTuple):
    """A study to run, or to continue.

    Attributes:
        name: Its folder's name.
        config: Its settings.
        directory: Its folder.
    """

    name: str
    config: StudyConfig
    directory: Path


class Teller:
    """A listener to an experiment's progress, which does nothing; front ends derive from it."""

    def noted(self, line: str) -> None:
        """Take a line for the user."""

    def planned(self, trials: int, done: int) -> None:
        """Take how long the experiment is.

        Args:
            trials: The trials of all studies.
            done: Those of them that are on record.
        """

    def calibrated(self, steps: list[calibration.Step], epochs: int) -> None:
        """Take how many epochs are enough.

        Args:
            steps: What each number of epochs is worth.
            epochs: The number that is enough.
        """

    def began(self, name: str) -> None:
        """Take that a study began."""

    def trial(self, name: str) -> None:
        """Take that a trial of a study ended."""

    def ended(self, name: str, facts: Facts) -> None:
        """Take that a study ended.

        Args:
            name: Its folder's name.
            facts: What is on record.
        """

    def over(self) -> None:
        """Take that the experiment ended, or was interrupted."""


def run(plan: Plan, teller: Teller) -> None:
    """Run what is missing of an experiment.

    Args:
        plan: The experiment.
        teller: Told of its progress.

    Raises:
        UserError: The input is bad, before anything is begun; or a study raised it.
        StoppedError: A study stopped, as it cannot go on.
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
    """Return the number of epochs that is enough; None where they are as given."""
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
    """Run studies that are not over yet."""
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
    """Run a study to its end, in this process.

    Args:
        job: The study.
        after_trial: Called after each trial.
    """
    study = configured.study(job.config, job.directory, job.directory.is_dir(), watcher=_Counter(after_trial))
    try:
        study.run(job.config.search.budget)
    finally:
        study.close()
        del study
        gc.collect()  # a base and its engine know each other; the next study loads one of its own


class _Counter(Watcher):
    def __init__(self, after_trial: Callable[[], None]) -> None:
        self._after_trial = after_trial

    def finished(self, trial: Trial) -> None:
        self._after_trial()


# ----- beside each other


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection


def _share(jobs: Iterable[Job], workers: list[_Worker], teller: Teller) -> None:
    """Hand a study to each worker, and another when it is done; raise what a study raised."""
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
    """Yield processes that run what comes through their pipes; told to stop, they save what they run."""
    context = multiprocessing.get_context(
        "spawn"
    )  # a forked process has torch's locks without its threads, and no CUDA
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,))
            process.start()
            theirs.close()  # or the pipe would not end with the worker, and its death would go unnoticed
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
    """Run studies from a pipe until it closes: a worker's whole life."""
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
    """End this process with its parent: a study that nobody waits for would keep others from continuing it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # sys.exit would end this thread only
