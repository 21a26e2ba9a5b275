"""partune's optimisers as Optuna samplers. The oracle is the optimiser itself, asked and told without Optuna."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState

from partune.errors import UserError
from partune.integrations.optuna import CLAIM, PATIENCE, PartuneSampler
from partune.optimizers import ALGORITHMS, Optimizer, optimizer, sampling
from partune.space import Choice, Float, Int, Space
from partune.trial import Config, Observation, Status
from tests.support.drive import drive

SPACE = Space(rate=Float(1e-6, 1e-2, log=True), rank=Int(2, 64, log=True), dropout=Float(0, 0.5))
OPTIONS: dict[str, dict[str, Any]] = {
    "lhs": {"size": 5},
    "grid": {"points": 2},
    "annealing": {"horizon": 8},
    "ils": {"patience": 3},
    "genetic": {"size": 5},
    "bo": {"n_init": 4, "look": 16, "rounds": 1},
}
CASES = [(name, OPTIONS.get(name, {})) for name in ALGORITHMS if not name.startswith("optuna-")]
every = pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
Objective = Callable[[optuna.Trial], float]


@pytest.fixture(autouse=True)
def silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def score(config: Config) -> float:
    rate, rank, dropout = (float(config[name]) for name in ("rate", "rank", "dropout"))
    return -(float(np.log10(rate / 1e-4)) ** 2) - 0.1 * float(np.log2(rank / 8)) ** 2 - 10 * (dropout - 0.1) ** 2


def suggested(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "rate": trial.suggest_float("rate", 1e-6, 1e-2, log=True),
        "rank": trial.suggest_int("rank", 2, 64, log=True),
        "dropout": trial.suggest_float("dropout", 0, 0.5),
    }


def loss(trial: optuna.Trial) -> float:
    config = suggested(trial)
    if config["dropout"] > 0.4:
        raise FloatingPointError("diverged")
    return -score(config)


def failing(config: Config) -> float:
    return -np.inf if float(config["dropout"]) > 0.4 else score(config)


def resumed(
    storage: BaseStorage, name: str, n: int, objective: Callable[[optuna.Trial], float] = loss, **o: Any
) -> Study:
    """The study in a storage, by a new sampler, with n more trials."""
    sampler = PartuneSampler(name, seed=3, space=SPACE, **o)
    study = optuna.create_study(storage=storage, study_name="s", sampler=sampler, load_if_exists=True)
    study.optimize(objective, n_trials=n, catch=FloatingPointError)
    return study


def journal(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


# ----- one process


@pytest.mark.slow
@every
def test_the_points_are_the_optimisers_own_failures_and_a_minimum_included(name: str, options: dict[str, Any]) -> None:
    study = resumed(InMemoryStorage(), name, 24, **options)
    expected = drive(optimizer(name, SPACE, seed=3, **options), failing, budget=24)
    assert [trial.params for trial in study.trials] == [trial.config for trial in expected]
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.FAIL}
    notes = [trial.system_attrs[CLAIM]["notes"] for trial in study.trials]
    assert notes == [[dict(note) for note in trial.notes] for trial in expected]


@pytest.mark.slow
@every
def test_resumes_from_the_storage_as_if_it_had_never_stopped(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    def stops(trial: optuna.Trial) -> float:
        if trial.number == 6:
            trial.study.stop()
        return loss(trial)

    expected = drive(optimizer(name, SPACE, seed=3, **options), failing, budget=14)
    resumed(journal(tmp_path / "j"), name, 3, **options)
    resumed(journal(tmp_path / "j"), name, 20, stops, **options)
    study = resumed(journal(tmp_path / "j"), name, 7, **options)
    assert [trial.params for trial in study.trials] == [trial.config for trial in expected]


@pytest.mark.slow
@every
def test_asks_while_others_run_and_learns_their_results_in_any_order(name: str, options: dict[str, Any]) -> None:
    """As the optimiser, asked and told in the same order; where that has nothing to propose, a random point."""
    found = optimizer(name, SPACE, seed=3, **options)
    study = optuna.create_study(sampler=PartuneSampler(name, seed=3, space=SPACE, **options))
    pending: list[tuple[optuna.Trial, Any]] = []
    rng = np.random.default_rng(0)
    for _ in range(30):
        if len(pending) < 3 and (not pending or rng.random() < 0.6):
            trial, proposals = study.ask(), found.ask()
            params = suggested(trial)
            if proposals:
                assert params == proposals[0].config
            claim = study.trials[trial.number].system_attrs[CLAIM]
            assert ("number" in claim) == bool(proposals)
            pending.append((trial, proposals))
        else:
            trial, proposals = pending.pop(int(rng.integers(len(pending))))
            study.tell(trial, -score(trial.params))
            if proposals:
                found.tell(proposals[0], score(trial.params))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "grid"])
def test_a_stream_that_repeats_itself_is_as_far_as_the_optimisers_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "PATIENCE", 5)
    space = Space(x=Int(1, 20))
    study = optuna.create_study(sampler=PartuneSampler(name, space=space))
    study.optimize(lambda trial: trial.suggest_int("x", 1, 20), n_trials=20)
    expected = drive(optimizer(name, space), lambda config: 0.0, budget=20)
    assert [trial.params for trial in study.trials] == [trial.config for trial in expected]


@pytest.mark.slow
def test_pruned_trials_count_as_stopped_ones_do() -> None:
    """Told through Optuna's values on the way, and as observations."""

    def way(config: Config) -> list[float]:
        return [0.5 * score(config), 0.8 * score(config)]

    def objective(trial: optuna.Trial) -> float:
        config = suggested(trial)
        for step, value in enumerate(way(config)):
            trial.report(-value, step)
            if trial.number % 3 == 1 and step == trial.number % 2:
                raise optuna.TrialPruned
        return -score(config)

    options = OPTIONS["bo"]
    study = optuna.create_study(sampler=PartuneSampler("bo", seed=3, space=SPACE, **options))
    study.optimize(objective, n_trials=12)
    found = optimizer("bo", SPACE, seed=3, **options)
    for trial in study.trials:
        (proposal,) = found.ask()
        assert trial.params == proposal.config
        rungs = {f"rung/{k}": value for k, value in enumerate(way(proposal.config))}
        if trial.state is TrialState.PRUNED:
            rungs = {f"rung/{k}": rungs[f"rung/{k}"] for k in range(trial.number % 2 + 1)}
            found.tell(proposal, Observation({"score": [*rungs.values()][-1], **rungs}, status=Status.STOPPED))
        else:
            found.tell(proposal, Observation({"score": score(proposal.config), **rungs}))


# ----- several at the same time


def test_two_that_ask_before_either_suggests_take_places_of_their_own() -> None:
    """The one that comes later takes the place that was left to it."""
    for name, options in CASES:
        found = optimizer(name, SPACE, seed=3, **options)
        study = optuna.create_study(sampler=PartuneSampler(name, seed=3, space=SPACE, **options))
        early, late = study.ask(), study.ask()
        second, first = suggested(late), suggested(early)
        expected = found.ask(2)
        if len(expected) == 2:
            assert [first, second] == [proposal.config for proposal in expected]
        assert first != second


def test_the_place_of_one_who_died_before_it_claimed_is_given_away() -> None:
    """The root is left to it at first, and the tree waits."""
    study = optuna.create_study(sampler=PartuneSampler("soo", space=SPACE))
    study.ask()  # and never suggests
    for _ in range(PATIENCE + 10):
        trial = study.ask()
        study.tell(trial, -score(suggested(trial)))
    claims = [trial.system_attrs.get(CLAIM, {}) for trial in study.trials]
    assert [claim.get("number") for claim in claims] == [None] * (PATIENCE + 1) + list(range(10))
    expected = [trial.config for trial in drive(optimizer("soo", SPACE), score, budget=10)]
    assert [trial.params for trial in study.trials[PATIENCE + 1 :]] == expected


def opened(url: str) -> BaseStorage:
    if url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    return journal(Path(url))


def work(url: str, name: str, options: dict[str, Any], n: int) -> None:
    def slow_loss(trial: optuna.Trial) -> float:
        try:
            return loss(trial)
        finally:
            time.sleep(0.2)  # so that no process makes several trials while another is about to claim

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    resumed(opened(url), name, n, slow_loss, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("random", "journal"), ("soo", "sqlite")),
        *(pytest.param(*pair, marks=pytest.mark.thorough) for pair in (("soo", "journal"), ("random", "sqlite"))),
        *(pytest.param("bo", kind, marks=pytest.mark.thorough) for kind in ("journal", "sqlite")),
    ],
)
def test_processes_share_a_study(kind: str, name: str, tmp_path: Path) -> None:
    options = OPTIONS.get(name, {})
    url = str(tmp_path / "j") if kind == "journal" else f"sqlite:///{tmp_path}/s.db"
    work(url, name, options, 0)
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["tests.support.loaded"])
    workers = [forked.Process(target=work, args=(url, name, options, 8)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=300)
        assert worker.exitcode == 0
    trials = optuna.load_study(study_name="s", storage=opened(url)).trials
    assert len(trials) == 24
    assert len({tuple(trial.params.values()) for trial in trials}) == 24
    claimed = {str(trial.params) for trial in trials if "number" in trial.system_attrs[CLAIM]}
    if name != "bo":
        expected = {str(trial.config) for trial in drive(optimizer(name, SPACE, seed=3), failing, budget=24)}
        assert claimed <= expected
        assert len(claimed) >= (24 if name == "random" else 8)  # the tree has work for two at once, the third draws


# ----- spaces


@pytest.mark.slow
def test_distributions_of_every_kind() -> None:
    distributions: Mapping[str, BaseDistribution] = {
        "step": FloatDistribution(-1, 1, step=0.25),
        "even": IntDistribution(2, 10, step=2),
        "any": CategoricalDistribution([None, "a", 1.5, True]),
        "log": FloatDistribution(1e-5, 1, log=True),
        "integer": IntDistribution(1, 100, log=True),
        "one": IntDistribution(3, 3),
    }
    study = optuna.create_study(sampler=PartuneSampler("soo", space=distributions))
    for _ in range(40):
        trial = study.ask(dict(distributions))
        study.tell(trial, sum(float(value or 0) for name, value in trial.params.items() if name != "any"))
    assert all("number" in trial.system_attrs[CLAIM] for trial in study.trials)
    seen = {name: {trial.params[name] for trial in study.trials} for name in distributions}
    assert seen["step"] <= {-1 + 0.25 * k for k in range(9)}
    assert seen["even"] <= {2, 4, 6, 8, 10}
    assert seen["one"] == {3}
    assert min(len(values) for name, values in seen.items() if name != "one") > 1
    assert study.trials[0].params["log"] == pytest.approx(10**-2.5)


@pytest.mark.slow
def test_conditions_of_a_space() -> None:
    space = Space(optimizer=Choice(["adamw", "sgd"]), momentum=Float(0, 0.99, when={"optimizer": "sgd"}))

    def objective(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("optimizer", ["adamw", "sgd"]) == "sgd":
            return trial.suggest_float("momentum", 0, 0.99)
        return 0.5

    study = optuna.create_study(direction="maximize", sampler=PartuneSampler("bo", space=space, n_init=4))
    study.optimize(objective, n_trials=8)
    expected = drive(optimizer("bo", space, n_init=4), lambda config: float(config.get("momentum", 0.5)), budget=8)
    assert [trial.params for trial in study.trials] == [trial.config for trial in expected]


def test_a_space_is_inferred_from_what_was_suggested() -> None:
    study = optuna.create_study(sampler=PartuneSampler("lhs", seed=3))
    study.optimize(lambda trial: -score(suggested(trial)), n_trials=4)
    assert [CLAIM in trial.system_attrs for trial in study.trials] == [False, True, True, True]
    names = sorted(SPACE.names)
    space = Space({name: SPACE.hyperparameters[name] for name in names})
    expected = optimizer("lhs", space, seed=3).ask(3)
    assert [{name: trial.params[name] for name in names} for trial in study.trials[1:]] == [p.config for p in expected]
    again = optuna.create_study(sampler=PartuneSampler("lhs", seed=3))
    again.optimize(lambda trial: -score(suggested(trial)), n_trials=4)
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]


# ----- trials from elsewhere


def history_of(study: Study, kind: type[Optimizer], **options: Any) -> tuple[list[Config], list[float]]:
    found: list[tuple[list[Config], list[float]]] = []

    class Spy(kind):  # type: ignore[misc, valid-type]
        def _propose(self) -> Any:
            points, scores = self.history
            found.append(([self.space.decode(point) for point in points], scores))
            return super()._propose()

    study.sampler = PartuneSampler(Spy, seed=3, space=SPACE, **options)
    suggested(study.ask())
    return found[-1]


def test_a_model_learns_from_trials_of_others_and_a_tree_passes_over_them() -> None:
    from partune.optimizers.bayes import GPBO

    given = {"rate": 1e-3, "rank": 16, "dropout": 0.25}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(given)
    study.enqueue_trial({"rate": 1e-3})
    study.optimize(lambda trial: score(suggested(trial)), n_trials=4)
    configs, scores = history_of(study, GPBO)
    assert configs[0] == given
    assert configs == [pytest.approx(trial.params, rel=1e-9) for trial in study.trials[:4]]
    assert scores == [trial.value for trial in study.trials[:4]]

    tree = optuna.create_study(direction="maximize", sampler=PartuneSampler("soo", space=SPACE))
    tree.enqueue_trial(given)
    tree.optimize(lambda trial: score(suggested(trial)), n_trials=7)
    expected = drive(optimizer("soo", SPACE), score, budget=6)
    assert tree.trials[0].params == given
    assert [trial.params for trial in tree.trials[1:]] == [trial.config for trial in expected]


def test_a_partly_enqueued_trial_keeps_what_was_fixed_and_claims_no_place() -> None:
    study = optuna.create_study(direction="maximize", sampler=PartuneSampler("soo", space=SPACE))
    study.enqueue_trial({"rank": 7})
    study.optimize(lambda trial: score(suggested(trial)), n_trials=5)
    assert study.trials[0].params["rank"] == 7
    assert "number" not in study.trials[0].system_attrs[CLAIM]
    expected = drive(optimizer("soo", SPACE), score, budget=4)
    assert [trial.params for trial in study.trials[1:]] == [trial.config for trial in expected]


def test_another_seed_or_option_is_another_search_that_learns_from_the_first() -> None:
    study = optuna.create_study(direction="maximize", sampler=PartuneSampler("random", seed=0, space=SPACE))
    study.optimize(lambda trial: score(suggested(trial)), n_trials=3)
    study.sampler = PartuneSampler("random", seed=1, space=SPACE)
    study.optimize(lambda trial: score(suggested(trial)), n_trials=3)
    expected = [*optimizer("random", SPACE, seed=0).ask(3), *optimizer("random", SPACE, seed=1).ask(3)]
    assert [trial.params for trial in study.trials] == [proposal.config for proposal in expected]
    searches = [trial.system_attrs[CLAIM]["search"] for trial in study.trials]
    assert searches[0] == searches[2] != searches[3] == searches[5]


def test_a_claim_that_does_not_follow_is_an_observation() -> None:
    """A stray point among a tree's claims, as two that claim in the same moment may leave one."""
    study = optuna.create_study(direction="maximize", sampler=PartuneSampler("bamsoo", space=SPACE))
    study.optimize(lambda trial: score(suggested(trial)), n_trials=4)
    last = study.trials[-1]
    stray = {**last.system_attrs[CLAIM], "point": [0.9, 0.9, 0.9]}
    config = SPACE.decode(stray["point"])
    study.add_trial(
        optuna.create_trial(
            params=dict(config), distributions=last.distributions, value=score(config), system_attrs={CLAIM: stray}
        )
    )
    study.optimize(lambda trial: score(suggested(trial)), n_trials=3)
    expected = drive(optimizer("bamsoo", SPACE), score, budget=4)
    assert [trial.params for trial in study.trials[:4]] == [trial.config for trial in expected]
    assert [trial.system_attrs[CLAIM]["number"] for trial in study.trials[5:]] == [4, 5, 6]


# ----- what is refused


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match='no algorithm "sooo"; did you mean "soo"'):
        PartuneSampler("sooo")
    with pytest.raises(UserError, match='GPBO has no option "n_inits"'):
        PartuneSampler("bo", n_inits=3)
    with pytest.raises(UserError, match="is an Optuna sampler"):
        PartuneSampler("optuna-tpe")
    with pytest.raises(UserError, match="at least one hyperparameter"):
        PartuneSampler("bo", space={"x": IntDistribution(1, 1)})
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=PartuneSampler("random", space=SPACE))
    with pytest.raises(ValueError, match="multi-objective"):
        suggested(study.ask())


def test_constraints_are_not_used_and_that_is_said() -> None:
    study = optuna.create_study(sampler=PartuneSampler("random", space=SPACE))

    def constrained(trial: optuna.Trial) -> float:
        trial.set_constraint("small", 1.0)
        return -score(suggested(trial))

    with pytest.warns(UserWarning, match="ignore the constraints"):
        study.optimize(constrained, n_trials=1)
