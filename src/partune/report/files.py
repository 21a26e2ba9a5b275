"""Where a study's report is written, when it is over or while it runs."""

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
from partune.runtime.disk import replace

REPORT = "report.html"
REFRESH = 5.0  # seconds after which a browser reads the report of a running study again
PATIENCE = 20  # times the writing's own seconds, to wait before the next: it is to take no worker's time away


def write(facts: Facts, refresh: float | None = None) -> Path:
    """Writes report.html into the study's directory, whole or not at all; raises UserError where that cannot be.

    refresh: as for `page`; while the study is not over.
    """
    if facts.directory is None:
        raise UserError("a study in memory has no report: give it a directory")
    path = facts.directory / REPORT
    replace(path, page(facts, None if facts.over else refresh))
    return path


def follow(directory: Path, storage: str | None = None, wanted: Callable[[], bool] = lambda: True) -> None:
    """Writes the report of a running study whenever there is news, until the study is over, or it is not wanted."""
    told: object = None
    while wanted():
        began = time.monotonic()
        record = Record.open(directory, read_only=True, storage=storage)
        if (found := news(record)) != told:
            facts, told = Facts(record), found
            write(facts, REFRESH)
            if facts.over:
                return
        time.sleep(max(REFRESH / 2, PATIENCE * (time.monotonic() - began)))


def news(record: Record) -> object:
    """What is another once a record has something new to show."""
    return [trial.status for trial in record.trials()], len(record.anchors()), record.budget


def accompany(directory: Path, storage: str | None, parent: int) -> None:
    """`follow` as a process beside the one that runs the study: it gives way, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.nice(10)
    try:
        follow(directory, storage, lambda: os.getppid() == parent)
    except UserError as error:
        print(f"partune: no live report: {error}", file=sys.stderr)
