"""The contenders of `partune bench search`: optimisers of partune and of other libraries, all with `ask` and `tell`.

From each library we take the optimisers that its documentation recommends, with the default settings. Where a
setting is not the default, a comment says why. A library is imported only when one of its contenders is made. The
libraries represent a `Space` as follows:

              log scales  integers   choices           conditions
    Optuna    native      native     native            native (define-by-run)
    SMAC      native      native     option's number   native
    Ax        native      native     option's number   not supported
    DIRECT    searches the unit cube, whose points `Space.decode` translates
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
    """What a contender is told before its run.

    Attributes:
        space: The search space.
        seed: The seed of the run.
        budget: The number of evaluations in the run.
        noisy: Whether evaluations have noise, so that a repeated evaluation differs.
    """

    space: Space
    seed: int
    budget: int
    noisy: bool


class Contender(ABC):
    """An optimiser that proposes one configuration at a time and is told its score. Higher scores are better."""

    @abstractmethod
    def ask(self) -> Config | None:
        """Return the next configuration to score, or None if the search is finished."""

    @abstractmethod
    def tell(self, score: float) -> None:
        """Report the score of the configuration that was asked for last."""

    def recommend(self) -> Config | None:
        """Return the configuration that the optimiser would choose now; None means the one with the best score."""
        return None


class Ours(Contender):
    """An optimiser of partune. It chooses its winner as a study does (`partune.verdict.winner`).

    Args:
        race: What the contender is told before its run.
        algorithm: The name of an algorithm, or "package.module:Class".
        options: The options of the algorithm.
        confirm: The number of leading configurations to confirm (evaluate again) with the last evaluations of the
            budget. Nothing is confirmed if evaluations have no noise.
    """

    def __init__(self, race: Race, algorithm: str, options: Mapping[str, Any], confirm: int = 0) -> None:
        self.optimizer = optimizer(algorithm, race.space, seed=race.seed, **options)
        self.space, self.noisy = race.space, race.noisy
        self.confirm = confirm if race.noisy else 0
        self.searches = race.budget - sum(halvings(self.confirm))
        if self.searches < 1:
            raise UserError(
                f"confirm={confirm} leaves no evaluations for the search, got a budget of {race.budget}: "
                "set a larger `--budget` or a smaller confirm"
            )
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
        """Return the configuration that a study would choose now, or None if no trial has a score."""
        winner = best(self.trials, self.again, self._worths())
        return None if winner is None else winner.config

    def _worths(self) -> Worths:
        return worths(self.trials, self.space, self.noisy)


class Optuna(Contender):
    """An Optuna study with a sampler.

    Args:
        race: What the contender is told before its run.
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
    """Return Optuna with its tree-structured Parzen estimator."""
    import optuna

    return Optuna(race, optuna.samplers.TPESampler(seed=race.seed))


def gp(race: Race) -> Contender:
    """Return Optuna with its Gaussian process."""
    import optuna

    # The documentation asks users to say whether the objective is deterministic.
    return Optuna(race, optuna.samplers.GPSampler(seed=race.seed, deterministic_objective=not race.noisy))


def cmaes(race: Race) -> Contender:
    """Return Optuna with CMA-ES, which draws the values of choices at random."""
    # The documentation recommends CMA-ES with margin if there are integers.
    import optuna

    integers = any(isinstance(parameter, Int) for parameter in race.space.hyperparameters.values())
    sampler = optuna.samplers.CmaEsSampler(seed=race.seed, with_margin=integers, warn_independent_sampling=False)
    return Optuna(race, sampler)


class Smac(Contender):
    """SMAC's facade for hyperparameter optimisation, which uses a random forest.

    If evaluations have noise, SMAC evaluates a promising configuration up to 3 times, and these repeats count in the
    budget. Otherwise it is told that the objective is deterministic, and repeats nothing.
    """

    def __init__(self, race: Race) -> None:
        from ConfigSpace import ConfigurationSpace
        from smac import HyperparameterOptimizationFacade, Scenario

        self.space = race.space
        parameters = {name: self._parameter(name, parameter) for name, parameter in self.space.hyperparameters.items()}
        space = ConfigurationSpace(seed=race.seed)
        space.add(list(parameters.values()))
        space.add([condition for name in parameters if (condition := self._condition(name, parameters)) is not None])
        # SMAC cannot be told to write no files. The temporary folder is removed together with this object.
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
        """Return the condition of a hyperparameter in ConfigSpace's form, or None if it has no condition."""
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
        """Return the configuration that SMAC would choose now, or None if there is none yet."""
        incumbent = self.smac.intensifier.get_incumbent()
        return None if incumbent is None else self._config(incumbent)

    def _config(self, configuration: Any) -> Config:
        return translated(self.space, dict(configuration))


class Ax(Contender):
    """Ax's Client with the strategy that Ax chooses: the centre, Sobol points, then BoTorch's GP with logNEI.

    If evaluations have no noise, Ax is told a standard error of 0 for each.
    """

    def __init__(self, race: Race) -> None:
        if any(parameter.when for parameter in race.space.hyperparameters.values()):
            raise UserError("the contender ax cannot search a space with conditions: leave it out of `--contenders`")
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
        """Return the configuration that Ax would choose now."""
        values, *_ = self.client.get_best_parameterization()
        return translated(self.space, values)


class Direct(Contender):
    """SciPy's DIRECT in its locally biased form (Gablonsky and Kelley 2001).

    SciPy's function has no `ask` and `tell`, but it is deterministic. So `ask` runs it from the start with the known
    scores, and stops at the first point whose score is not known. Each point of the cube is evaluated only once.
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
        make: A function that makes the contender. Its argument is what the contender is told before its run.
        package: The pip name of a package that the optimiser needs and that partune does not install; None if there is
            none.
        module: The name under which Python imports that package.
    """

    make: Callable[[Race], Contender]
    package: str | None = None
    module: str = ""

    @property
    def missing(self) -> bool:
        """Whether the package that the optimiser needs is not installed."""
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
    """Return the names of the contenders, in which "all" is replaced with every contender that is installed.

    Args:
        names: The names that were asked for.
        budget: The number of evaluations per run, which must be enough for the confirmations that a name asks for.
        tell: Called with a line of text about each contender that "all" leaves out.

    Raises:
        UserError: A contender is not known or not installed, or its options are not valid.
    """
    chosen_names = []
    for name in names:
        if name != "all":
            _check(name, budget)
            chosen_names.append(name)
            continue
        missing = {peer: library.package for peer, library in PEERS.items() if library.missing}
        for peer, package in missing.items():
            tell(f"{peer} is left out, because {package} is not installed: run `pip install {package}`")
        chosen_names += [name for name in (*ALGORITHMS, *PEERS) if name not in missing]
    return list(dict.fromkeys(chosen_names))


def contender(name: str, race: Race) -> Contender:
    """Return the contender with a name.

    Args:
        name: The name of a peer, or an optimiser of partune with its options, such as bo:n_init=5:confirm=4.
        race: What the contender is told before its run.
    """
    return PEERS[name].make(race) if name in PEERS else Ours(race, *_split(name))


def _check(name: str, budget: int) -> None:
    if name in PEERS:
        peer = PEERS[name]
        if peer.missing:
            raise UserError(f"the contender {name} needs {peer.package}: run `pip install {peer.package}`")
        return
    algorithm, options, confirm = _split(name)
    if isinstance(confirm, bool) or not isinstance(confirm, int) or confirm < 0:
        raise UserError(f"{name}: confirm >= 0 must hold, got {confirm!r}")
    if ":" not in algorithm and algorithm not in ("auto", *ALGORITHMS):
        raise UserError(f'no contender "{algorithm}"{suggestion(algorithm, ["auto", *ALGORITHMS, *PEERS, "all"])}')
    Ours(Race(Space(x=Float(0, 1)), seed=0, budget=budget, noisy=True), algorithm, options, confirm)


def _split(name: str) -> tuple[str, dict[str, Any], Any]:
    """Split a text such as "name:option=value:confirm=4" into the name, the options and the value of `confirm`."""
    parts = name.split(":")
    assignments = [part for part in parts if "=" in part]
    pairs = (assignment.split("=", 1) for assignment in assignments)
    options = {key: yaml.safe_load(text) for key, text in pairs}
    return ":".join(part for part in parts if part not in assignments), options, options.pop("confirm", 0)


# ----- spaces


def translated(space: Space, values: Mapping[str, Any]) -> dict[str, Value]:
    """Return a configuration of our space from the values that another library uses for it.

    Args:
        space: The space.
        values: The values by name. Numbers may have NumPy's types, and an option is represented by its number.
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
    """Return the value that SMAC and Ax use for a value of ours.

    For an option of a choice, that is the option's number. Any other value stays the same.

    Args:
        parameter: The hyperparameter.
        value: The value in our space.
    """
    return list(parameter.options).index(value) if isinstance(parameter, Choice) else value


def _never_called(config: Any, seed: int = 0) -> float:
    raise AssertionError("SMAC called its objective, although it is driven through `ask` and `tell`")
