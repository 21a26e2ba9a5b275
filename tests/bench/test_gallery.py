"""The pictures against what the optimisers did."""

import functools
import itertools
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from partune.bench import gallery
from partune.bench.gallery import PICTURES, PLANE, SCENES, Course, leaves
from partune.bench.marks import HIGH, LOW, SIDE, TOP
from partune.cli import main
from partune.errors import UserError
from partune.optimizers import optimizer
from partune.optimizers.partition import Partitioned
from partune.report.figures import VERMILLION
from tests.support.drive import drive
from tests.support.pictures import DOCS, SVG, circles, pixels

pytestmark = pytest.mark.slow

MODELS = {"bo", "bamsoo", "process"}  # fits whose last digits are the machine's
PARTITIONS = ["direct", "soo", "sequool", "bamsoo"]


@functools.cache
def course(name: str) -> Course:
    return SCENES[name].course()


@functools.cache
def drawn(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(gallery.plane(SCENES[name], course(name)))


@pytest.mark.parametrize("name", SCENES)
def test_every_trial_is_drawn_where_it_is_and_as_good_as_it_is(name: str) -> None:
    trials, picture = course(name).trials, drawn(name)
    assert len(trials) == SCENES[name].budget
    shown = circles(picture)
    assert {pixels(float(t.config["x1"]), float(t.config["x2"])) for t in trials} <= shown
    below = [y for _, y in sorted((x, y) for x, y in shown if y > TOP + SIDE + 20)]
    assert len(below) == len(trials)
    losses = [max(-trial.score, gallery.FLOOR) for trial in trials]
    for (a, at), (b, bt) in itertools.combinations(zip(losses, below, strict=True), 2):
        assert at >= bt or a >= b  # pixels go down as the function does
    best = min(-trial.score for trial in trials)
    assert f"the best f = {best:.3g} " in "".join(picture.itertext())


@pytest.mark.parametrize("name", ["grid", "genetic", "soo"])
def test_the_trials_are_those_of_the_algorithm_alone(name: str) -> None:
    scene = SCENES[name]
    alone = drive(optimizer(scene.algorithm, PLANE.space, seed=0, **scene.options), PLANE, scene.budget)
    assert [trial.config for trial in alone] == [trial.config for trial in course(name).trials]


def test_the_grid_has_25_points_and_the_hypercube_one_in_each_row_and_column() -> None:
    axis = (-5.0, -2.5, 0.0, 2.5, 5.0)
    assert sorted(course("grid").places) == sorted(itertools.product(axis, axis))
    strata = np.floor((np.array(course("lhs").places) - LOW) / (HIGH - LOW) * 25)
    assert (np.sort(strata, axis=0) == np.arange(25)[:, None]).all()


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_cells_tile_the_square(name: str) -> None:
    picture, optimizer = drawn(name), course(name).study.optimizer
    assert isinstance(optimizer, Partitioned)
    assert optimizer.tree is not None
    found = leaves(optimizer.tree)
    assert math.fsum(math.prod(b - a for a, b in zip(c.lower, c.upper, strict=True)) for c in found) == pytest.approx(1)
    for cell, other in itertools.permutations(found, 2):
        assert not all(a < u < b for a, u, b in zip(cell.lower, other.point, cell.upper, strict=True))
    cells = [each for each in picture.iterfind(f"{SVG}rect") if each.get("fill-opacity")]
    areas = [float(each.attrib["width"]) * float(each.attrib["height"]) for each in cells]
    assert len(cells) == len(found)
    assert sum(areas) == pytest.approx(SIDE**2, rel=0.01)


@pytest.mark.parametrize("name", PARTITIONS)
def test_every_cell_is_evaluated_or_marked_as_inferred(name: str) -> None:
    picture, optimizer = drawn(name), course(name).study.optimizer
    crosses = picture.findall(f"{SVG}path[@stroke='{VERMILLION}']")
    assert isinstance(optimizer, Partitioned)
    assert optimizer.tree is not None
    inferred = [cell for cell in leaves(optimizer.tree) if optimizer.known(cell.point) is None]
    assert all(math.isfinite(cell.score) for cell in inferred)
    assert len(crosses) == len(inferred)
    assert bool(inferred) == (name == "bamsoo")


def test_the_walk_goes_on_from_where_it_stood() -> None:
    seen = course("annealing").seen
    walked = drawn("annealing").findall(f"{SVG}polyline[@stroke='#222']")
    moves = [n for n in range(5, 50) if seen[n] == n]
    assert len(walked) == len(moves)
    assert all(seen[n] in (n, seen[n - 1]) for n in range(5, 50))
    assert seen[4] == min(range(5), key=lambda n: course("annealing").values[n])


def test_leaps_begin_at_local_optima() -> None:
    optimizer, picture = course("ils").study.optimizer, drawn("ils")
    leaps = picture.findall(f"{SVG}polyline[@stroke='{VERMILLION}'][@stroke-dasharray]")
    assert len(leaps) >= 1
    for number, left in optimizer.leaves.items():  # of ten neighbours, none was better
        tried = course("ils").values[number - optimizer.patience : number]
        assert min(tried) >= course("ils").values[left]
    ends = [each.attrib["points"].split()[0] for each in leaps]
    assert set(ends) <= {"{},{}".format(*pixels(*course("ils").places[n])) for n in optimizer.leaves.values()}


def test_the_command_draws_what_the_documentation_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gallery", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()}
    assert set(written) == {f"{name}.svg" for name in PICTURES} == {path.name for path in DOCS.iterdir()}
    assert all(name in said for name in written)
    page = (DOCS.parent / "algorithms.md").read_text(encoding="utf-8")
    for name, picture in written.items():
        assert len(picture.encode()) < 150_000
        assert f"(gallery/{name})" in page
        shown = (DOCS / name).read_text(encoding="utf-8")
        if Path(name).stem in MODELS:
            first, second = (ElementTree.fromstring(each) for each in (picture, shown))
            assert (first.attrib, first.findtext(f"{SVG}text")) == (second.attrib, second.findtext(f"{SVG}text"))
        else:
            assert picture == shown


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        gallery.write(tmp_path / "file")
