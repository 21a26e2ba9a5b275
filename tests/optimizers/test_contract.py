"""What every optimiser keeps, whatever its algorithm."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from math import comb, inf, nan
from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.optimizers import ALGORITHMS, Optimizer, ReplayError, optimizer
from partune.space import Choice, Float, Int, Space
from partune.trial import Config, Observation, Proposal, Status
from tests.support.drive import Session, drive

# Small looks at the acquisition: the contract is the same, and the suite stays quick.
QUICK: dict[str, dict[str, Any]] = {
    "bo": {"n_init": 4, "look": 16, "rounds": 1},
    "lhs": {"size": 5},
    "annealing": {"n_init": 5, "horizon": 8},
    "ils": {"n_init": 5, "patience": 3},
    "genetic": {"size": 5},
    "optuna-tpe": {"n_init": 4, "candidates": 8},
    "optuna-gp": {"n_init": 9},
    "optuna-cmaes": {"population": 4},
    "optuna-nsga2": {"population": 4},
}
CASES = [(name, QUICK.get(name, {})) for name in ALGORITHMS]
CASES += [("soo", {"h_max": "sqrt", "compare": ">"}), ("bamsoo", {"h_max": "sqrt", "compare": ">"})]
CASES += [("fda", {"shape": "hypercube", "levels": 3}), ("stroquool", {"budget": 12})]
DEAR = {"optuna-gp": pytest.mark.thorough}  # fits its process by torch at each ask: too dear for an ordinary run
NAMES = [pytest.param(name, marks=DEAR.get(name, ())) for name in ALGORITHMS]

SPACE = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True), dropout=Float(0, 0.5))
FINITE = Space(a=Int(1, 3), b=Choice(["x", "y"]))
CONDITIONAL = Space(
    optimizer=Choice(["adamw", "sgd"]),
    momentum=Float(0, 0.99, when={"optimizer": "sgd"}),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
    rate=Float(1e-5, 1e-1, log=True),
)


def bowl(config: Config) -> float:
    """Best at learning_rate = 1e-4, lora_r = 8, dropout = 0.1."""
    rate, rank, dropout = (float(config[name]) for name in ("learning_rate", "lora_r", "dropout"))
    return -(float(np.log10(rate / 1e-4)) ** 2) - 0.1 * float(np.log2(rank / 8)) ** 2 - 10 * (dropout - 0.1) ** 2


def sometimes_failing(config: Config) -> float:
    return nan if not 0.03 <= float(config["dropout"]) <= 0.4 else bowl(config)


@pytest.fixture(
    params=[pytest.param(case, marks=DEAR.get(case[0], ())) for case in CASES],
    ids=[f"{name}-{'-'.join(map(str, o.values()))}".rstrip("-") for name, o in CASES],
)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param


Case = tuple[str, dict[str, Any]]


def build(case: Case, space: Space = SPACE, seed: int = 0) -> Optimizer:
    name, options = case
    return optimizer(name, space, seed=seed, **options)


def points(trials: list[Any]) -> list[tuple[float, ...]]:
    return [trial.point for trial in trials]


# ----- where and what


@pytest.mark.slow
def test_stays_in_the_cube_and_numbers_in_order(case: Case) -> None:
    trials = drive(build(case), bowl, budget=15)
    assert [trial.number for trial in trials] == list(range(15))
    for trial in trials:
        assert all(0 <= u <= 1 for u in trial.point)
        assert trial.config == SPACE.decode(trial.point)
        SPACE.check(trial.config)


@pytest.mark.slow
def test_same_seed_same_points_other_seed_other_points(case: Case) -> None:
    first, again, other = (points(drive(build(case, seed=seed), bowl, budget=10)) for seed in (3, 3, 4))
    assert first == again
    assert (first != other) == build(case).seeded


def seed_globally(seed: int) -> list[bytes]:
    """Seed the generators of NumPy and, where it is installed, of PyTorch; return their states."""
    np.random.seed(seed)  # noqa: NPY002
    if find_spec("torch") is not None:
        import torch

        torch.manual_seed(seed)
    return global_states()


def global_states() -> list[bytes]:
    states = [np.random.get_state()[1].tobytes()]  # type: ignore[index, union-attr]  # noqa: NPY002
    if find_spec("torch") is not None:
        import torch

        states.append(torch.get_rng_state().numpy().tobytes())
    return states


@pytest.mark.slow
def test_no_global_generator_is_drawn_from_or_listened_to(case: Case) -> None:
    before = seed_globally(1)
    first = points(drive(build(case), bowl, budget=8))
    assert global_states() == before
    seed_globally(2)
    assert points(drive(build(case), bowl, budget=8)) == first


@pytest.mark.slow
def test_no_configuration_is_proposed_twice(case: Case) -> None:
    space = Space(rank=Int(1, 8), on=Choice([True, False]), rate=Float(0, 1))
    trials = drive(build(case, space), lambda config: -float(config["rank"]), budget=25)
    assert len({tuple(trial.config.items()) for trial in trials}) == 25


@pytest.mark.slow
def test_conditions(case: Case) -> None:
    def objective(config: Config) -> float:
        return float(config.get("momentum", 0.2)) - abs(float(np.log10(float(config["rate"]))) + 3)

    trials = drive(build(case, CONDITIONAL), objective, budget=16)
    for trial in trials:
        CONDITIONAL.check(trial.config)
    assert {trial.config["optimizer"] for trial in trials} == {"adamw", "sgd"}
    assert len({tuple(trial.config.items()) for trial in trials}) == 16


# ----- asking and telling


# These need the results of what they asked before they can go on, and say so in docs/algorithms.md.
WAITING = {"direct", "direct-l", "fda", "sequool", "stroquool"}


@pytest.mark.slow
def test_asks_in_batches_that_differ(case: Case) -> None:
    session = Session(build(case), bowl)
    while session.told < 5:
        session.ask()
        session.tell(session.pending[0])
    for _ in range(4):
        batch = session.ask(5)
        assert len(batch) == 5 or (batch and case[0] in WAITING)
        for trial in session.pending:
            session.tell(trial)
    assert len({tuple(trial.config.items()) for trial in session.trials}) == len(session.trials)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.values[0] not in WAITING])
def test_with_eight_in_flight_none_idles_once_a_few_results_are_in(name: str) -> None:
    session = Session(build((name, QUICK.get(name, {}))), sometimes_failing)
    rng = np.random.default_rng(1)
    while session.told < 3:
        session.ask()
        session.tell(session.pending[0])
    for _ in range(25):
        session.ask(8 - len(session.pending))
        assert len(session.pending) == 8
        session.tell(session.pending[int(rng.integers(8))])
    resumed = session.resumed(build((name, QUICK.get(name, {}))))
    assert resumed.optimizer.proposals == session.optimizer.proposals


@pytest.mark.slow
def test_never_stalls_and_takes_results_in_any_order(case: Case) -> None:
    session = Session(build(case), sometimes_failing)
    rng = np.random.default_rng(0)
    while len(session.trials) < 15:
        session.ask(int(rng.integers(1, 4)))
        assert session.pending, "nothing is proposed, nothing is pending, and nothing is finished"
        assert not session.optimizer.finished
        session.tell(session.pending[int(rng.integers(len(session.pending)))])
    while session.pending:
        session.tell(session.pending[-1])
    assert session.ask()


def test_what_is_not_pending_cannot_be_told(case: Case) -> None:
    algorithm = build(case)
    (proposal,) = algorithm.ask()
    with pytest.raises(ValueError, match="was not made by this optimiser"):
        algorithm.tell(Proposal(7, proposal.point, proposal.config), 1.0)
    with pytest.raises(ValueError, match="was not made by this optimiser"):
        algorithm.tell(Proposal(0, (0.1, 0.2, 0.3), proposal.config), 1.0)
    algorithm.tell(proposal, 1.0)
    with pytest.raises(ValueError, match=r"already told, with score 1\.0"):
        algorithm.tell(proposal, 2.0)
    with pytest.raises(ValueError, match="n >= 1"):
        algorithm.ask(0)


@pytest.mark.slow
def test_sees_the_score_alone(case: Case) -> None:
    plain, rich = build(case), build(case)
    for _ in range(8):
        (one,), (two,) = plain.ask(), rich.ask()
        assert one == two
        score = bowl(one.config)
        plain.tell(one, score)
        rich.tell(two, Observation({"score": score, "mmlu": 0.9}, items={"verdict": np.ones(3)}, cost={"seconds": 9}))


@pytest.mark.slow
def test_the_order_of_the_results_changes_nothing_once_all_are_told(case: Case) -> None:
    one, two = build(case), build(case)
    for _ in range(4):
        batch = one.ask(5)
        assert two.ask(5) == batch
        for proposal in batch:
            one.tell(proposal, bowl(proposal.config))
        for k in np.random.default_rng(len(one.proposals)).permutation(len(batch)):
            two.tell(batch[k], bowl(batch[k].config))
    assert one.ask(5) == two.ask(5)


# ----- odd spaces and scores


@pytest.mark.slow
def test_forty_dimensions(case: Case) -> None:
    kinds = (Float(0, 1), Int(1, 64, log=True), Int(0, 9), Choice(["a", "b", "c"]))
    space = Space({f"x{i}": kinds[i % 4] for i in range(40)})
    if case[1].get("shape") == "hypercube":
        with pytest.raises(UserError, match="at most 10 hyperparameters, got 40; use shape=hypersphere"):
            build(case, space)
        return
    trials = drive(build(case, space), lambda config: -float(config["x0"]), budget=10)
    assert len({tuple(trial.config.items()) for trial in trials}) == 10


@pytest.mark.slow
def test_an_axis_of_one_value_is_no_obstacle(case: Case) -> None:
    space = Space(only=Choice(["only"]), x=Float(0, 1), n=Int(1, 3))
    trials = drive(build(case, space), lambda config: float(config["x"]), budget=16)
    assert len({tuple(trial.config.items()) for trial in trials}) == 16
    assert all(trial.config["only"] == "only" for trial in trials)


@pytest.mark.slow
def test_batches_never_repeat_and_exhaust_a_small_space(case: Case) -> None:
    space = Space(n=Int(1, 7), kind=Choice(["x", "y", "z"]))
    session = Session(build(case, space), lambda config: float(config["n"]))
    while session.ask(8):
        for trial in session.pending:
            session.tell(trial)
    assert session.optimizer.finished
    assert sorted((trial.config["n"], trial.config["kind"]) for trial in session.trials) == [
        (n, kind) for n in range(1, 8) for kind in "xyz"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("size", [1e300, -1e300])
def test_huge_scores_overflow_nowhere(case: Case, size: float) -> None:
    def objective(config: Config) -> float:
        return size if float(config["dropout"]) > 0.25 else -size * float(config["dropout"])

    trials = drive(build(case), objective, budget=14)
    assert len({trial.point for trial in trials}) == 14


# ----- failures, plateaus, ends


@pytest.mark.slow
@pytest.mark.parametrize("score", [-inf, nan, 0.25], ids=["all fail", "all diverge", "constant"])
def test_goes_on_where_no_score_tells_anything(case: Case, score: float) -> None:
    trials = drive(build(case), lambda config: score, budget=14)
    assert len({trial.point for trial in trials}) == 14


@pytest.mark.slow
def test_goes_on_where_some_fail(case: Case) -> None:
    trials = drive(build(case), sometimes_failing, budget=18)
    failed = [trial for trial in trials if trial.status is Status.FAILED]
    assert failed
    assert len(trials) == 18


@pytest.mark.slow
def test_a_trial_that_was_stopped_unscored_counts_as_the_worst(case: Case) -> None:
    algorithm = build(case)
    for _ in range(6):
        (proposal,) = algorithm.ask()
        stopped = proposal.number == 2
        algorithm.tell(proposal, Observation(status=Status.STOPPED) if stopped else bowl(proposal.config))
    assert algorithm.history[1][2] == -inf


@pytest.mark.slow
def test_a_finite_space_is_exhausted_and_says_so(case: Case) -> None:
    algorithm = build(case, FINITE)
    session = Session(algorithm, lambda config: float(config["a"]))
    while session.ask(2):
        assert not algorithm.finished
        for trial in session.pending:
            session.tell(trial)
    assert algorithm.finished
    assert algorithm.ask(3) == []
    assert sorted((trial.config["a"], trial.config["b"]) for trial in session.trials) == [
        (a, b) for a in (1, 2, 3) for b in ("x", "y")
    ]


def test_is_not_finished_while_the_last_result_is_missing(case: Case) -> None:
    algorithm = build(case, Space(a=Choice(["only"])))
    (proposal,) = algorithm.ask(4)
    assert algorithm.ask() == []
    assert not algorithm.finished
    algorithm.tell(proposal, 1.0)
    assert algorithm.finished


# ----- replay

# Random moves of a session; a model costs more each, a sequential algorithm gets fewer proposals out of them.
STEPS = {name: {"bo": 26, "optuna-gp": 26}.get(name, 60) for name in ALGORITHMS}


def play(session: Session, steps: range) -> None:
    """Asks and tells by a fixed schedule of random moves."""
    for step in steps:
        rng = np.random.default_rng([99, step])
        if rng.random() < 0.5:
            session.ask(int(rng.integers(1, 4)))
        elif session.pending:
            session.tell(session.pending[int(rng.integers(len(session.pending)))])


@cache
def unbroken(name: str) -> Session:
    session = Session(build((name, QUICK.get(name, {}))), sometimes_failing)
    play(session, range(STEPS[name]))
    return session


@pytest.mark.slow
@pytest.mark.parametrize("part", [1, 5, *(pytest.param(part, marks=pytest.mark.thorough) for part in (0, 3, 7, 10))])
@pytest.mark.parametrize("name", NAMES)
def test_resumes_from_any_prefix_as_if_it_had_never_stopped(name: str, part: int) -> None:
    case, cut = (name, QUICK.get(name, {})), part * STEPS[name] // 10
    broken = Session(build(case), sometimes_failing)
    play(broken, range(cut))
    resumed = broken.resumed(build(case))
    play(resumed, range(cut, STEPS[name]))
    assert len(resumed.trials) > 10
    assert [trial.proposal for trial in resumed.trials] == [trial.proposal for trial in unbroken(name).trials]
    assert resumed.optimizer.history == unbroken(name).optimizer.history


@pytest.mark.slow
def test_a_replay_needs_a_fresh_optimiser_and_a_whole_record(case: Case) -> None:
    trials = drive(build(case), bowl, budget=5)
    used = build(case)
    used.ask()
    with pytest.raises(ValueError, match="fresh optimiser"):
        used.replay(trials)
    with pytest.raises(ReplayError, match=r"proposals 0, 1, \.\.\., got \[1, 2, 3, 4\]"):
        build(case).replay(trials[1:])


@pytest.mark.slow
def test_a_record_that_disagrees_is_refused_with_both_points(case: Case) -> None:
    import dataclasses

    trials = drive(build(case), bowl, budget=5)
    moved = dataclasses.replace(trials[2], point=(0.123, 0.5, 0.5), config=SPACE.decode((0.123, 0.5, 0.5)))
    with pytest.raises(ReplayError, match=r"trial 2 disagrees.*recorded \(0\.123, 0\.5, 0\.5\).*replayed \("):
        build(case).replay([*trials[:2], moved, *trials[3:]])
    if build(case).seeded:
        with pytest.raises(ReplayError, match="trial 0 disagrees"):
            build(case, seed=1).replay(trials)


# ----- better than chance

CUBE = Space({f"x{i}": Float(0, 1) for i in range(3)})

# Algorithm, spheres, evaluations on each.
SIGN_TEST = [("soo", 20, 60), ("bo", 8, 20), ("bamsoo", 8, 25)]
SIGN_TEST += [(name, 20, 60) for name in ("sequool", "stroquool", "direct", "direct-l", "fda")]
SIGN_TEST += [("annealing", 30, 40), ("ils", 30, 40), ("genetic", 20, 40)]


def sphere(seed: int) -> Callable[[Config], float]:
    centre = np.random.default_rng([7, seed]).uniform(0.15, 0.85, size=3)
    return lambda config: -float(((np.array(list(config.values())) - centre) ** 2).sum())


@cache
def by_chance(seed: int) -> list[float]:
    """Return the scores of random search on a sphere; a smaller budget is a prefix of them."""
    return [trial.score for trial in drive(optimizer("random", CUBE, seed=seed), sphere(seed), budget=60)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n", "budget"), SIGN_TEST)
def test_beats_random_search_on_a_sphere(name: str, n: int, budget: int) -> None:
    """Sign test over n spheres with random centres: chance would pass with a probability below 2 %."""
    needed = next(k for k in range(n + 1) if sum(comb(n, wins) for wins in range(k, n + 1)) / 2**n < 0.02)
    wins = 0
    for seed in range(n):
        ours = drive(optimizer(name, CUBE, seed=seed), sphere(seed), budget=budget)
        wins += max(trial.score for trial in ours) > max(by_chance(seed)[:budget])
    assert wins >= needed
