"""The work that contenders share in the tests of the benchmark of packs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from partune.bench.packing.workload import Workload, make
from tests.support.packing import TINY


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """Trials without dropout, whose masks every contender draws in its own way."""
    made = make(tmp_path_factory.mktemp("work"), TINY)
    still = tuple(each.model_copy(update={"lora_dropout": 0.0}) for each in made.configurations)
    return dataclasses.replace(made, configurations=still)
