import numpy as np
import pytest

from partune.errors import UserError
from partune.optimizers.sampling import LatinHypercube, RandomSearch
from partune.space import Choice, Float, Int, Space

from .drive import drive

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


@pytest.mark.parametrize("cls", [RandomSearch, LatinHypercube])
def test_the_last_of_a_large_finite_space_are_found(cls: type[RandomSearch]) -> None:
    """60 x 60 equal shares: by drawing alone the last one would take 3600 draws on average."""
    space = Space(a=Int(1, 60), b=Int(1, 60))
    assert len(drive(cls(space), lambda config: 0.0, budget=4000)) == 3600


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
