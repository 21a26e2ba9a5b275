"""The contenders of `partune bench search`: partune's optimisers and those of other libraries, each with ask and tell.

Of every library we take the optimiser that its documentation recommends, with its defaults; anything else that is set
is explained where it is set. No library is loaded before a contender of it is made. Each translates a `Space` once:

              log scales  integers   choices             conditions
    Optuna    its own     its own    its own             its own (define by run)
    SMAC      its own     its own    as their positions  its own
    Ax        its own     its own    as their positions  none
    DIRECT    by the unit cube: `Space.decode`
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from partune.errors import UserError, suggestion
from partune.optimizers import ALGORITHMS, optimizer
from partune.space import Choice, Float, Hyperparameter, Int, Space
from partune.space.hyperparameters import condition_values
from partune.trial import Config, Observation, Point, Trial, Value
from partune.trial.names import Confirmation, RunName
from partune.verdict.winner import Worths, best, due, halvings, worths


@dataclass(frozen=True)
class Race:
    """What a contender knows beforehand.

    Attributes:
        space: The search space.
        seed: The seed.
        budget: The evaluations of the run.
        noisy: Whether a repeated evaluation would differ.
    """

    space: Space
    seed: int
    budget: int
    noisy: bool


class Contender(ABC):
    """An optimiser that is asked for a configuration and told its score, in turn; higher scores are better."""

    @abstractmethod
    def ask(self) -> Config | None:
        """Return the next configuration to score, or None if the search is finished."""

    @abstractmethod
    def tell(self, score: float) -> None:
        """Report the score of the configuration that was asked for last."""

    def recommend(self) -> Config | None:
        """Return the configuration that it would choose now, or None for the one with the best score."""
        return None


class Ours(Contender):
    """An optimiser of partune, which under noise chooses as a study does (`partune.verdict.winner`).

    Args:
        race: What is known beforehand.
        algorithm: A name of the registry, or "package.module:Class".
        options: The algorithm's options.
        confirm: How many of the best are confirmed under noise, by the last evaluations of the budget.
    """

    def __init__(self, race: Race, algorithm: str, options: Mapping[str, Any], confirm: int = 0) -> None:
        self.optimizer = optimizer(algorithm, race.space, seed=race.seed, **options)
        self.space, self.noisy = race.space, race.noisy
        self.confirm = confirm if race.noisy else 0
        self.searches = race.budget - sum(halvings(self.confirm))
        if self.searches < 1:
            raise UserError(f"confirm={confirm} leaves nothing of a budget of {race.budget} to search with")
        self.trials: list[Trial] = []
        self.again: dict[RunName, Trial] = {}

    def ask(self) -> Config | None:
        """Return the next configuration to score, or None if the search is finished."""
        asked = self.optimizer.ask() if len(self.trials) < self.searches else []
        if asked:
            trials, self.run = [Trial(proposal.number, proposal.config, proposal.point) for proposal in asked], 0
        else:
            trials, self.run = due(self.trials, self.again, self.confirm, self._worths())
        if not trials:
            return None
        self.trial = trials[0]
        return self.trial.config

    def tell(self, score: float) -> None:
        """Report the score of the configuration that was asked for last."""
        final = self.trial.finished(Observation({"score": score}), told=len(self.trials))
        if self.run:
            self.again[Confirmation(self.trial.number, self.run)] = final
        else:
            self.optimizer.tell(self.trial.proposal, score)
            self.trials.append(final)

    def recommend(self) -> Config | None:
        """Return the configuration that a study would choose now, or None if there is none."""
        winner = best(self.trials, self.again, self._worths())
        return None if winner is None else winner.config

    def _worths(self) -> Worths:
        return worths(self.trials, self.space, self.noisy)


class Optuna(Contender):
    """An Optuna sampler.

    Args:
        race: What is known beforehand.
        sampler: The sampler.
    """

    def __init__(self, race: Race, sampler: Any) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = race.space
        self.study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self) -> Config | None:
        """Return the next configuration to score, or None if the search is finished."""
        from partune.optimizers.optuna import suggest

        self.trial = self.study.ask()
        return self.space.configure(lambda name, parameter: suggest(self.trial, name, parameter))

    def tell(self, score: float) -> None:
        """Report the score of the configuration that was asked for last."""
        self.study.tell(self.trial, score)


def tpe(race: Race) -> Contender:
    """Return Optuna's tree-structured Parzen estimator."""
    import optuna

    return Optuna(race, optuna.samplers.TPESampler(seed=race.seed))


def gp(race: Race) -> Contender:
    """Return Optuna's Gaussian process, told whether the objective is deterministic, as its documentation asks."""
    import optuna

    return Optuna(race, optuna.samplers.GPSampler(seed=race.seed, deterministic_objective=not race.noisy))


def cmaes(race: Race) -> Contender:
    """Return Optuna's CMA-ES; it draws choices at random."""
    # With a margin if there are integers, as its documentation recommends.
    import optuna

    integers = any(isinstance(parameter, Int) for parameter in race.space.hyperparameters.values())
    sampler = optuna.samplers.CmaEsSampler(seed=race.seed, with_margin=integers, warn_independent_sampling=False)
    return Optuna(race, sampler)


class Smac(Contender):
    """SMAC's facade for hyperparameters: a random forest, and an intensifier that evaluates up to 3 times under noise.

    Repeats count in the budget; without noise it is told so (`deterministic`), and repeats nothing.
    """

    def __init__(self, race: Race) -> None:
        from ConfigSpace import ConfigurationSpace
        from smac import HyperparameterOptimizationFacade, Scenario

        self.space = race.space
        parameters = {name: self._parameter(name, parameter) for name, parameter in self.space.hyperparameters.items()}
        space = ConfigurationSpace(seed=race.seed)
        space.add(list(parameters.values()))
        space.add([condition for name in parameters if (condition := self._condition(name, parameters)) is not None])
        # SMAC writes its files whatever it is told; with the object the folder goes too.
        self._folder = tempfile.TemporaryDirectory(prefix="partune-smac-")
        scenario = Scenario(
            space,
            deterministic=not race.noisy,
            n_trials=race.budget,
            seed=race.seed,
            output_directory=Path(self._folder.name),
        )
        self.smac = HyperparameterOptimizationFacade(
            scenario, _never_called, logging_level=logging.ERROR, overwrite=True
        )

    def _parameter(self, name: str, parameter: Hyperparameter) -> Any:
        import ConfigSpace

        match parameter:
            case Float(low, high, log):
                return ConfigSpace.UniformFloatHyperparameter(name, low, high, log=log)
            case Int(low, high, log):
                return ConfigSpace.UniformIntegerHyperparameter(name, low, high, log=log)
            case Choice(options):
                return ConfigSpace.CategoricalHyperparameter(name, list(range(len(options))))
        raise TypeError(parameter)

    def _condition(self, name: str, parameters: Mapping[str, Any]) -> Any:
        """Return a hyperparameter's condition, on values as ConfigSpace has them; None if it has none."""
        from ConfigSpace import AndConjunction, InCondition

        parents = self.space.hyperparameters[name].when or {}
        conditions = [
            InCondition(
                parameters[name],
                parameters[parent],
                [positioned(self.space.hyperparameters[parent], v) for v in condition_values(values)],
            )
            for parent, values in parents.items()
        ]
        return AndConjunction(*conditions) if len(conditions) > 1 else next(iter(conditions), None)

    def ask(self) -> Config | None:
        """Return the next configuration to score, or None if the search is finished."""
        self.info = self.smac.ask()
        return self._config(self.info.config)

    def tell(self, score: float) -> None:
        """Report the score of the configuration that was asked for last."""
        from smac.runhistory.dataclasses import TrialValue

        self.smac.tell(self.info, TrialValue(cost=-score), save=False)

    def recommend(self) -> Config | None:
        """Return the configuration that the library would choose now."""
        incumbent = self.smac.intensifier.get_incumbent()
        return None if incumbent is None else self._config(incumbent)

    def _config(self, configuration: Any) -> Config:
        return translated(self.space, dict(configuration))


class Ax(Contender):
    """Ax's Client with the strategy that it chooses itself: the centre, Sobol points, then BoTorch's GP and logNEI.

    Without noise it is told a standard error of 0.
    """

    def __init__(self, race: Race) -> None:
        if any(parameter.when for parameter in race.space.hyperparameters.values()):
            raise UserError("the contender ax cannot search a space with conditions: leave it out of --contenders")
        from ax import Client

        self.space, self.noisy = race.space, race.noisy
        self.client = Client(random_seed=race.seed)
        logging.getLogger("ax").setLevel(logging.ERROR)
        self.client.configure_experiment([self._parameter(*item) for item in race.space.hyperparameters.items()])
        self.client.configure_optimization("score")

    def _parameter(self, name: str, parameter: Hyperparameter) -> Any:
        from ax import ChoiceParameterConfig, RangeParameterConfig

        match parameter:
            case Float(low, high, log):
                return RangeParameterConfig(name, (low, high), "float", scaling="log" if log else None)
            case Int(low, high, log):
                return RangeParameterConfig(name, (low, high), "int", scaling="log" if log else None)
            case Choice(options):
                return ChoiceParameterConfig(name, list(range(len(options))), "int", is_ordered=False)
        raise TypeError(parameter)

    def ask(self) -> Config | None:
        """Return the next configuration to score, or None if the search is finished."""
        ((self.index, values),) = self.client.get_next_trials(1).items()
        return translated(self.space, values)

    def tell(self, score: float) -> None:
        """Report the score of the configuration that was asked for last."""
        self.client.complete_trial(self.index, {"score": score if self.noisy else (score, 0.0)})

    def recommend(self) -> Config | None:
        """Return the configuration that the library would choose now."""
        values, *_ = self.client.get_best_parameterization()
        return translated(self.space, values)


class Direct(Contender):
    """SciPy's DIRECT, locally biased; Gablonsky and Kelley 2001.

    It has no ask and tell, but it is deterministic. So each ask runs it from the start on the scores that are known, up
    to the first point without one; a point of the cube keeps its first score.
    """

    def __init__(self, race: Race) -> None:
        self.race = race
        self.known: dict[Point, float] = {}

    def ask(self) -> Config | None:
        """Return the next configuration to score, or None if the search is finished."""
        from scipy.optimize import Bounds, direct

        d = self.race.space.dimension
        try:
            direct(self._loss, Bounds([0.0] * d, [1.0] * d), maxfun=self.race.budget + 1)
        except _UnknownPoint as unknown:
            self.point = unknown.point
            return self.race.space.decode(self.point)
        return None

    def _loss(self, x: Any) -> float:
        point = tuple(x.tolist())
        if point not in self.known:
            raise _UnknownPoint(point)
        return -self.known[point]

    def tell(self, score: float) -> None:
        """Report the score of the configuration that was asked for last."""
        self.known[self.point] = score


class _UnknownPoint(Exception):  # noqa: N818
    def __init__(self, point: Point) -> None:
        self.point = point


# ----- by name


@dataclass(frozen=True)
class Peer:
    """An optimiser of another library.

    Attributes:
        make: Called with what is known beforehand, returns the contender.
        package: The package that it needs beyond partune's own, as pip calls it.
        module: The same package as Python calls it.
    """

    make: Callable[[Race], Contender]
    package: str | None = None
    module: str = ""

    @property
    def missing(self) -> bool:
        """Whether its package is not installed."""
        return self.package is not None and importlib.util.find_spec(self.module) is None


PEERS: dict[str, Peer] = {
    "optuna-tpe": Peer(tpe),
    "optuna-gp": Peer(gp),
    "optuna-cmaes": Peer(cmaes, "cmaes", "cmaes"),
    "ax": Peer(Ax, "ax-platform", "ax"),
    "smac": Peer(Smac, "smac", "smac"),
    "scipy-direct": Peer(Direct),
}


def chosen(names: tuple[str, ...], budget: int, tell: Callable[[str], object]) -> list[str]:
    """Return the names of contenders, with "all" spelt out.

    Args:
        names: The names.
        budget: The evaluations per run, which must be enough for the confirmations that a name asks for.
        tell: Called with a line about each contender that "all" leaves out.

    Raises:
        UserError: A contender is not known or not installed.
    """
    chosen_names = []
    for name in names:
        if name != "all":
            _check(name, budget)
            chosen_names.append(name)
            continue
        missing = {peer: library.package for peer, library in PEERS.items() if library.missing}
        for peer, package in missing.items():
            tell(f"without {peer}: pip install {package}")
        chosen_names += [name for name in (*ALGORITHMS, *PEERS) if name not in missing]
    return list(dict.fromkeys(chosen_names))


def contender(name: str, race: Race) -> Contender:
    """Return a contender.

    Args:
        name: A peer's name, or an optimiser of partune with options, such as bo:n_init=5:confirm=4.
        race: What is known beforehand.
    """
    return PEERS[name].make(race) if name in PEERS else Ours(race, *_split(name))


def _check(name: str, budget: int) -> None:
    if name in PEERS:
        peer = PEERS[name]
        if peer.missing:
            raise UserError(f"the contender {name} needs {peer.package}: pip install {peer.package}")
        return
    algorithm, options, confirm = _split(name)
    if isinstance(confirm, bool) or not isinstance(confirm, int) or confirm < 0:
        raise UserError(f"{name}: confirm >= 0 must hold, got {confirm!r}")
    if ":" not in algorithm and algorithm not in ("auto", *ALGORITHMS):
        raise UserError(f'no contender "{algorithm}"{suggestion(algorithm, ["auto", *ALGORITHMS, *PEERS, "all"])}')
    Ours(Race(Space(x=Float(0, 1)), seed=0, budget=budget, noisy=True), algorithm, options, confirm)


def _split(name: str) -> tuple[str, dict[str, Any], Any]:
    """Return the name, the options and `confirm` of "name:option=value:confirm=4"."""
    parts = name.split(":")
    options = [part for part in parts if "=" in part]
    pairs = (option.split("=", 1) for option in options)
    given = {key: yaml.safe_load(text) for key, text in pairs}
    return ":".join(part for part in parts if part not in options), given, given.pop("confirm", 0)


# ----- spaces


def translated(space: Space, values: Mapping[str, Any]) -> dict[str, Value]:
    """Return a configuration from a library's values.

    Args:
        space: The space.
        values: The values by name: numpy's types too, and positions for options.
    """
    config: dict[str, Value] = {}
    for name, parameter in space.hyperparameters.items():
        if name in values:
            match parameter:
                case Float(low, high):
                    config[name] = min(max(float(values[name]), low), high)
                case Int():
                    config[name] = int(values[name])
                case Choice(options):
                    config[name] = options[int(values[name])]
    return config


def positioned(parameter: Hyperparameter, value: Value) -> Value:
    """Return a value as SMAC and Ax have it: for an option, its position.

    Args:
        parameter: The hyperparameter.
        value: Its value.
    """
    return list(parameter.options).index(value) if isinstance(parameter, Choice) else value


def _never_called(config: Any, seed: int = 0) -> float:
    raise AssertionError("SMAC is asked and told")
