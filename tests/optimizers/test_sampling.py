import itertools
import warnings
from collections import Counter

import numpy as np
import pytest
from scipy.stats import qmc

from partune.errors import UserError
from partune.optimizers import ALGORITHMS, optimizer
from partune.optimizers.sampling import Grid, LatinHypercube, RandomSearch, Sobol, Stream
from partune.space import Choice, Float, Int, Space
from partune.trial import Point
from tests.support.drive import drive

SPACE = Space(x=Float(0, 1), y=Float(0, 1))


def test_every_stratum_of_every_axis_has_one_point_of_a_batch() -> None:
    trials = drive(LatinHypercube(SPACE, size=20), lambda config: 0.0, budget=60)
    for batch in range(3):
        strata = np.floor(20 * np.array([trial.point for trial in trials[20 * batch : 20 * batch + 20]]))
        assert (np.sort(strata, axis=0) == np.arange(20)[:, None]).all()
    assert trials[0].point != trials[20].point != trials[40].point


def test_random_search_is_uniform() -> None:
    points = np.array([trial.point for trial in drive(RandomSearch(SPACE), lambda config: 0.0, budget=400)])
    assert points.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.06)
    assert points.std(axis=0) == pytest.approx([12**-0.5] * 2, abs=0.03)
    assert abs(np.corrcoef(points.T)[0, 1]) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("cls", [RandomSearch, LatinHypercube, Sobol, Grid])
def test_the_last_of_a_large_finite_space_are_found(cls: type[Stream]) -> None:
    """16 x 16 equal shares: by drawing alone the last one would take 256 draws on average."""
    space = Space(a=Int(1, 16), b=Int(1, 16))
    assert len(drive(cls(space), lambda config: 0.0, budget=300)) == 256


@pytest.mark.slow
def test_both_ends_of_an_integer_get_their_share() -> None:
    """Each of 4 ranks is drawn with p = 1/4; 7 standard deviations of 1000 draws are 96."""
    space = Space(rank=Int(1, 4), x=Float(0, 1))
    ranks = [trial.config["rank"] for trial in drive(RandomSearch(space), lambda config: 0.0, budget=1000)]
    assert all(abs(ranks.count(rank) - 250) < 96 for rank in (1, 2, 3, 4))


def test_a_rare_condition_does_not_stop_the_stream() -> None:
    space = Space(kind=Choice(["plain", "rich"]), x=Float(0, 1, when={"kind": "rich"}))
    trials = drive(RandomSearch(space), lambda config: 0.0, budget=50)
    assert sum(trial.config["kind"] == "plain" for trial in trials) == 1


def test_a_hypercube_needs_points() -> None:
    with pytest.raises(UserError, match="size >= 1 must hold, got size=0"):
        LatinHypercube(SPACE, size=0)


# ----- Sobol


def points(optimizer: Stream, budget: int) -> list[Point]:
    return [trial.point for trial in drive(optimizer, lambda config: 0.0, budget)]


def test_sobol_points_are_scipys_and_a_net() -> None:
    """Of 2^m points of a scrambled Sobol sequence in two dimensions, one lies in each cell of every 2^j x 2^(m-j)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = np.array(points(Sobol(SPACE, seed=4), 200))
    rng = np.random.default_rng([4])
    assert found == pytest.approx(qmc.Sobol(2, rng=rng).random(256)[:200], abs=1e-11)
    for j in range(8):
        cells = np.floor(found[:128] * [2**j, 2 ** (7 - j)]).astype(int)
        assert len({tuple(cell) for cell in cells.tolist()}) == 128


def test_sobol_points_are_spread_more_evenly_than_random_ones() -> None:
    even, random = (
        np.mean([qmc.discrepancy(np.array(points(cls(SPACE, seed), 50))) for seed in range(10)])
        for cls in (Sobol, RandomSearch)
    )
    assert even < random / 3


# ----- grids


def test_a_grid_is_the_factorial_design_and_then_one_of_half_its_spacing() -> None:
    seen = points(Grid(SPACE, seed=1), 81)
    for n, levels in ((9, 3), (25, 5), (81, 9)):
        axis = [i / (levels - 1) for i in range(levels)]
        assert set(seen[:n]) == set(itertools.product(axis, axis))


def test_a_grid_takes_the_scales_ends_and_all_of_few_values() -> None:
    """The middle of the ranks' axis is sqrt(1.5 x 64.5) = 9.8, in the share of 10."""
    space = Space(rate=Float(1e-6, 1e-2, log=True), rank=Int(2, 64, log=True), few=Int(1, 2), kind=Choice(list("abcd")))
    trials = drive(Grid(space), lambda config: 0.0, budget=72)
    values = {name: {trial.config[name] for trial in trials} for name in space.names}
    assert values == {"rate": {1e-6, 1e-4, 1e-2}, "rank": {2, 10, 64}, "few": {1, 2}, "kind": set("abcd")}
    assert len({tuple(trial.config.items()) for trial in trials}) == 72


def test_the_points_of_an_axis_are_an_option() -> None:
    levels = sorted({u for u, _ in points(Grid(SPACE, points=4), 16)})
    assert levels == pytest.approx([0, 1 / 3, 2 / 3, 1])
    with pytest.raises(UserError, match="points >= 2 must hold, got points=1"):
        Grid(SPACE, points=1)


def test_the_seed_changes_the_order_of_a_grid_and_not_the_grid() -> None:
    one, two = points(Grid(SPACE, seed=1), 9), points(Grid(SPACE, seed=2), 9)
    assert one != two
    assert sorted(one) == sorted(two)


def test_a_grid_cut_short_is_spread_over_every_axis() -> None:
    """27 of 243 points: each level has its 9 within 3 on every axis; the first 27 of a lexical order lack two thirds
    of the first two axes."""
    space = Space({f"x{i}": Float(0, 1) for i in range(5)})
    for seed in range(5):
        for axis in np.array(points(Grid(space, seed), 27)).T:
            counts = Counter(axis.tolist())
            assert all(abs(counts[level] - 9) <= 3 for level in (0, 0.5, 1))


def test_a_grid_of_a_conditional_space_has_each_configuration_once() -> None:
    """Two of `plain`, of which x and y are no part, and 2 x 3 x 3 of `rich`; the cube's product would be 36."""
    space = Space(
        kind=Choice(["plain", "rich"]),
        x=Float(0, 1, when={"kind": "rich"}),
        y=Float(0, 1, when={"kind": "rich"}),
        n=Int(1, 2),
    )
    trials = drive(Grid(space), lambda config: 0.0, budget=20)
    assert sum(trial.config["kind"] == "plain" for trial in trials) == 2
    assert {trial.config.get("x", 0.0) for trial in trials} == {0.0, 0.5, 1.0}
    assert drive(Grid(space), lambda config: 0.0, budget=21)[20].config["kind"] == "rich"


def test_a_grid_of_a_finite_space_ends_with_all_of_it() -> None:
    """Grids of 3, 5, 9 and 17 values of a log scale, and then all 20; sqrt(0.5 x 20.5) = 3.2."""
    space = Space(rank=Int(1, 20, log=True), on=Choice([True, False]))
    trials = drive(Grid(space), lambda config: 0.0, budget=100)
    assert len(trials) == 40
    assert {trial.config["rank"] for trial in trials[:6]} == {1, 3, 20}


def test_a_space_of_many_conditional_axes_is_listed_by_its_configurations() -> None:
    """The cube's product has 2 x 2^30 points; there are 2 x 2 + 1 configurations."""
    rich = {f"x{i}": Choice([0, 1], when={"kind": "rich"}) for i in range(2)}
    never = {f"y{i}": Choice([0, 1], when={"x0": 1, "kind": "poor"}) for i in range(28)}
    space = Space({"kind": Choice(["poor", "rich"]), **rich, **never})
    assert len(drive(RandomSearch(space), lambda config: 0.0, budget=10)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("cls", [RandomSearch, LatinHypercube, Sobol, Grid])
def test_a_real_that_no_configuration_has_does_not_keep_a_search_alive(cls: type[Stream]) -> None:
    space = Space(
        kind=Choice(["poor", "rich"]),
        x=Choice([0, 1], when={"kind": "rich"}),
        never=Float(0, 1, when={"x": 1, "kind": "poor"}),
    )
    assert len(drive(cls(space), lambda config: 0.0, budget=10)) == 3


def test_whoever_is_no_mere_stream_learns() -> None:
    pytest.importorskip("torch")  # Optuna's Gaussian process is one of them
    deaf = {name for name in ALGORITHMS if not optimizer(name, SPACE).learns}
    assert deaf == {"random", "lhs", "sobol", "grid"}


def test_a_random_point_follows_from_seed_and_number() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1))
    for seed in (0, 7):
        points = [each.point for each in RandomSearch(space, seed=seed).ask(3)]
        drawn = [np.random.default_rng([seed, number]).random(2) for number in range(3)]
        assert np.array(points) == pytest.approx(np.array(drawn), abs=1e-11)
