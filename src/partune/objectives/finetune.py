"""The objective that fine-tunes a base model with a configuration and scores the result, through an engine."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from partune import config
from partune.config import unused, vetting
from partune.errors import UserError
from partune.finetune.engines import Assignment, Settings
from partune.objectives.agreement import difference, difference_of_first
from partune.objectives.base import Anchored
from partune.objectives.engine import make_engine
from partune.objectives.observations import observation_of
from partune.objectives.resident import resident
from partune.objectives.settings import (
    FIELD_DEFAULTS,
    UNEVEN,
    AnyBaseline,
    about_baseline,
    baselines_of,
    check_names,
    default_baseline,
    extremes,
    settings_of,
    study_of,
)
from partune.runtime.extras import require_finetune
from partune.runtime.limits import require_threads
from partune.space import Choice, Hyperparameter, Space
from partune.trial import Config, Observation, Trial, Value
from partune.trial.contents import Contents
from partune.trial.names import ItemSet
from partune.trial.rungs import Judge

SEARCH = frozenset({ItemSet.SEARCH})
JUDGED = frozenset({ItemSet.SEARCH, ItemSet.VERDICT})
ALL = JUDGED | {ItemSet.TEST}


class FineTune(Anchored):
    """Fine-tunes with LoRA on one base model, which stays in memory, and scores with lm-evaluation-harness.

    >>> FineTune(model="meta-llama/Llama-3.2-1B", data="alpaca_data.json", task="hellaswag", test="mmlu")

    Models and data are loaded when they are first needed. With the packed engine (the default of `run.engine`), call
    `evaluate` from `count_slots()` threads: the engine trains and scores their trials together. Other engines run one
    trial at a time. As a context manager, the objective closes itself at the end.

    The class is longer than most because it implements all of `Anchored` (20 members) in terms of an engine.

    Args:
        model: Section `model` of a study's file, a mapping of its keys, or the model's path or id.
        data: Section `data`, a mapping of its keys, or the data's path or id.
        task: The validation task or tasks: names that lm-evaluation-harness knows, or YAML files.
        validation: The other keys of section `validation`.
        test: Section `test`, a mapping of its keys, or the test tasks.
        training: Section `training` or a mapping of its keys.
        run: Section `run` or a mapping of its keys; `engine` chooses the engine.
        baseline: The baselines that the winner is compared with, as in a study's file.
        seed: The seed of the study, which decides the split of the items and the order of the data.
        scratch: The folder for LitGPT's files; its content may be replaced. None makes a temporary folder.

    Raises:
        UserError: A section is invalid.
    """

    def __init__(
        self,
        model: str | Path | config.Model | Mapping[str, Any],
        data: str | Path | config.Data | Mapping[str, Any],
        task: str | Path | Sequence[str] | None = None,
        *,
        validation: config.Validation | Mapping[str, Any] | None = None,
        test: str | Path | Sequence[str] | config.Test | Mapping[str, Any] | None = None,
        training: config.Training | Mapping[str, Any] | None = None,
        run: config.Run | Mapping[str, Any] | None = None,
        baseline: AnyBaseline | Sequence[AnyBaseline] | None = None,
        seed: int = 0,
        scratch: str | Path | None = None,
    ) -> None:
        require_finetune()
        sections = {"validation": validation, "training": training, "run": run}
        self.config = study_of(model, data, task, test, seed, baseline, **sections)
        self.scratch = None if scratch is None else Path(scratch).absolute()
        self.engine = make_engine(self.config, self.scratch)
        self._searched: frozenset[str] = frozenset(FIELD_DEFAULTS)
        self._targets: tuple[str, ...] = (self.config.training.targets,)  # all values that `targets` may have
        self._lengths: tuple[int, ...] = ()  # the smallest and the largest `max_length` of the space
        self._slots: int | None = None
        self._recorded_slots: int | None = None
        self._key = uuid.uuid4().hex  # other processes recognise this objective by its key

    @classmethod
    def of(cls, study: config.StudyConfig, scratch: str | Path | None = None) -> Self:
        """Make the objective from the settings of a study.

        Args:
            study: The study's settings.
            scratch: The folder for LitGPT's files; None makes a temporary folder.

        Raises:
            UserError: The study is not a fine-tuning.
        """
        if study.model is None or study.data is None or study.validation is None:
            raise UserError("a fine-tuning needs the sections model, data and validation in the study's file")
        return cls(
            study.model,
            study.data,
            validation=study.validation,
            test=study.test,
            training=study.training,
            run=study.run,
            baseline=study.baseline,
            seed=study.search.seed,
            scratch=scratch,
        )

    def __repr__(self) -> str:
        return f"FineTune(model={self.model.path!r}, data={self.data.path!r}, task={list(self.validation.tasks)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what is loaded, and remove temporary files. A later use of the objective loads everything again."""
        self.engine.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the settings. A process that unpickles the same objective several times loads the model once.

        The storage's URL is left out, because it may contain a password.
        """
        # `resident` returns the objective that the process already has, because a base model takes minutes to load and
        # may fill a device.
        settings = self.config.model_dump_json(exclude={"run": {"storage"}})
        learnt = {
            "searched": self._searched,
            "targets": self._targets,
            "expected": self.engine.materials.expected,
            "slots": self._slots or self._recorded_slots,
        }
        return resident, (type(self), settings, self.scratch, self._key), learnt

    def __setstate__(self, learnt: dict[str, Any]) -> None:
        """Restore what the pickled objective knew about its study."""
        self._searched, self._targets = learnt["searched"], learnt["targets"]
        self.expect(learnt["expected"])
        if learnt["slots"] is not None:
            self._recorded_slots = learnt["slots"]

    @property
    def model(self) -> config.Model:
        """Section `model`."""
        return self.engine.materials.model

    @property
    def data(self) -> config.Data:
        """Section `data`."""
        return self.engine.materials.data

    @property
    def validation(self) -> config.Validation:
        """Section `validation`."""
        return self.engine.materials.validation

    @property
    def training(self) -> config.Training:
        """Section `training`."""
        return self.config.training

    # ----- available before anything is loaded

    @property
    def name(self) -> str:
        """The name on record: that of the class, or "LitGPT" for the engine litgpt, as in earlier versions."""
        return "LitGPT" if self.config.run.engine == "litgpt" else super().name

    @property
    def identity(self) -> dict[str, Any]:
        """The sections that decide a trial's score; section `run`, which says where trials run, is not among them."""
        sections: dict[str, Any] = self.config.model_dump(
            mode="json",
            include={"model", "data", "training", "validation", "test"},
            exclude={"validation": {"trust_task_code"}},
        )
        baselines = [recipe.model_dump(mode="json") for recipe in self.config.baseline] or None
        return {**sections, "baseline": baselines, **self.engine.identity}

    @property
    def stoppable(self) -> bool:
        """Whether trials may be stopped at rungs."""
        return self.engine.stoppable

    @property
    def even(self) -> bool:
        """Whether all trials have the same number of steps, batch size and data settings."""
        return not self._searched & UNEVEN

    @property
    def defaults(self) -> dict[str, Value]:
        """The first baseline as a configuration; by default the field's defaults, changed by the user's settings."""
        return next(iter(self._baselines.values()))

    @property
    def further(self) -> dict[str, dict[str, Value]]:
        """The configurations of the second and further baselines, by name."""
        return dict(list(self._baselines.items())[1:])

    @property
    def _baselines(self) -> dict[str, dict[str, Value]]:
        return baselines_of(self.config, self._searched)

    @property
    def _usual(self) -> dict[str, Value]:
        return default_baseline(self.training, self._searched)

    @property
    def zero(self) -> dict[str, Value]:
        """The field's defaults with learning rate 0, which leaves the base model unchanged."""
        return {**self._usual, "learning_rate": 0.0}

    def fixed(self, searched: Space) -> dict[str, Value]:
        """Return the hyperparameters of a space that the user has set, and so fixed, with their values."""
        values = config.given(self.training, self.data)
        return {name: values[name] for name in searched.names if name in values}

    def vet(self, searched: Space) -> None:
        """Raise UserError for settings that would have no effect, or validation rows that are trained on."""
        vetting.vet(self.config, searched.names)

    def declare(self, searched: Space | Iterable[str]) -> None:
        """Set which hyperparameters are searched, without loading anything; raise UserError if one is not a setting."""
        names = searched.names if isinstance(searched, Space) else tuple(searched)
        check_names(names)
        self._searched = frozenset(names)
        parameter = searched.hyperparameters.get("targets") if isinstance(searched, Space) else None
        options = parameter.options if isinstance(parameter, Choice) else (self.training.targets,)
        lengths = extremes(searched.hyperparameters.get("max_length")) if isinstance(searched, Space) else ()
        self._lengths = tuple(self.settings({"max_length": end(lengths)}).max_length for end in (min, max) if lengths)
        of_baselines = (baseline.get("targets", self.training.targets) for baseline in self._baselines.values())
        self._targets = tuple(dict.fromkeys(str(option) for option in (*options, *of_baselines)))

    def recall(self, loaded: Mapping[str, Any]) -> None:
        """Set the pack size to the one on record, so that a resumed study keeps it."""
        if self._recorded_slots is None:
            self._recorded_slots = loaded.get("pack")

    def expect(self, contents: Contents) -> None:
        """Set the digests of model and data that are on record; `prepare` raises UserError if the files here differ."""
        self.engine.materials.expect(contents)

    # ----- loading

    def count_slots(self) -> int:
        """Return the number of trials to train at once: the configured or recorded one, or one measured now."""
        if self._slots is None:
            self._slots = self.engine.capacity(lambda: self.settings(self._usual), self._recorded_slots)
        return self._slots

    def prepare(self) -> None:
        """Load the base model, tokenise the data and build the tasks' requests, once; raise UserError if that fails."""
        self.engine.materials.prepare()

    def check(self, searched: Space | Iterable[str] = ()) -> None:
        """Load everything; raise UserError for a space, model, data, targets or tasks that would fail later."""
        require_threads(self.config.run.threads)
        self.engine.refuse()
        self.declare(searched)
        parameters: Mapping[str, Hyperparameter | None]
        parameters = searched.hyperparameters if isinstance(searched, Space) else dict.fromkeys(searched)
        lengths = {(self.data.max_length, self.data.loss_on)}
        for name, parameter in parameters.items():
            for value in extremes(parameter):
                _, max_length, loss_on = self.settings({name: value})
                lengths.add((max_length, loss_on))
        settings = [self.settings({}), self.settings(self._usual)]
        self.prepare()
        from partune.finetune.targets import check_accepted

        materials = self.engine.materials
        base = materials.base(self.training.dtype)
        for name, baseline in self._baselines.items():
            with about_baseline(name if self.config.baseline else None):
                settings.append(self.settings(baseline))
                targets = settings[-1].training.targets
                self.engine.check((targets,), settings[-1:])
                check_accepted(base.model, targets)
        self.engine.check(self._targets, settings)
        for targets in self._targets:
            check_accepted(base.model, targets)
        for max_length, loss_on in lengths:
            materials.examples(base, max_length, loss_on)

    @property
    def contents(self) -> Contents:
        """Digests of the model's files, the tokenizer, the rows used for training, and the items that are scored."""
        return self.engine.materials.contents()

    @property
    def summary(self) -> dict[str, Any]:
        """What was loaded, as it is recorded: device, precision, counts of data and items, metric and notes."""
        from partune.finetune.model import UNLIMITED, dropouts

        self.prepare()
        from partune.finetune.targets import coverage
        from partune.finetune.training import count_steps, count_warmup

        materials = self.engine.materials
        base = materials.base(self.training.dtype)
        examples = materials.examples(base, self.data.max_length, self.data.loss_on)
        steps = count_steps(len(examples), self.training)
        rows = str(examples.summary["format"])
        loaded = unused.Loaded(steps, count_warmup(steps, self.training), rows, base.device.type == "cpu")
        notes = [*unused.notes(self.config, self._searched, loaded), *base.notes]
        return {
            **({"notes": notes} if notes else {}),
            "device": str(base.device),
            "dtype": base.dtype,
            **self.engine.describe(self.count_slots()),
            "data": {**examples.summary, **materials.cuts(base, self._lengths), **materials.held_out, **materials.seen},
            **({} if base.positions == UNLIMITED else {"context": base.positions}),
            "adapted": {targets: coverage(base.model, targets) for targets in self._targets},
            "scoring": {**materials.scorer.summary, "chat_template": False},
            **({"dropout": off} if (off := dropouts(base.model.config)) else {}),
        }

    # ----- from a configuration to its settings, through the engine, to an observation

    def settings(self, configuration: Config) -> Settings:
        """Return the settings with which a configuration is trained; raise UserError if it cannot be trained."""
        settings = settings_of(self.config, configuration)
        self.engine.refuse_training(settings.training)
        return settings

    def seeds(self, trial: Trial, training: config.Training) -> tuple[int, int]:
        """Return the seed of initialisation and dropout, and the seed of the order of the data.

        A fresh run has two seeds of its own. If a seed is configured, a fresh run does not use it: with the same seed,
        the run would be a copy of the first one.

        Args:
            trial: The trial to train.
            training: The settings of the training.
        """
        if trial.order is not None:
            return trial.seed, trial.order
        return trial.seed if training.seed is None else training.seed, self.config.search.seed

    def assign(
        self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH, judge: Judge | None = None
    ) -> Assignment:
        """Return the assignment that tells an engine how to run a trial.

        Args:
            trial: The configuration and its seed.
            adapter: The folder for the trained adapter; None keeps no adapter.
            parts: The parts of the items to score; the search items are always scored.
            judge: Decides at each rung whether the trial continues; None never stops it early.

        Raises:
            UserError: The configuration cannot be trained.
        """
        settings = self.settings(trial.config)
        seed, order_seed = self.seeds(trial, settings.training)
        folder = None if adapter is None else Path(adapter)
        chosen, how = self._parts(parts), self.validation
        slots = self.count_slots()
        return Assignment(
            trial.number, settings, seed, order_seed, chosen, slots, folder, judge, how.points, how.select
        )

    def evaluate(self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH) -> Observation:
        """Train and score a configuration; if only this trial fails, the observation says so.

        Args:
            trial: The configuration and its seed.
            adapter: The folder for the trained adapter; None keeps no adapter.
            parts: The parts to score, out of "search", "verdict" and "test"; the search items are always scored.

        Raises:
            UserError: Every trial would fail in the same way.
        """
        return observation_of(self.engine.evaluate(self.assign(trial, adapter, parts)), trial.fidelity)

    def evaluate_judged(
        self, trial: Trial, adapter: Path | None, judge: Judge, parts: Collection[str] = SEARCH
    ) -> Observation:
        """Train and score a configuration as `evaluate` does, unless the judge stops it at a rung.

        Args:
            trial: The configuration and its seed.
            adapter: The folder for the trained adapter; None keeps no adapter.
            judge: Decides at each rung whether the trial continues.
            parts: The parts of the items to score; the search items are always scored.
        """
        if not self.stoppable:
            return super().evaluate_judged(trial, adapter, judge)
        return observation_of(self.engine.evaluate(self.assign(trial, adapter, parts, judge)), trial.fidelity)

    def score_base(self, parts: Collection[str] = ALL) -> Observation:
        """Score the untouched base model."""
        return observation_of(self.engine.score_base(self.training.dtype, self._parts(parts)))

    def score_zero(self, trial: Trial) -> Observation:
        """Train with learning rate 0 for a few steps and score the search items; scores should equal the base's."""
        zero = dataclasses.replace(trial, config={**trial.config, **self.engine.zero_settings})
        return observation_of(self.engine.score_zero(self.assign(zero)), trial.fidelity)

    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        """Train with the field's defaults, save the adapter and score all parts.

        Args:
            trial: The defaults and the study's seed.
            adapter: The folder for the trained adapter.
        """
        return self.evaluate(trial, adapter, ALL)

    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        """Train a trial with its own two seeds, save the adapter, and score the search and verdict items.

        Args:
            trial: The configuration and its fresh seeds.
            adapter: The folder for the trained adapter.
        """
        return self.evaluate(trial, adapter, JUDGED)

    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        """Score the winner's adapter on all parts; train the winner again if its adapter is gone.

        Args:
            trial: The winner.
            adapter: The folder of its adapter.
        """
        if not adapter.is_dir():
            return self.evaluate(trial, adapter, ALL)
        training, _, _ = self.settings(trial.config)
        return observation_of(self.engine.score_kept(training, adapter, self._parts(ALL)))

    def score_adapter(self, path: str | Path, parts: Collection[str] = SEARCH, dtype: str | None = None) -> Observation:
        """Score a saved adapter.

        Args:
            path: The folder of the adapter.
            parts: The parts of the items to score; the search items are always scored.
            dtype: The precision of the base model; None means the study's precision.

        Raises:
            UserError: The folder holds no adapter, or an adapter of another base model.
        """
        return observation_of(self.engine.score_adapter(dtype or self.training.dtype, Path(path), self._parts(parts)))

    def reload(self, trial: Trial, adapter: Path, scored: Observation) -> Observation | None:
        """Load a saved adapter through PEFT, and score a few search items again with lm-evaluation-harness.

        The answers must equal those on record within TOLERANCE, no matter which engine recorded them.

        Args:
            trial: The trial that trained the adapter.
            adapter: The folder of the adapter.
            scored: The earlier observation of the adapter, with per-item results.

        Returns:
            An observation with the number of items scored, or a failed one; None if PEFT cannot read the adapter.
        """
        training, _, _ = self.settings(trial.config)
        reloaded = self.engine.reload(training.dtype, adapter)
        if reloaded is None:
            return None
        error = reloaded.error or difference_of_first(scored, reloaded.answers, reloaded.dtype)
        if error:
            return Observation.failure(error)
        return Observation({"score": 1.0, "items": sum(map(len, reloaded.answers.values()))})

    def disagreement(self, base: Observation, zero: Observation) -> str | None:
        """Describe how the untouched base model and the run with learning rate 0 differ; None if they agree.

        Args:
            base: The observation of the base model, with per-item results.
            zero: The observation of the run with learning rate 0.
        """
        return difference(base, zero, self.engine.materials.precision(self.training.dtype))

    def interrupt(self) -> None:
        """Make evaluations in other threads raise an exception soon."""
        self.engine.interrupt()

    def _parts(self, parts: Collection[str]) -> frozenset[str]:
        return frozenset(parts) | SEARCH | ({ItemSet.TEST} if self.config.test.every_trial else frozenset())
