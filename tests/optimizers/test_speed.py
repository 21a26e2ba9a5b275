"""What an ask of the model-free partition family takes, in processor time, so that a busy machine does not matter.

The garbage collector is off meanwhile: its pauses are as long as the libraries that are loaded are large.
"""

import gc
import time
from collections.abc import Iterator

import numpy as np
import pytest

from partune.optimizers import optimizer
from partune.optimizers.partition import Tree
from partune.space import SPACES, Float, Int, Space
from partune.trial import Config, Proposal

MORE = [pytest.param(name, marks=pytest.mark.thorough) for name in ("sequool", "stroquool", "direct-l", "fda")]
FAMILY = ["soo", "direct", *MORE]
BOUND = 0.03  # s: three times what is aimed at


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def bowl(config: Config) -> float:
    return -sum((np.log(float(value) + 1e-9) - k) ** 2 for k, value in enumerate(config.values()))


@pytest.mark.slow
@pytest.mark.parametrize("width", [pytest.param(1, marks=pytest.mark.thorough), 8])  # 8 has all that 1 has
@pytest.mark.parametrize("name", FAMILY)
def test_every_ask_of_a_thousand_evaluations_is_quick(name: str, width: int) -> None:
    algorithm, rng = optimizer(name, SPACES["lora"]), np.random.default_rng(0)
    pending: list[Proposal] = []
    took = []
    while len(algorithm.proposals) < 1000:
        while len(pending) < width:
            began = time.process_time()
            asked = algorithm.ask()
            took.append(time.process_time() - began)
            if not asked:
                break
            pending += asked
        proposal = pending.pop(int(rng.integers(len(pending))))
        algorithm.tell(proposal, bowl(proposal.config))
    assert max(took) < BOUND


@pytest.mark.slow
def test_a_tree_of_ten_thousand_cells_is_searched_and_split_as_quickly() -> None:
    tree, rng, cells = Tree(SPACES["lora"]), np.random.default_rng(0), 1
    tree.root.score = 0.0
    tree.add([tree.root])
    took = []
    while cells < 10_000:
        began = time.process_time()
        depth = tree.shallowest
        leaf = next(leaf for row in reversed(range(tree.depth + 1)) if (leaf := tree.best(row)) is not None)
        assert depth is not None
        children = tree.split(tree.pop(depth if rng.random() < 0.5 else leaf.depth))
        for child in children:
            child.score = float(rng.standard_normal())
        tree.add(children)
        took.append(time.process_time() - began)
        cells += 3
    assert max(took) < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILY, "bamsoo", "bo"])
def test_the_values_of_an_integer_are_never_listed(name: str) -> None:
    optimizer(name, SPACES["lora"]).ask()  # libraries that an ask loads are loaded
    algorithm = optimizer(name, Space(steps=Int(1, 10**6, log=True), rate=Float(0, 1)))
    took = []
    for _ in range(12):
        began = time.process_time()
        (proposal,) = algorithm.ask()
        took.append(time.process_time() - began)
        algorithm.tell(proposal, bowl(proposal.config))
    assert max(took) < 10 * BOUND
