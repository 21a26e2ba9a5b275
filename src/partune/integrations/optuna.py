"""Use partune's optimisers as samplers of an Optuna study.

    study = optuna.create_study(sampler=PartuneSampler("bamsoo", seed=0), storage=...)

The sampler keeps no state. For every trial, it rebuilds the optimiser from the storage of the study. So a study can
resume, and several processes can share a study. The sampler stores a claim in each trial, as a system attribute. The
claim says which proposal of the optimiser the trial evaluates:

    search   the search that the trial belongs to: a digest of algorithm, options, seed and space
    number   the number of the proposal in that search: 0, 1, ...
    point    the point of the proposal in the unit cube
    told     the trials whose results the optimiser was told after the previous proposal, in the order of telling
    notes    what the optimiser inferred before it made the proposal (BaMSOO)

A claim has no number in two cases: the trial was drawn at random, because the optimiser was waiting for results or had
finished, or the trial was enqueued with values of its own.

Several processes may ask at the same time. If a running trial is older than the trial that asks and has no claim yet,
it is assumed to be about to claim. The next proposals are therefore reserved for such trials, one each, and the asking
trial claims the proposal after them.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from partune.errors import UserError
from partune.optimizers import Optimizer, ReplayError, optimizer
from partune.optimizers.base import Sampler, Sequential
from partune.optimizers.optuna import OptunaSampler
from partune.space import Choice, Float, Hyperparameter, Int, Space
from partune.space.distributions import distribution
from partune.trial import Config, Observation, Point, Proposal, Status, Trial, Value
from partune.trial.names import Rung

CLAIM = "partune"  # the name of the system attribute that holds a claim
FIXED = "fixed_params"  # the name of Optuna's system attribute that holds the values of an enqueued trial
PATIENCE = 8  # no proposal stays reserved for a trial after this many later trials have ended


class PartuneSampler(BaseSampler):
    """A partune optimiser as the sampler of an Optuna study with one objective.

    Args:
        algorithm: The name of an algorithm, "package.module:Class", or a class. Algorithms named `optuna-...` are not
            allowed, because they are Optuna's own samplers.
        seed: The seed of everything that is random.
        space: A Space, or Optuna's distributions by name. If it is None, the space consists of the hyperparameters that
            all finished trials have suggested, and the first trial is drawn at random. Hyperparameters that the
            objective suggests beyond the space are always drawn at random.
        options: The options of the algorithm.

    Raises:
        UserError: The algorithm, an option or the space is not valid.
    """

    def __init__(
        self,
        algorithm: str | type[Optimizer] = "auto",
        seed: int = 0,
        space: Space | Mapping[str, BaseDistribution] | None = None,
        **options: Any,
    ) -> None:
        self._algorithm = algorithm
        self._seed = seed
        self._options = options
        self._axes = None if space is None else Axes.of(space)
        probe = self._optimizer(Space(x=Float(0, 1)) if self._axes is None else self._axes.space)
        if isinstance(probe, OptunaSampler):
            raise UserError(f"{algorithm} is an Optuna sampler: pass that sampler itself to `optuna.create_study`")

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the distributions that the optimiser proposes values for.

        Args:
            study: The study.
            trial: The trial that needs values.

        Raises:
            ValueError: The study has several objectives.
        """
        self._raise_error_if_multi_objective(study)
        if self._axes is not None:
            return dict(self._axes.distributions)
        common = intersection_search_space(_trials(study), include_pruned=True)
        return {name: axis for name, axis in common.items() if not axis.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values that the optimiser proposes for a trial, and store the claim of the trial.

        The values are random if the optimiser proposes nothing now, and for an enqueued trial.

        Args:
            study: The study.
            trial: The trial that needs values.
            search_space: The distributions that `infer_relative_search_space` returned.
        """
        self._raise_error_if_multi_objective(study)
        if not search_space:
            return {}
        axes = self._axes
        if axes is None or search_space != axes.distributions:  # PartialFixedSampler narrows it
            axes = Axes.of(search_space)
        search = self._digest(axes)
        view = self._view(study, trial, axes, search)
        claim = None if FIXED in trial.system_attrs else view.claim()
        if claim is None:
            rng = np.random.default_rng([self._seed, trial.number])
            claim = {"point": rng.random(axes.space.dimension).tolist()}
        study._storage.set_trial_system_attr(trial._trial_id, CLAIM, {"search": search, **claim})
        return axes.params(axes.space.decode(claim["point"]))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value for a hyperparameter beyond the space.

        Args:
            study: The study.
            trial: The trial that needs a value.
            param_name: The name of the hyperparameter.
            param_distribution: The distribution to draw from.
        """
        self._raise_error_if_multi_objective(study)
        rng = np.random.default_rng([self._seed, trial.number, zlib.crc32(param_name.encode())])
        uniform = RandomSampler(seed=int(rng.integers(2**31)))
        return uniform.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Warn if a trial set constraints, which no optimiser of partune uses.

        Args:
            study: The study.
            trial: The trial that ended.
            state: The state in which the trial ended.
            values: The values of the objective.
        """
        if trial.constraints:
            warnings.warn("partune's optimisers ignore the constraints of trials", UserWarning, stacklevel=2)

    def _optimizer(self, space: Space) -> Optimizer:
        return optimizer(self._algorithm, space, seed=self._seed, **self._options)

    def _digest(self, axes: Axes) -> str:
        kind = type(self._optimizer(axes.space))
        distributions = {name: distribution_to_json(axis) for name, axis in axes.distributions.items()}
        identity = [kind.__module__, kind.__qualname__, self._seed, self._options, axes.space.describe(), distributions]
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=repr).encode()).hexdigest()[:16]

    def _view(self, study: Study, trial: FrozenTrial, axes: Axes, search: str) -> View:
        """Return the state of a search, rebuilt from the trials in the storage."""
        # Two processes may claim at the same time after they have seen different results. A replay then does not lead
        # to the proposal in the later claim. The trial with the later claim is treated like a trial that the search did
        # not propose, and the replay starts again without this claim.
        sign = 1.0 if study.direction is StudyDirection.MAXIMIZE else -1.0
        others = [other for other in _trials(study) if other.number != trial.number]
        strays: set[int] = set()
        while True:
            view = View(self._optimizer(axes.space), axes, search, sign)
            stray = view.replay(others, strays, before=trial.number)
            if stray is None:
                return view
            strays.add(stray)


def _trials(study: Study) -> list[FrozenTrial]:
    """Return all trials of a study."""
    # With a HyperbandPruner, the methods of the study return only the trials of one bracket.
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


@dataclass(frozen=True)
class Axes:
    """A partune space, and the Optuna distributions that it stands for.

    Attributes:
        space: The space.
        distributions: The distributions by name, in the order of the axes of the space.
        listed: By name, the distributions with steps or with categories. The space represents each of their values by
            its position, counted from 0.
    """

    space: Space
    distributions: Mapping[str, BaseDistribution]
    listed: Mapping[str, BaseDistribution]

    @classmethod
    def of(cls, space: Space | Mapping[str, BaseDistribution]) -> Axes:
        """Return the axes of a space, or of those distributions that have more than one value."""
        # Optuna never asks a sampler for a value of a distribution that has a single value.
        if isinstance(space, Space):
            return cls(space, {name: distribution(parameter) for name, parameter in space.hyperparameters.items()}, {})
        many = {name: axis for name, axis in space.items() if not axis.single()}
        listed = {name: axis for name, axis in many.items() if _is_listed(axis)}
        return cls(Space({name: _hyperparameter(axis) for name, axis in many.items()}), many, listed)

    def params(self, config: Config) -> dict[str, Any]:
        """Translate a configuration of the space to Optuna's values."""
        return {name: _value(self.listed[name], v) if name in self.listed else v for name, v in config.items()}

    def config(self, params: Mapping[str, Any]) -> Config | None:
        """Translate Optuna's values to a configuration; return None if they are not in the space.

        Values of hyperparameters that the space does not have are ignored.
        """
        try:
            config = {
                name: _position(self.listed[name], params[name]) if name in self.listed else params[name]
                for name in self.space.names
                if name in params
            }
            self.space.check(config)
        except ValueError:
            return None
        return config


def _is_listed(distribution: BaseDistribution) -> bool:
    if isinstance(distribution, FloatDistribution):
        return distribution.step is not None
    return isinstance(distribution, CategoricalDistribution) or (
        isinstance(distribution, IntDistribution) and distribution.step != 1
    )


def _hyperparameter(distribution: BaseDistribution) -> Hyperparameter:
    if isinstance(distribution, CategoricalDistribution):
        return Choice(range(len(distribution.choices)))
    if not isinstance(distribution, (FloatDistribution, IntDistribution)):
        raise UserError(f"a distribution is one of floats, integers or categories, got {distribution!r}")
    if _is_listed(distribution):
        return Int(0, round((distribution.high - distribution.low) / (distribution.step or 1)))
    if isinstance(distribution, FloatDistribution):
        return Float(distribution.low, distribution.high, log=distribution.log)
    return Int(distribution.low, distribution.high, log=distribution.log)


def _value(distribution: BaseDistribution, position: Value) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(position)]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return min(distribution.low + int(position) * (distribution.step or 1), distribution.high)


def _position(distribution: BaseDistribution, value: Any) -> int:
    """Return the position of a value in a listed distribution; raise ValueError if it has no such value."""
    internal = distribution.to_internal_repr(value)
    if not distribution._contains(internal):
        raise ValueError(f"{value!r} is not in {distribution!r}")
    if isinstance(distribution, CategoricalDistribution):
        return int(internal)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return round((internal - distribution.low) / (distribution.step or 1))


class View:
    """An optimiser that is rebuilt from the trials of a study, and claims the next proposal for a trial.

    Args:
        optimizer: An optimiser that was not used yet.
        axes: The space of the optimiser and its distributions in Optuna.
        search: The digest of the search.
        sign: 1 if the study maximises, -1 if it minimises.
    """

    def __init__(self, optimizer: Optimizer, axes: Axes, search: str, sign: float) -> None:
        self._optimizer = optimizer
        self._axes = axes
        self._search = search
        self._sign = sign
        self._trials: dict[int, FrozenTrial] = {}
        self._proposals: dict[int, Proposal] = {}  # trial number -> its proposal, until the result is told
        self._places = 0  # the number of proposals that are claimed or reserved
        self._reserved: list[tuple[int, Proposal, list[int]]] = []  # number, proposal, and the trials told before it
        self._ahead = 0  # the number of trials with a lower number that are about to claim
        self._told: list[int] = []  # the trials whose results were told after the last claim

    def replay(self, trials: Sequence[FrozenTrial], strays: set[int], before: int) -> int | None:
        """Rebuild the optimiser from all trials except the one that needs values.

        Args:
            trials: The other trials.
            strays: The numbers of trials whose claims are ignored, so that they count as observations only.
            before: The number of the trial that needs values.

        Returns:
            The number of the first trial whose proposal the optimiser does not make again; None if there is no such
            trial.
        """
        self._trials = {trial.number: trial for trial in trials}
        self._ahead = sum(trial.number < before and self._is_open(trial) for trial in trials)
        claimed = {trial.number: trial for trial in trials if self._is_claim(trial) and trial.number not in strays}
        observed = deque(trial for trial in trials if trial.number not in claimed)
        for trial in sorted(claimed.values(), key=lambda trial: (trial.system_attrs[CLAIM]["number"], trial.number)):
            while observed and observed[0].number < trial.number:
                self._observe(observed.popleft())
            try:
                self._repeat(trial)
            except ReplayError:
                return trial.number
        for trial in observed:
            self._observe(trial)
        self._told = [number for number in sorted(self._proposals) if self._trials[number].state.is_finished()]
        self._tell(self._told)
        return None

    def claim(self) -> dict[str, Any] | None:
        """Return the claim for the trial that needs values; None if the optimiser proposes nothing now."""
        while len(self._reserved) <= self._ahead:
            if not self._reserve(self._told):
                return None
        number, proposal, told = self._reserved[self._ahead]
        notes = [dict(note) for note in proposal.notes]
        return {"number": number, "point": list(proposal.point), "told": told, "notes": notes}

    # ----- how this search treats a trial

    def _is_open(self, trial: FrozenTrial) -> bool:
        """Return whether a trial may be about to claim a proposal: it is running, and its values are not known yet."""
        # A trial is not waited for if many later trials have ended meanwhile: then its process has probably died, or
        # the trial belongs to another search.
        if trial.state is not TrialState.RUNNING or self._config(trial) is not None:
            return False
        return (
            sum(other.number > trial.number and other.state.is_finished() for other in self._trials.values()) < PATIENCE
        )

    def _is_claim(self, trial: FrozenTrial) -> bool:
        """Return whether a trial has a claim of this search and has evaluated the values of that claim."""
        claim = trial.system_attrs.get(CLAIM, {})
        if claim.get("search") != self._search or "number" not in claim or trial.state is TrialState.WAITING:
            return False
        if FIXED in trial.system_attrs or "failed_trial" in trial.system_attrs:  # a retry has the claim of its original
            return False
        params = self._axes.params(self._axes.space.decode(claim["point"]))
        return all(params.get(name, value) == value for name, value in trial.params.items())

    def _config(self, trial: FrozenTrial) -> Config | None:
        claim = trial.system_attrs.get(CLAIM, {})
        config = self._axes.config({**trial.system_attrs.get(FIXED, {}), **trial.params})
        if config is None and claim.get("search") == self._search and not trial.state.is_finished():
            return self._axes.space.decode(claim["point"])
        return config

    def _observation(self, trial: FrozenTrial) -> Observation:
        """Return the observation of a trial.

        A pruned trial counts as stopped, and its k-th intermediate value is the score at rung k.
        """
        if trial.value is None or trial.state is TrialState.FAIL or not math.isfinite(trial.value):
            return Observation.failure(f"trial {trial.number} ended as {trial.state.name}")
        values = [value for _, value in sorted(trial.intermediate_values.items())]
        finite = all(map(math.isfinite, values))
        rungs = {str(Rung(k)): self._sign * value for k, value in enumerate(values) if finite}
        status = Status.STOPPED if trial.state is TrialState.PRUNED else Status.DONE
        return Observation({"score": self._sign * trial.value, **rungs}, status=status)

    # ----- what the optimiser is told

    def _observe(self, trial: FrozenTrial) -> None:
        """Register a trial that the search did not propose.

        A surrogate model learns from the trial at once. A tree search uses the score when the search reaches the point.
        """
        config = None if trial.state is TrialState.WAITING else self._config(trial)
        if config is not None:
            self._register(trial, self._axes.space.encode(config), config)

    def _repeat(self, trial: FrozenTrial) -> None:
        """Make the proposal of a claimed trial again, after telling the results that were told before it."""
        claim = trial.system_attrs[CLAIM]
        point: Point = tuple(claim["point"])
        config = self._axes.space.decode(point)
        self._tell(claim["told"])
        if isinstance(self._optimizer, Sequential):
            while self._places < claim["number"] and self._reserve(claim["told"]):
                pass
            number = len(self._optimizer.proposals)
            self._optimizer.repropose(Trial(number, config, point, notes=tuple(claim["notes"])))
            self._proposals[trial.number] = self._optimizer.proposals[-1]
        else:
            if isinstance(self._optimizer, Sampler) and self._optimizer.cheap:
                # The point is known. The call only advances the optimiser's state, such as the position in a sequence.
                self._optimizer.next_point()
            self._register(trial, point, config)
        self._places = claim["number"] + 1

    def _reserve(self, told: list[int]) -> bool:
        """Reserve the next proposal for a trial; return False if the optimiser proposes nothing now."""
        asked = self._optimizer.ask()
        self._reserved += [(self._places, proposal, told) for proposal in asked]
        self._places += len(asked)
        return bool(asked)

    def _register(self, trial: FrozenTrial, point: Point, config: Config) -> None:
        proposal = Proposal(len(self._optimizer.proposals), point, config)
        self._proposals[trial.number] = self._optimizer.register(proposal)
        self._reserved = [reserved for reserved in self._reserved if reserved[1].config != config]

    def _tell(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in self._proposals and self._trials[number].state.is_finished():
                self._optimizer.tell(self._proposals.pop(number), self._observation(self._trials[number]))
