"""Optuna's samplers as optimisers: TPE, a Gaussian process, CMA-ES, NSGA-II, or any other by its name.

Akiba et al. 2019 (Optuna). An Optuna study in memory holds every proposal: running while it is pending, complete with
its score once told, a failure with -inf (which Optuna's models take for the worst finite score, or rank last).
A sampler walks through the space parent by parent, as an objective of Optuna's would (define by run).

What a sampler keeps of its own would break a replay, so each draw is made by a fresh one, seeded by (seed, number of
the proposal, attempt). What must last (the distribution of CMA-ES, the generations of NSGA-II) Optuna keeps in its
trials, and a replay that draws again writes it again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from partune.errors import UserError
from partune.optimizers.sampling import RandomSearch, check_design
from partune.runtime.extras import require_finetune
from partune.space import Float, Hyperparameter, Int, Space
from partune.space.distributions import distribution, quiet
from partune.trial import Observation, Point, Proposal, Value

# Draws in a row without a new configuration, after which the next point is the one that random search would take.
DRAWS = 4


class OptunaSampler(RandomSearch):
    """Any sampler of Optuna's that takes a seed, and draws independently of what it drew under another.

    Not for those that are a sequence under one seed (QMCSampler, GridSampler).

    sampler: a class of optuna.samplers, or "package.module:Class".
    settings: its arguments but the seed.
    """

    learns = True

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        sampler: str = "TPESampler",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(space, seed)
        self._kind: Callable[..., BaseSampler] = _load(sampler)
        if not isinstance(settings, Mapping | None):
            raise UserError(f"a sampler's settings are a mapping, got {settings!r}")
        self._settings = dict(settings or {})
        self._distributions = {name: distribution(each) for name, each in space.hyperparameters.items()}
        self._recorded: list[int] = []  # the trial of proposal 0, 1, ... in Optuna's study
        self._attributes: Mapping[str, Any] = {}  # what the sampler noted about the next proposal
        with quiet():
            self._study = optuna.create_study(direction="maximize", sampler=self._sampler(0))

    def tell(self, proposal: Proposal, result: Observation | float) -> None:
        super().tell(proposal, result)
        self._study.tell(self._recorded[proposal.number], self._scores[proposal.number])

    def next_point(self) -> Point | None:
        for attempt in range(DRAWS):
            point = self._draw(attempt)
            if not self.proposed(point):
                return point
        self._attributes = {}
        return super().next_point()

    def _draw(self, attempt: int) -> Point:
        """A trial of Optuna's, of which only the values and the sampler's notes are taken.

        It ends as failed, and samplers pass over failed trials: `_register` adds the values really evaluated.
        """
        seed = np.random.default_rng([self.seed, len(self.proposals), attempt]).integers(2**31)
        with quiet():
            self._study.sampler = self._sampler(int(seed))
            trial = self._study.ask()
            config = self.space.configure(lambda name, parameter: suggest(trial, name, parameter))
            self._attributes = self._study.get_trials(deepcopy=False)[trial.number].system_attrs
            self._study.tell(trial, state=TrialState.FAIL)
        return self.space.encode(config)

    def _register(self, proposal: Proposal) -> Proposal:
        attributes, self._attributes = self._attributes, {}
        self._recorded.append(len(self._study.get_trials(deepcopy=False)))
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(proposal.config),
                distributions={name: self._distributions[name] for name in proposal.config},
                system_attrs=dict(attributes),
            )
        )
        return super()._register(proposal)

    def _sampler(self, seed: int) -> BaseSampler:
        try:
            return self._kind(seed=seed, **self._settings)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f"the sampler does not take {self._settings} and a seed: {error}") from None


class TPE(OptunaSampler):
    """The tree-structured Parzen estimator; Bergstra et al. 2011, multivariate as Optuna has it.

    n_init: random points before the first estimate.
    candidates: points drawn from the good ones' density for each proposal.
    """

    def __init__(self, space: Space, seed: int = 0, n_init: int = 10, candidates: int = 24) -> None:
        check_design("n_init", n_init)
        check_design("candidates", candidates)
        super().__init__(space, seed, "TPESampler", {"n_startup_trials": n_init, "n_ei_candidates": candidates})
        self.n_init = n_init


class OptunaGP(OptunaSampler):
    """Optuna's Gaussian process with logEI, of mixed spaces; what is pending is integrated over.

    n_init: random points before the first fit.
    """

    def __init__(self, space: Space, seed: int = 0, n_init: int = 10) -> None:
        check_design("n_init", n_init)
        super().__init__(space, seed, "GPSampler", {"n_startup_trials": n_init, "warn_independent_sampling": False})
        self.n_init = n_init

    @property
    def cheap(self) -> bool:
        return len(self._scores) < self.n_init


class CMAES(OptunaSampler):
    """The covariance matrix adaptation evolution strategy; Hansen 2016. Choices and what is conditional: uniform draws.

    population: points of a generation; None for 4 + floor(3 log d).
    n_init: random points before the first generation.
    """

    def __init__(self, space: Space, seed: int = 0, population: int | None = None, n_init: int = 1) -> None:
        check_design("n_init", n_init)
        if population is not None:
            _check_population(population)
        settings = {"popsize": population, "n_startup_trials": n_init, "warn_independent_sampling": False}
        super().__init__(space, seed, "CmaEsSampler", settings)
        self.n_init = n_init


class NSGA2(OptunaSampler):
    """NSGA-II with its single objective: an elitist genetic algorithm with uniform crossover; Deb et al. 2002.

    population: points of a generation, the first of which is random. (Optuna's default, 50, would make a study of 50
    trials a random search.)
    """

    def __init__(self, space: Space, seed: int = 0, population: int = 10) -> None:
        _check_population(population)
        super().__init__(space, seed, "NSGAIISampler", {"population_size": population})
        self.n_init = population


def _check_population(size: int) -> None:
    """Raises UserError unless a generation can have so many points."""
    if size < 2:
        raise UserError(f"population >= 2 must hold, got population={size}")
    check_design("population", size)


def _load(name: str) -> type[BaseSampler]:
    """A sampler's class; raises UserError where there is none."""
    module, _, attribute = name.rpartition(":")
    try:
        kind = getattr(importlib.import_module(module or "optuna.samplers"), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f'cannot load the sampler "{name}": {error}') from None
    if not (isinstance(kind, type) and issubclass(kind, BaseSampler)):
        raise UserError(f"a sampler is a subclass of optuna.samplers.BaseSampler, got {kind!r}")
    if issubclass(kind, optuna.samplers.GPSampler):  # it imports torch at its first draw
        require_finetune("Optuna's Gaussian process", ("torch",))
    return kind


def suggest(trial: optuna.Trial, name: str, parameter: Hyperparameter) -> Value:
    """A value of a hyperparameter, from a trial of Optuna's."""
    if isinstance(parameter, Float):
        return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Int):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
    options: list[Any] = list(parameter.values or ())
    chosen: Value = trial.suggest_categorical(name, options)
    return chosen
