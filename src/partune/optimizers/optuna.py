"""Optuna's samplers as optimisers: TPE, a Gaussian process, CMA-ES, NSGA-II, or any other sampler by its name.

Akiba et al. 2019 (Optuna). An Optuna study in memory holds a trial for every proposal. While the proposal is pending,
the trial is running; afterwards it is complete with the score. A failure has the score -inf. Some of Optuna's samplers
replace -inf by the worst finite score, and the others rank it last. The value of a hyperparameter is suggested after
the values on which its condition depends, as in an Optuna objective (define by run).

A replay could not restore the internal state of a sampler, so each draw uses a fresh sampler, seeded by (seed, number
of the proposal, attempt). Optuna stores lasting state (the distribution of CMA-ES, the generations of NSGA-II) in its
trials, and a replay stores the same state when it repeats the draws.
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
from partune.optimizers.sampling import Stream, UniformPoints, check_design
from partune.runtime.extras import require_finetune
from partune.space import Float, Hyperparameter, Int, Space
from partune.space.distributions import distribution, quiet
from partune.trial import Observation, Point, Proposal, Value

# If this many draws in a row lead to no new configuration, the next point comes from random search.
DRAWS = 4


class OptunaSampler(Stream):
    """An optimiser that proposes the draws of an Optuna sampler.

    The sampler must take a seed, and its draws under one seed must not depend on draws under another. Samplers that
    continue one sequence under one seed (QMCSampler, GridSampler) cannot be used.

    Args:
        space: The search space.
        seed: The seed of the sampler's draws.
        sampler: The name of a class in optuna.samplers, or "package.module:Class".
        settings: The sampler's arguments except the seed.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        sampler: str = "TPESampler",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(space, seed, UniformPoints(space.dimension, seed))
        self._kind: Callable[..., BaseSampler] = _load(sampler)
        if not isinstance(settings, Mapping | None):
            raise UserError(f"a sampler's settings are a mapping, got {settings!r}")
        self._settings = dict(settings or {})
        self._distributions = {name: distribution(parameter) for name, parameter in space.hyperparameters.items()}
        self._trial_numbers: list[int] = []  # for each proposal, the number of its trial in Optuna's study
        self._attributes: Mapping[str, Any] = {}  # the sampler's attributes for the next proposal's trial
        with quiet():
            self._study = optuna.create_study(direction="maximize", sampler=self._sampler(0))

    def tell(self, proposal: Proposal, result: Observation | float) -> None:
        """Report the result of a pending proposal, also to Optuna's study.

        Args:
            proposal: A proposal that `ask` returned.
            result: Its observation, or its score alone.
        """
        super().tell(proposal, result)
        self._study.tell(self._trial_numbers[proposal.number], self.scores[proposal.number])

    def next_point(self) -> Point | None:
        """Return the sampler's first draw with a new configuration, or a point of random search if there is none."""
        for attempt in range(DRAWS):
            point = self._draw(attempt)
            if not self.proposed(point):
                return point
        self._attributes = {}
        return super().next_point()

    def _draw(self, attempt: int) -> Point:
        """Ask Optuna's study for a trial, return the trial's point, and store the trial's attributes."""
        # Only the values and attributes of this trial are needed. It ends as failed, because samplers ignore failed
        # trials. `register` will add another trial, with the values that are evaluated.
        seed = np.random.default_rng([self.seed, len(self.proposals), attempt]).integers(2**31)
        with quiet():
            self._study.sampler = self._sampler(int(seed))
            trial = self._study.ask()
            config = self.space.configure(lambda name, parameter: suggest(trial, name, parameter))
            self._attributes = self._study.get_trials(deepcopy=False)[trial.number].system_attrs
            self._study.tell(trial, state=TrialState.FAIL)
        return self.space.encode(config)

    def register(self, proposal: Proposal) -> Proposal:
        """Add a proposal to `proposals`, and to Optuna's study as a running trial."""
        attributes, self._attributes = self._attributes, {}
        self._trial_numbers.append(len(self._study.get_trials(deepcopy=False)))
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(proposal.config),
                distributions={name: self._distributions[name] for name in proposal.config},
                system_attrs=dict(attributes),
            )
        )
        return super().register(proposal)

    def _sampler(self, seed: int) -> BaseSampler:
        try:
            return self._kind(seed=seed, **self._settings)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f"the sampler does not take {self._settings} and a seed: {error}") from None


class TPE(OptunaSampler):
    """Optuna's tree-structured Parzen estimator; Bergstra et al. 2011.

    Args:
        space: The search space.
        seed: The seed of the sampler's draws.
        n_init: The number of random points before the first estimate.
        candidates: The number of points that are drawn, for each proposal, from the density of good points.
    """

    def __init__(self, space: Space, seed: int = 0, n_init: int = 10, candidates: int = 24) -> None:
        check_design("n_init", n_init)
        check_design("candidates", candidates)
        super().__init__(space, seed, "TPESampler", {"n_startup_trials": n_init, "n_ei_candidates": candidates})
        self.n_init = n_init


class OptunaGP(OptunaSampler):
    """Optuna's Gaussian process with logEI, for mixed spaces; it integrates over pending results.

    Args:
        space: The search space.
        seed: The seed of the sampler's draws.
        n_init: The number of random points before the first fit.
    """

    def __init__(self, space: Space, seed: int = 0, n_init: int = 10) -> None:
        check_design("n_init", n_init)
        super().__init__(space, seed, "GPSampler", {"n_startup_trials": n_init, "warn_independent_sampling": False})
        self.n_init = n_init

    @property
    def cheap(self) -> bool:
        """Whether the next point is random, which needs no fit."""
        return len(self.scores) < self.n_init


class CMAES(OptunaSampler):
    """The covariance matrix adaptation evolution strategy; Hansen 2016.

    Choices and conditional hyperparameters are drawn uniformly.

    Args:
        space: The search space.
        seed: The seed of the sampler's draws.
        population: The number of points in a generation; None for 4 + floor(3 log d).
        n_init: The number of random points before the first generation.
    """

    def __init__(self, space: Space, seed: int = 0, population: int | None = None, n_init: int = 1) -> None:
        check_design("n_init", n_init)
        if population is not None:
            _check_population(population)
        settings = {"popsize": population, "n_startup_trials": n_init, "warn_independent_sampling": False}
        super().__init__(space, seed, "CmaEsSampler", settings)
        self.n_init = n_init


class NSGA2(OptunaSampler):
    """NSGA-II with a single objective: an elitist genetic algorithm with uniform crossover; Deb et al. 2002.

    Args:
        space: The search space.
        seed: The seed of the sampler's draws.
        population: The number of points in a generation; the first generation is random.
    """

    # Optuna's default population is 50, with which a study of 50 trials would be a random search.
    def __init__(self, space: Space, seed: int = 0, population: int = 10) -> None:
        _check_population(population)
        super().__init__(space, seed, "NSGAIISampler", {"population_size": population})
        self.n_init = population


def _check_population(size: int) -> None:
    """Raise UserError unless a generation can have `size` points."""
    if size < 2:
        raise UserError(f"population >= 2 must hold, got population={size}")
    check_design("population", size)


def _load(name: str) -> type[BaseSampler]:
    """Return a sampler's class; raise UserError if it cannot be loaded."""
    module, _, attribute = name.rpartition(":")
    try:
        kind = getattr(importlib.import_module(module or "optuna.samplers"), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f'cannot load the sampler "{name}": {error}') from None
    if not (isinstance(kind, type) and issubclass(kind, BaseSampler)):
        raise UserError(f"a sampler is a subclass of optuna.samplers.BaseSampler, got {kind!r}")
    if issubclass(kind, optuna.samplers.GPSampler):  # GPSampler imports torch at its first draw
        require_finetune("Optuna's Gaussian process", ("torch",))
    return kind


def suggest(trial: optuna.Trial, name: str, parameter: Hyperparameter) -> Value:
    """Return the value that an Optuna trial suggests for a hyperparameter.

    Args:
        trial: The trial.
        name: The hyperparameter's name.
        parameter: The hyperparameter.
    """
    if isinstance(parameter, Float):
        return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Int):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
    options: list[Any] = list(parameter.values or ())
    chosen: Value = trial.suggest_categorical(name, options)
    return chosen
