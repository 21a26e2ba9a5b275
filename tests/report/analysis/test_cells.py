"""The tree that a report draws is the tree that the search grew."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from partune import Float, Space, Study, optimizer
from partune.optimizers.partition import Partitioned
from partune.report.analysis.cells import Partition, Region, partition
from tests.support.studies import PLANE, hill

CUBE = Space(x=Float(-5, 5), y=Float(-5, 5), z=Float(0, 1))


def grown(algorithm: str, budget: int, space: Space = PLANE) -> tuple[Study, Partition]:
    study = Study(space, hill, algorithm).run(budget)
    found = partition(optimizer(algorithm, space), study.trials)
    assert found is not None
    return study, found


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["soo", "bamsoo", "direct", "direct-l", "sequool", "stroquool"])
def test_the_tree_is_grown_again_from_the_record(algorithm: str) -> None:
    study, found = grown(algorithm, 30, CUBE)
    assert isinstance(study.optimizer, Partitioned)
    assert study.optimizer.tree is not None
    cells = list(study.optimizer.tree.cells)[: len(found.regions)]
    assert [(each.lower, each.upper, each.depth) for each in found.regions] == [
        (cell.lower, cell.upper, cell.depth) for cell in cells
    ]
    for region in found.regions:
        inside = [
            t
            for t in study.trials
            if all(a <= u <= b for a, u, b in zip(region.lower, t.point, region.upper, strict=True))
        ]
        if not math.isnan(region.score) and not region.inferred and algorithm != "stroquool":
            assert region.score in {trial.score for trial in inside}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["soo", "direct", "sequool"])
def test_leaves_cover_the_square_and_do_not_overlap(algorithm: str) -> None:
    _, found = grown(algorithm, 40)

    def within(inner: Region, outer: Region) -> bool:
        return inner is not outer and all(
            a <= c and d <= b for a, b, c, d in zip(outer.lower, outer.upper, inner.lower, inner.upper, strict=True)
        )

    leaves = [each for each in found.regions if not any(within(other, each) for other in found.regions)]
    areas = [math.prod(b - a for a, b in zip(each.lower, each.upper, strict=True)) for each in leaves]
    assert sum(areas) == pytest.approx(1)


def test_depths_are_those_of_the_trials_cells() -> None:
    study, found = grown("soo", 27)
    assert [number for number, _ in found.depths] == [trial.number for trial in study.trials]
    assert found.depths[0] == (0, 0)
    assert {depth for _, depth in found.depths[1:3]} == {1}
    assert found.inferred == []


@pytest.mark.slow
def test_what_was_inferred_is_told_apart() -> None:
    study, found = grown("bamsoo", 40)
    notes = sum(len(trial.notes) for trial in study.trials)
    assert notes > 0
    assert len(found.inferred) == notes
    assert any(region.inferred for region in found.regions)


def test_balls_of_the_fractal_decomposition() -> None:
    _, found = grown("fda", 20)
    assert found.round
    root, *children = found.regions
    assert (root.lower, root.upper) == ((0.0, 0.0), (1.0, 1.0))
    assert {each.depth for each in children} == {1, 2}
    assert all(b - a < 0.5 for each in children for a, b in zip(each.lower, each.upper, strict=True))


def test_other_searches_have_no_cells(tmp_path: Path) -> None:
    assert partition(optimizer("lhs", PLANE), []) is None
