"""The script of a user does the work of a pack."""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Sequence

import pytest

from partune.bench.meter import Cost
from partune.bench.packing import contenders
from partune.bench.packing.contenders import Packed, processes
from partune.bench.packing.workload import Workload
from tests.support.packing import assert_same


def in_this_process(command: Sequence[str]) -> Cost:
    """Run a script as Python would, where all that it imports is loaded already."""
    began = time.perf_counter(), time.process_time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(command[1:]))
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # calls other programs
        runpy.run_path(command[1], run_name="__main__")
    return Cost(time.perf_counter() - began[0], time.process_time() - began[1])


@pytest.mark.slow
def test_the_script_trains_and_scores_the_same_trials(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "in_process", in_this_process)
    run = processes(work)
    assert_same(run, Packed.warm(work, 2).run(work), 1e-4)
    assert run.setup.cpu > 0
    assert run.train.cpu > 0
    assert run.score.cpu > 0


@pytest.mark.thorough  # the test above, with the time and the memory of real processes
def test_a_process_trains_and_scores_the_same_trials(work: Workload) -> None:
    run = processes(work)
    assert_same(run, Packed.warm(work, 2).run(work), 1e-4)
    assert run.setup.cpu > run.train.cpu  # at three steps
    assert run.peak > 1e8
