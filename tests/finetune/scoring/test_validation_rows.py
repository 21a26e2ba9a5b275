"""Which rows are held out, and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from partune import config
from partune.finetune.data import tokenise
from partune.finetune.model import Base
from partune.finetune.scoring.validation_rows import drawn, grouped, held_out, twins
from tests.support.lettered import examples_of
from tests.support.tiny import make_rows, write_jsonl

LETTERS = st.text("abc", max_size=2)
DRAWN = st.lists(st.tuples(LETTERS, st.text("xyz", min_size=2, max_size=3)), min_size=1, max_size=40)


@given(DRAWN, st.floats(0.05, 0.6), st.integers(0, 5))
def test_twins_stay_together_and_the_share_is_near(rows: list[tuple[str, str]], share: float, seed: int) -> None:
    examples = examples_of(rows)
    groups = grouped(examples)
    trained, validation = held_out(examples, share, seed)
    assert sorted([*trained, *validation]) == list(range(len(rows)))
    assert not set(groups[trained]) & set(groups[validation])
    assert abs(len(validation) - share * len(rows)) <= max(np.bincount(groups)) / 2 + 1e-9
    assert held_out(examples, share, seed)[1].tolist() == validation.tolist()
    wholes = [prompt + answer for prompt, answer in rows]
    for i, j in zip(*np.triu_indices(len(rows), 1), strict=True):
        if wholes[i] == wholes[j]:
            assert groups[i] == groups[j]


def test_rows_with_one_prompt_are_one_group_unless_most_rows_have_it() -> None:
    few = [("a", "xx"), ("a", "yy"), ("b", "xx"), ("c", "xx"), ("d", "xx")]
    assert grouped(examples_of(few)).tolist() == [0, 0, 1, 2, 3]
    most = [("a", "xx"), ("a", "yy"), ("a", "xx"), ("b", "xx")]
    groups = grouped(examples_of(most))
    assert groups[0] == groups[2]
    assert len(set(groups)) == 3


def test_examples_of_one_row_are_one_group() -> None:
    examples = examples_of([("a", "xx"), ("b", "yy"), ("c", "zz")])
    examples.numbers[:] = [1, 1, 2]
    assert grouped(examples).tolist() == [0, 0, 1]


def test_a_group_that_is_too_large_is_passed_over() -> None:
    groups = np.array([0] * 50 + list(range(1, 51)))
    for seed in range(20):
        members = drawn(groups, 0.1, np.random.default_rng(seed))
        assert 5 <= len(members) <= 10
        assert members.min() >= 50


def test_rows_are_tokenised_with_their_numbers(base: Base, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = make_rows(6)
    rows[2] = {"instruction": "", "output": ""}
    data = config.Data(path=str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    assert tokenise(data, base.tokenizer).numbers.tolist() == [1, 2, 4, 5, 6]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_each_kind_gives_about_its_share(members: list[tuple[int, int]], share: float, seed: int) -> None:
    kinds = np.array([kind for _, kind in members])
    groups = np.unique([f"{kind} {group}" for group, kind in members], return_inverse=True)[1]
    chosen = drawn(groups, share, np.random.default_rng(seed), kinds)
    largest = np.bincount(groups).max()
    assert abs(len(chosen) - share * len(members)) <= largest / 2 + 1e-9
    for kind in set(kinds):
        assert abs((kinds[chosen] == kind).sum() - share * (kinds == kind).sum()) <= largest + 1e-9


def test_twins_are_counted() -> None:
    trained = examples_of([("a", "xx"), ("b", "yy"), ("", "text")])
    validation = examples_of([("a", "xx"), ("a", "zz"), ("b", "yy"), ("c", "yy"), ("", "text"), ("", "other")])
    assert twins(validation, trained) == (3, 4)
    assert twins(trained, validation) == (3, 3)
