"""The script that measures the demo's landscape: stopped and started at will."""

from __future__ import annotations

import runpy
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from partune.trial import Trial
from tests.support import ROOT

SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "search_landscape.py"))


def test_interrupted_it_begins_no_more_and_writes_what_ends(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    trials = SCRIPT["trials"](8, 0, 1)
    begun = []

    def measure(trial: Trial) -> dict[str, Any]:
        begun.append(trial.seed)
        if trial.seed == 2:
            while path.read_text().count("\n") < 3:  # until the first two are written
                time.sleep(0.01)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.5)
        return {"number": trial.number, "seed": trial.seed, **trial.config}

    assert SCRIPT["read"](path) == []
    with pytest.raises(KeyboardInterrupt):
        SCRIPT["collect"](measure, trials, 1, path)
    there = sorted(int(row["seed"]) for row in SCRIPT["read"](path))
    assert there == begun == [0, 1, 2]
    SCRIPT["collect"](measure, [trial for trial in trials if trial.seed not in there], 2, path)
    assert sorted(int(row["seed"]) for row in SCRIPT["read"](path)) == list(range(8))
