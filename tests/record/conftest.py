"""A record of three trials, of which two are final."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune.record.record import Record
from tests.support.records import HEADER, SPACE, finished, proposed


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    record = Record.create(tmp_path / "s", SPACE, HEADER)
    for number, u in enumerate((0.123456789, 0.5, 0.987654321)):
        trial = proposed(number, (u, u, u, u, u, u))
        record.propose(trial)
        if number < 2:
            record.finish(finished(trial, score=u))
    record.close()
    return tmp_path / "s"
