"""Optuna's samplers as optimisers: the points that Optuna itself would draw, and nothing of the user's changed."""

import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState

from partune.errors import UserError
from partune.optimizers import optimizer
from partune.space import Choice, Float, Int, Space
from partune.trial import Config
from tests.support.drive import drive

SPACE = Space(
    rate=Float(1e-6, 1e-2, log=True), rank=Int(2, 64, log=True), dropout=Float(0, 0.5), kind=Choice(["a", "b"])
)
CONDITIONAL = Space(
    rate=Float(1e-5, 1e-1, log=True),
    momentum=Float(0, 0.99, when={"optimizer": "sgd"}),
    optimizer=Choice(["adamw", "sgd"]),
)


def score(config: Config) -> float:
    rate, rank, dropout = float(config["rate"]), float(config["rank"]), float(config["dropout"])
    return -(float(np.log10(rate / 1e-4)) ** 2) - 0.1 * float(np.log2(rank / 8)) ** 2 - dropout


def mixed(trial: optuna.Trial) -> float:
    return score(
        {
            "rate": trial.suggest_float("rate", 1e-6, 1e-2, log=True),
            "rank": trial.suggest_int("rank", 2, 64, log=True),
            "dropout": trial.suggest_float("dropout", 0, 0.5),
            "kind": trial.suggest_categorical("kind", ["a", "b"]),
        }
    )


def conditional(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    if trial.suggest_categorical("optimizer", ["adamw", "sgd"]) == "sgd":
        return trial.suggest_float("momentum", 0, 0.99) - abs(float(np.log10(rate)) + 3)
    return -abs(float(np.log10(rate)) + 3)


def by_optuna(make: Callable[[int], BaseSampler], objective: Callable[[optuna.Trial], float], n: int) -> list[Config]:
    """Optuna's own loop, with a sampler freshly seeded for every draw as ours are; a repetition is no trial.

    CMA-ES adds the trial's number to its seed, so that a failed one follows each, as ours has one for each draw.
    """
    study = optuna.create_study(direction="maximize")
    found: list[Config] = []
    attempt = 0
    while len(found) < n:
        study.sampler = make(int(np.random.default_rng([0, len(found), attempt]).integers(2**31)))
        trial = study.ask()
        value = objective(trial)
        if trial.params in found:
            study.tell(trial, state=TrialState.FAIL)
            attempt += 1
            continue
        study.tell(trial, value)
        study.tell(study.ask(), state=TrialState.FAIL)
        found.append(trial.params)
        attempt = 0
    return found


def same(one: Config, other: Config) -> bool:
    return one.keys() == other.keys() and all(
        one[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6))
        for name, value in other.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "make"),
    [
        ("optuna-tpe", {"n_init": 5}, lambda seed: TPESampler(n_startup_trials=5, seed=seed)),
        ("optuna-gp", {"n_init": 8}, lambda seed: GPSampler(n_startup_trials=8, seed=seed)),
        ("optuna-nsga2", {"population": 4}, lambda seed: NSGAIISampler(population_size=4, seed=seed)),
        (
            "optuna-cmaes",
            {"population": 4},
            lambda seed: CmaEsSampler(popsize=4, seed=seed, warn_independent_sampling=False),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_proposes_what_optuna_draws(name: str, options: dict[str, Any], make: Callable[[int], BaseSampler]) -> None:
    """Up to the rounding to 12 digits, which a GP magnifies: fewer of its draws are compared."""
    theirs = by_optuna(make, mixed, 11 if name == "optuna-gp" else 24)
    ours = [trial.config for trial in drive(optimizer(name, SPACE, **options), score, budget=len(theirs))]
    assert all(same(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_walks_through_conditions_as_an_objective_of_optunas_does() -> None:
    def objective(config: Config) -> float:
        return float(config.get("momentum", 0)) - abs(float(np.log10(float(config["rate"]))) + 3)

    ours = [trial.config for trial in drive(optimizer("optuna-tpe", CONDITIONAL, n_init=5), objective, budget=20)]
    theirs = by_optuna(lambda seed: TPESampler(n_startup_trials=5, seed=seed), conditional, 20)
    assert {len(config) for config in ours} == {2, 3}
    assert all(same(one, other) for one, other in zip(ours, theirs, strict=True))


def test_any_sampler_by_its_name() -> None:
    path, settings = "partune.optimizers.optuna:OptunaSampler", {"population_size": 4}
    ours = optimizer(path, SPACE, sampler="optuna.samplers:NSGAIISampler", settings=settings)
    named = optimizer("optuna-nsga2", SPACE, population=4)
    assert [t.point for t in drive(ours, score, 12)] == [t.point for t in drive(named, score, 12)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna-tpe", "optuna-nsga2", "optuna-cmaes"])
def test_a_failure_counts_as_a_score_below_all_others(name: str) -> None:
    """These samplers see ranks alone."""

    def cut(low: float) -> Callable[[Config], float]:
        return lambda config: score(config) if float(config["dropout"]) < 0.3 else low

    worst, failing = (drive(optimizer(name, SPACE), cut(low), budget=40) for low in (-1000.0, -np.inf))
    assert [trial.point for trial in worst] == [trial.point for trial in failing]


@pytest.mark.slow
def test_cmaes_goes_on_from_generation_to_generation() -> None:
    space = Space({f"x{i}": Float(-1, 1) for i in range(3)})
    trials = drive(
        optimizer("optuna-cmaes", space),
        lambda config: -sum((float(x) - 0.3) ** 2 for x in config.values()),
        budget=200,
    )
    assert max(trial.score for trial in trials) > -1e-4  # random search: about -5e-3


@pytest.mark.slow
def test_what_the_user_set_of_optunas_messages_stays() -> None:
    pytest.importorskip("torch")  # the Gaussian process computes with it
    logger = logging.getLogger("optuna")
    before = logger.level, list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drive(optimizer("optuna-gp", SPACE, n_init=3), lambda config: -np.inf, budget=5)
    assert not caught
    assert (logger.level, list(warnings.filters)) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "TPSampler"}, "cannot load the sampler"),
        ({"sampler": "partune.space:Space"}, "a subclass of optuna.samplers.BaseSampler"),
        ({"settings": {"n_start": 3}}, "does not take .*n_start"),
        ({"sampler": "NSGAIISampler", "settings": {"population_size": 1}}, "population_size"),
    ],
)
def test_what_cannot_be_sampled_with_is_said_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        optimizer("partune.optimizers.optuna:OptunaSampler", SPACE, **options)


@pytest.mark.slow
def test_optuna_is_loaded_when_it_is_asked_for() -> None:
    code = "import sys, partune.optimizers, partune.integrations; print('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
