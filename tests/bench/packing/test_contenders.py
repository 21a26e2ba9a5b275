"""All contenders train and score the same trials, and are measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from partune.bench.packing import run as packing
from partune.bench.packing.contenders import Packed, Shipped, Tuned, fastest, in_process
from partune.bench.packing.workload import Workload, make
from tests.support.litgpt import install
from tests.support.packing import TINY, assert_same


@pytest.mark.slow
def test_packs_and_tuned_peft_train_and_score_the_same_trials(work: Workload) -> None:
    tuned = Tuned.find(work).run(work)
    assert tuned.trials == 2
    assert tuned.train.wall > 0
    assert tuned.score.wall > 0
    for K in (1, 2):
        assert_same(Packed.warm(work, K).run(work), tuned, 1e-4)


@pytest.mark.slow
def test_a_pack_of_more_trials_repeats_the_configurations_with_new_seeds(work: Workload) -> None:
    trials = work.trials(4)
    assert sorted(trial.seed for trial in trials) == [0, 1, 2, 3]
    ranks = [trial.settings.lora_r for trial in trials]
    assert ranks == sorted(2 * [each.lora_r for each in work.configurations])
    assert Packed.warm(work, 4).run(work).trials == 4


def test_the_fastest_size_is_found_and_one_without_memory_is_out() -> None:
    def call(size: int) -> None:
        if size == 1:
            raise MemoryError
        sum(range(size))

    assert fastest((1, 1000, 1_000_000), call, torch.device("cpu")) == 1000


def test_a_failing_process_says_why_and_a_killed_one_had_no_memory() -> None:
    with pytest.raises(RuntimeError, match="ValueError: no"):
        in_process([sys.executable, "-c", "raise ValueError('no')"])
    with pytest.raises(packing.OutOfMemoryError):
        in_process([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


@pytest.mark.slow
def test_litgpt_as_shipped_has_a_line_of_its_own(tmp_path: Path) -> None:
    """With a stand-in for its command: its processes' time counts, and its scores are of all items."""
    command = install(tmp_path / "bin")
    (tmp_path / "work").mkdir()
    made = make(tmp_path / "work", TINY)
    shipped = Shipped.convert(made, str(command))
    run = shipped.run(made)
    assert run.trials == 2
    assert all(0 <= score <= 1 for score in run.scores)
    assert run.train.cpu > 0.01
    assert run.score.cpu > 0.01
    assert run.train.wall >= 0.01
    assert run.tokens == sum(made.tokens(trial) for trial in made.trials(2))
