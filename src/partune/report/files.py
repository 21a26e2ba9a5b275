"""Write a study's report.html, once or repeatedly while the study runs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from partune.errors import UserError
from partune.record.record import Record
from partune.report.facts import Facts
from partune.report.html.page import page
from partune.runtime.disk import write_whole

REPORT = "report.html"
REFRESH = 5.0  # seconds after which a browser reads the report of a running study again
PATIENCE = 20  # a pause is this many times as long as the work before it, so that the work slows trials little


def write(facts: Facts, refresh: float | None = None) -> Path:
    """Write report.html into the study's directory, completely or not at all.

    Args:
        facts: The facts of the study's record.
        refresh: The seconds after which a browser reloads the page while the study is not over; None for never.

    Returns:
        The file's path.

    Raises:
        UserError: The study is in memory only, or the file cannot be written.
    """
    if facts.directory is None:
        raise UserError("a study in memory has no report: give it a directory")
    path = facts.directory / REPORT
    write_whole(path, page(facts, None if facts.over else refresh))
    return path


def follow(directory: Path, storage: str | None = None, wanted: Callable[[], bool] = lambda: True) -> None:
    """Write the report of a running study whenever its record changes, until the study is over.

    Args:
        directory: The study's directory.
        storage: The URL of the study's database, if it needs a password or has moved; None for the URL on record.
        wanted: Returns whether to continue. It is called before each reading of the record.

    Raises:
        UserError: The record cannot be read, or the report cannot be written.
    """
    written: object = None  # the news that the page on disk shows
    while wanted():
        began = time.monotonic()
        record = Record.open(directory, read_only=True, storage=storage)
        if (latest := news(record)) != written:
            facts, written = Facts(record), latest
            write(facts, REFRESH)
            if facts.over:
                return
        time.sleep(max(REFRESH / 2, PATIENCE * (time.monotonic() - began)))


def news(record: Record) -> object:
    """Return a value that changes whenever a report of the record would change."""
    return [trial.status for trial in record.trials()], len(record.anchors()), record.budget, record.time_limits


def accompany(directory: Path, storage: str | None, parent: int) -> None:
    """Run `follow` in this process until the report is complete, or until the process that runs the study ends.

    Args:
        directory: The study's directory.
        storage: The URL of the study's database, if it needs a password or has moved; None for the URL on record.
        parent: The id of the process that runs the study.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too, which must outlive the study
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.nice(10)  # a low priority, because drawing uses a core that the study may train on
    try:
        follow(directory, storage, lambda: os.getppid() == parent)  # a different parent means that the study was killed
    except UserError as error:
        print(f"partune: the live report has stopped: {error}", file=sys.stderr)
