"""The contenders: translations of spaces, what is installed, and that they search."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from partune.bench.options import Searching
from partune.bench.search import landscape, peers
from partune.bench.search.peers import PEERS, Race, contender
from partune.bench.search.problems import names
from partune.errors import UserError
from partune.space import Choice, Float, Space
from tests.support.races import CORE, SPHERE, value

SLOW = ("ax", "smac")


@pytest.mark.parametrize(
    "name", [*CORE[:2], *(pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in PEERS)]
)
def test_a_contender_beats_a_middling_configuration_and_stays_in_the_space(name: str) -> None:
    if name in PEERS and PEERS[name].missing:
        pytest.skip(f"{name} is not installed")
    racer = contender(name, Race(SPHERE, seed=0, budget=15, noisy=False))
    best = -math.inf
    for _ in range(15):
        asked = racer.ask()
        assert asked is not None
        SPHERE.check(asked)
        best = max(best, value(asked))
        racer.tell(value(asked))
    named = racer.recommend()
    assert named is None or value(named) <= best
    assert best > np.median([value(SPHERE.decode(u)) for u in np.random.default_rng(0).random((999, 3))])


CONDITIONAL = Space(
    momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}), optimizer=Choice(["adamw", "sgd"]), flag=Choice([True, False])
)


@pytest.mark.parametrize("name", ["random", "optuna-tpe", "smac", "scipy-direct"])
def test_conditions_and_choices_are_translated(name: str) -> None:
    if name in PEERS and PEERS[name].missing:
        pytest.skip(f"{name} is not installed")
    racer = contender(name, Race(CONDITIONAL, seed=0, budget=12, noisy=True))
    seen = set()
    for n in range(12):
        asked = racer.ask()
        assert asked is not None
        CONDITIONAL.check(asked)
        seen.add((asked["optimizer"], asked["flag"]))
        racer.tell(float(n))
    assert len(seen) > 1


def test_direct_run_anew_asks_what_direct_run_through_asks() -> None:
    from scipy.optimize import direct

    space = Space(x=Float(0, 1), y=Float(0, 1))
    through: list[tuple[float, ...]] = []

    def loss(x: np.ndarray) -> float:  # type: ignore[type-arg]
        through.append(tuple(x.tolist()))
        return float((x[0] - 0.3) ** 2 + abs(x[1] - 0.8))

    direct(loss, [(0, 1), (0, 1)], maxfun=30)
    racer = contender("scipy-direct", Race(space, 0, 30, noisy=False))
    for point in through[:25]:
        asked = racer.ask()
        assert asked == pytest.approx(dict(zip("xy", point, strict=True)))
        assert asked is not None
        racer.tell(-float((asked["x"] - 0.3) ** 2 + abs(asked["y"] - 0.8)))  # type: ignore[operator]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PEERS, "smac", peers.Peer(peers.Smac, "smac", "no_such_module"))
    with pytest.raises(UserError, match="the contender smac needs smac: run `pip install smac`"):
        peers.chosen(("random", "smac"), 50, print)
    told: list[str] = []
    assert "smac" not in peers.chosen(("all",), 50, told.append)
    assert "smac is left out, because smac is not installed: run `pip install smac`" in told
    monkeypatch.setitem(PEERS, "optuna-cmaes", peers.Peer(peers.cmaes, "cmaes", "no_such_module"))
    assert "optuna-cmaes" not in peers.chosen(("all",), 50, told.append)  # nor as partune's own of that name
    monkeypatch.setattr(landscape, "FILE", tmp_path / "none.npz")
    with pytest.raises(UserError, match="landscape is missing"):
        names(Searching(problems=("demo",)))
