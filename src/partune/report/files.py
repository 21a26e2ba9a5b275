"""Where a study's report is written: report.html, when the study is over or while it runs."""

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
PATIENCE = 20  # times the writing's own seconds, to wait before the next: it is to take no worker's time away


def write(facts: Facts, refresh: float | None = None) -> Path:
    """Write report.html into the study's directory, whole or not at all.

    Args:
        facts: What is on record.
        refresh: Seconds after which a browser reads the page again while the study is not over; None for never.

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
    """Write the report of a running study whenever there is news, until the study is over.

    Args:
        directory: The study's directory.
        storage: The URL of its database, where it needs a password.
        wanted: Asked before each look; the report is no longer followed once it answers False.

    Raises:
        UserError: The record cannot be read, or the report cannot be written.
    """
    written: object = None  # the news that the page has
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
    """Return a value that changes once a record has something new to show."""
    return [trial.status for trial in record.trials()], len(record.anchors()), record.budget


def accompany(directory: Path, storage: str | None, parent: int) -> None:
    """Run `follow` in a process beside the one that runs the study, until that one ends.

    Args:
        directory: The study's directory.
        storage: The URL of its database, where it needs a password.
        parent: The id of the process that runs the study.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the study ends first, then this
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.nice(10)  # drawing takes a second of a core that the study trains on
    try:
        follow(directory, storage, lambda: os.getppid() == parent)  # another parent: the study was killed
    except UserError as error:
        print(f"partune: no live report: {error}", file=sys.stderr)
