"""BaMSOO is the published pseudo-code, node by node; the process is passed to both."""

from collections.abc import Callable, Sequence
from math import inf, pi, sqrt
from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.objectives.synthetic import SYNTHETIC, Synthetic
from partune.optimizers import bamsoo as module
from partune.optimizers.bamsoo import BaMSOO, b
from partune.optimizers.surrogate import Surrogate
from partune.space import Choice, Float, Int, Space
from partune.trial import Config, Trial
from tests.support.drive import Session, drive
from tests.support.pseudo_code import bamsoo

FUNCTIONS = ["himmelblau", "branin", "hartmann3", "hartmann6"]
H_MAX: dict[str, Callable[[int], float]] = {"sqrt": sqrt, "none": lambda t: inf}


class FixedProcess:
    """A noiseless process with a fixed length scale, in NumPy: the control flow can be compared in no time."""

    def __init__(self, space: Any, points: Sequence[Sequence[float]], scores: Sequence[float], *errors: Any) -> None:
        self.X, y = np.array(points), np.array(scores)
        self.shift, self.scale = y.mean(), max(float(y.std()), 1e-9)
        K = self.kernel(self.X, self.X) + 1e-6 * np.eye(len(y))
        self.inverse = np.linalg.inv(K)
        self.weights = self.inverse @ (y - self.shift) / self.scale

    def kernel(self, A: Any, B: Any) -> Any:
        return np.exp(-0.5 * ((A[:, None] - B[None]) ** 2).sum(-1) / 0.25**2)

    def posterior(self, points: Sequence[Sequence[float]]) -> tuple[Any, Any]:
        k = self.kernel(np.array(points), self.X)
        variance = 1 - np.einsum("ij,jk,ik->i", k, self.inverse, k)
        return self.shift + self.scale * (k @ self.weights), self.scale * np.sqrt(np.maximum(variance, 0))


class Believer(FixedProcess):
    """The same with failures, and as if pending points had its own mean."""

    def __init__(self, space: Any, points: Sequence[Sequence[float]], scores: Sequence[float], *errors: Any) -> None:
        y = np.array(scores, dtype=float)
        self.data = list(points), np.where(np.isfinite(y), y, y[np.isfinite(y)].min()).tolist()
        super().__init__(space, *self.data)

    def believing(self, points: Sequence[Sequence[float]]) -> "Believer":
        X, y = self.data
        return Believer(None, [*X, *points], [*y, *self.posterior(points)[0]])


def shared(process: Callable[..., Any]) -> Callable[..., Any]:
    """Each fit once: the same data give the oracle and the optimiser the same object."""
    fits: dict[Any, Any] = {}

    def fitted(space: Any, points: Sequence[Sequence[float]], scores: Sequence[float], *errors: Any) -> Any:
        key = tuple(map(tuple, points)), tuple(scores)
        if key not in fits:
            fits[key] = process(space, points, scores, *errors)
        return fits[key]

    return fitted


def assert_same_points(function: Synthetic, fit: Callable[..., Any], n: int, h_max: str, compare: str) -> None:
    """The points evaluated, and those that were only inferred, bit by bit and in order."""
    space = function.space

    def snapped(points: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
        return [space.encode(space.decode(point)) for point in points]

    def posterior(X: list[list[float]], y: list[float], x: list[float]) -> tuple[float, float]:
        mean, std = fit(space, snapped(X), y).posterior(snapped([x]))
        return float(mean[0]), float(std[0])

    expected, inferred = bamsoo(
        lambda u: function(space.decode(u)), posterior, space.dimension, n, H_MAX[h_max], strict=compare == ">"
    )
    optimizer = BaMSOO(space, h_max=h_max, compare=compare, patience=None)
    trials = drive(optimizer, function, budget=n)
    assert [trial.point for trial in trials] == [tuple(x) for x in expected]
    tested = [note for trial in trials for note in trial.notes]
    assert [note["point"] for note in tested if tuple(note["point"]) not in {trial.point for trial in trials}] == [
        x for x, _ in inferred if x not in expected
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "h_max", "compare"),
    [
        pytest.param(name, h_max, compare, marks=[pytest.mark.thorough] * ((place + number) % 3 > 0))
        for place, name in enumerate(FUNCTIONS)
        for number, (h_max, compare) in enumerate([("none", ">="), ("sqrt", ">="), ("none", ">")])
    ],
)
def test_the_nodes_of_the_published_pseudo_code_in_its_order(
    monkeypatch: pytest.MonkeyPatch, name: str, h_max: str, compare: str
) -> None:
    fit = shared(FixedProcess)
    monkeypatch.setattr(module, "Surrogate", fit)
    assert_same_points(SYNTHETIC[name], fit, 120, h_max, compare)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["himmelblau", "branin", *(pytest.param(each, marks=pytest.mark.thorough) for each in FUNCTIONS[2:])]
)
def test_the_nodes_of_the_published_pseudo_code_with_the_real_process(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fit = shared(Surrogate)
    monkeypatch.setattr(module, "Surrogate", fit)
    assert_same_points(SYNTHETIC[name], fit, 100, "none", ">=")


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    monkeypatch.setattr(module, "Surrogate", FixedProcess)
    return drive(BaMSOO(SYNTHETIC["branin"].space), SYNTHETIC["branin"], budget=60)


def test_inferred_nodes_are_recorded_and_cost_nothing(record: list[Trial]) -> None:
    assert len(record) == 60
    tested = [note for trial in record for note in trial.notes]
    inferred = [note for note in tested if tuple(note["point"]) not in {trial.point for trial in record}]
    assert len(inferred) > 10
    assert all(set(note) == {"point", "mean", "std"} for note in tested)


def test_a_replay_fits_nothing(monkeypatch: pytest.MonkeyPatch, record: list[Trial]) -> None:
    def fit(*data: object) -> None:
        raise AssertionError("a replay fitted a process")

    monkeypatch.setattr(module, "Surrogate", fit)
    optimizer = BaMSOO(SYNTHETIC["branin"].space)
    optimizer.replay(record)
    assert [proposal.notes for proposal in optimizer.proposals] == [trial.notes for trial in record]


def test_a_replay_takes_what_was_inferred_from_the_record(monkeypatch: pytest.MonkeyPatch, record: list[Trial]) -> None:
    """Other libraries would infer otherwise; the recorded numbers decide."""
    import dataclasses
    import json

    from partune.optimizers import ReplayError

    notes = json.loads(json.dumps(record[40].notes))
    assert notes
    written = dataclasses.replace(record[40], notes=tuple(notes))
    BaMSOO(SYNTHETIC["branin"].space).replay([*record[:40], written])
    with pytest.raises(ReplayError, match=r"trial 40: the search infers a score at .* next inferences are none"):
        BaMSOO(SYNTHETIC["branin"].space).replay([*record[:40], dataclasses.replace(record[40], notes=())])
    extra = dataclasses.replace(record[40], notes=(*notes, {"point": [0.5, 0.5], "mean": 0.0, "std": 1.0}))
    with pytest.raises(ReplayError, match="the search does not"):
        BaMSOO(SYNTHETIC["branin"].space).replay([*record[:40], extra])


def test_the_process_is_trained_on_the_points_really_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space(rank=Int(2, 9), rate=Float(1e-6, 1e-2, log=True))
    grid = {space.encode({"rank": rank, "rate": 1e-4})[0] for rank in range(2, 10)}
    trained: list[float] = []

    class Spy(FixedProcess):
        def __init__(
            self, space: Any, points: Sequence[Sequence[float]], scores: Sequence[float], *errors: Any
        ) -> None:
            trained.extend(point[0] for point in points)
            super().__init__(space, points, scores, *errors)

    monkeypatch.setattr(module, "Surrogate", Spy)
    drive(BaMSOO(space), lambda config: -abs(float(config["rank"]) - 5), budget=20)
    assert trained
    assert set(trained) <= grid


def test_patience_evaluates_after_so_many_inferred(monkeypatch: pytest.MonkeyPatch) -> None:
    class Certain(FixedProcess):
        """Sure that nothing is better than what is there."""

        def posterior(self, points: Sequence[Sequence[float]]) -> tuple[Any, Any]:
            return np.full(len(points), -1e3), np.full(len(points), 1e-9)

    monkeypatch.setattr(module, "Surrogate", Certain)
    trials = drive(BaMSOO(SYNTHETIC["branin"].space, patience=7), SYNTHETIC["branin"], budget=5)
    assert [len(trial.notes) for trial in trials] == [0, 7, 7, 7, 7]


def test_b_n() -> None:
    """2 log(pi^2 / (6 eta)) = 2 log(pi^2 / 3) at N = 1, eta = 1/2."""
    assert b(1, 0.5) == pytest.approx(sqrt(2 * np.log(pi**2 / 3)))
    assert b(10, 0.5) ** 2 - b(1, 0.5) ** 2 == pytest.approx(4 * np.log(10))


def test_n_counts_every_node_the_root_and_middle_children_too(record: list[Trial]) -> None:
    optimizer = BaMSOO(SYNTHETIC["branin"].space)
    drive(optimizer, SYNTHETIC["branin"], budget=3)
    assert optimizer._nodes == 4


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"eta": 1.0}, {"patience": 0}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must hold, got"):
        BaMSOO(SYNTHETIC["branin"].space, **options)


@pytest.mark.slow
@pytest.mark.parametrize(  # twice in each space
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(6, 12))]
)
def test_with_results_pending_an_ask_that_brought_nothing_left_no_trace(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """In small and mixed spaces, where cells run out and inferred nodes abound, the record alone gives the same."""
    spaces = [
        Space(a=Choice(["x", "y"]), b=Int(1, 4), c=Int(1, 5)),
        Space(a=Choice(["x", "y"]), f=Float(0, 1)),
        Space(rank=Int(2, 64, log=True), rate=Float(1e-6, 1e-2, log=True)),
    ]
    space = spaces[seed % 3]
    monkeypatch.setattr(module, "Surrogate", Believer)

    def objective(config: Config) -> float:
        return float(np.sin([float(ord(str(value)[0])) for value in config.values()]).sum())

    rng = np.random.default_rng(seed)
    session = Session(BaMSOO(space, patience=6), objective)
    for _ in range(60):
        if rng.random() < 0.5:
            session.ask(int(rng.integers(1, 9)))
        elif session.pending:
            session.tell(session.pending[int(rng.integers(len(session.pending)))])
    resumed = session.resumed(BaMSOO(space, patience=6))
    assert resumed.optimizer.proposals == session.optimizer.proposals
    assert resumed.ask(3) == session.ask(3)
