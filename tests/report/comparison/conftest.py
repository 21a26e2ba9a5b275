"""Two algorithms with four repeats each, made once for all tests of comparisons."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from partune.report.comparison import data as compare
from partune.report.plain_data import Summary
from tests.support.compared import hill, made, opened

SEEDS = range(4)


@pytest.fixture(scope="package")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two algorithms, four repeats of each; random's are a little shorter and its objective is kinder to lhs."""
    folder = tmp_path_factory.mktemp("repeated")
    better = functools.partial(hill, better=5.0)
    return [
        *(made(folder / f"random-{seed}", "random", seed, 6) for seed in SEEDS),
        *(made(folder / f"lhs-{seed}", "lhs", seed, 8, objective=better) for seed in SEEDS),
    ]


@pytest.fixture(scope="package")
def found(repeated: list[Path]) -> Summary:
    return compare.compare(opened(*repeated))
