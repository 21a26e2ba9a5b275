"""The script of a user does the work of a pack."""

from __future__ import annotations

import pytest

from partune.bench.packing.contenders import Packed, processes
from partune.bench.packing.workload import Workload
from tests.support.packing import assert_same


@pytest.mark.slow
def test_a_process_trains_and_scores_the_same_trials(work: Workload) -> None:
    run = processes(work)
    assert_same(run, Packed.warm(work, 2).run(work), 1e-4)
    assert run.setup.cpu > run.train.cpu  # at three steps
    assert run.peak > 1e8
