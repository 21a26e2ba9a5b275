"""The number of configurations, with conditions of every kind."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from partune.space import SPACES, Choice, Int, Space
from tests.support.hyperparameters import counted


def test_size_counts_configurations() -> None:
    space = Space(a=Choice(["x", "y"]), b=Int(1, 3, when={"a": "x"}), c=Int(0, 4))
    points = np.random.default_rng(0).random((4000, 3))
    assert space.size == len({tuple(space.decode(p).items()) for p in points}) == (3 + 1) * 5
    assert SPACES["lora"].size is None


@given(st.randoms(use_true_random=False))
def test_size_is_the_number_of_configurations_however_conditions_tie(random: Random) -> None:
    parameters: dict[str, Choice | Int] = {}
    for k in range(random.randint(1, 6)):
        when = {
            parent: random.sample(list(parameters[parent].values), random.randint(1, len(parameters[parent].values)))
            for parent in random.sample(list(parameters), random.randint(0, min(2, len(parameters))))
        }
        own = Int(0, random.randint(1, 3), when=when) if random.random() < 0.5 else Choice([True, "a", 2], when=when)
        parameters[f"x{k}"] = own
    space = Space(dict(random.sample(list(parameters.items()), len(parameters))))
    assert space.size == counted(space)


def test_a_large_conditional_space_is_counted_without_going_through_it() -> None:
    """Twelve parents of a million values, each with two children under one value of it: a product of twelve sums."""
    parents = {f"p{k}": Int(1, 10**6) for k in range(12)}
    children = {f"{kind}{k}": Int(1, 4, when={f"p{k}": 7}) for kind in "ab" for k in range(12)}
    assert Space({**parents, **children}).size == (10**6 - 1 + 4 * 4) ** 12
    chain = {"c0": Int(0, 1), **{f"c{k}": Int(0, 1, when={f"c{k - 1}": 1}) for k in range(1, 200)}}
    assert Space(dict(chain)).size == 201


def test_what_is_tied_too_much_is_not_counted_instead_of_for_ever() -> None:
    parents = [f"p{k}" for k in range(40)]
    tie = Int(0, 1, when=dict.fromkeys(parents, 1))
    assert Space({**{name: Int(0, 1) for name in parents}, "tie": tie}).size in (2**40 + 1, None)
