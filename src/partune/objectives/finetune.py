"""The black box of fine-tuning: a configuration in; trained and scored by an engine, an observation out."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from partune import config
from partune.config import unused
from partune.errors import UserError
from partune.finetune.engines import Assignment, Engine, Settings
from partune.objectives.agreement import difference, difference_of_first
from partune.objectives.base import Anchored
from partune.objectives.observations import observation_of
from partune.objectives.settings import FIELD_DEFAULTS, UNEVEN, check_names, extremes, settings_of, study_of
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
    """Fine-tunes with LoRA on one resident base model and scores with lm-evaluation-harness.

    >>> FineTune(model="meta-llama/Llama-3.2-1B", data="alpaca_data.json", task="hellaswag", test="mmlu")

    Nothing is loaded before it is needed. With the packed engine (`run.engine`, the default) `evaluate` is made to be
    called from `count_slots()` threads: each hands its trial to the resident engine, which trains and scores them
    together. With the other engines trials run one after the other. As a context it is closed at the end.

    The class is longer than most: it is the one bridge between what a study asks of an objective (`Anchored`, 20
    members) and what an engine does.

    Args:
        model: Section `model` of a study's file, a mapping of its keys, or the model's path or id.
        data: Section `data`, a mapping of its keys, or the data's path or id.
        task: Validation task or tasks: names of the harness or YAML files.
        validation: The rest of section `validation`.
        test: Section `test`, a mapping of its keys, or test tasks.
        training: Section `training` or a mapping of its keys.
        run: Section `run` or a mapping of its keys; `engine` chooses the engine.
        seed: Seed of the study: splits of the items, the data's order.
        scratch: Folder for LitGPT's files, whose content may be replaced; None takes a temporary one.

    Raises:
        UserError: A section is wrong.
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
        seed: int = 0,
        scratch: str | Path | None = None,
    ) -> None:
        require_finetune()
        self.config = study_of(model, data, task, test, seed, validation=validation, training=training, run=run)
        self.scratch = None if scratch is None else Path(scratch).absolute()
        self.engine = _make_engine(self.config, self.scratch)
        self._searched: frozenset[str] = frozenset(FIELD_DEFAULTS)
        self._targets: tuple[str, ...] = (self.config.training.targets,)  # all that a trial may have
        self._slots: int | None = None
        self._recorded_slots: int | None = None
        self._key = uuid.uuid4().hex  # what other processes have loaded for this very objective

    @classmethod
    def of(cls, study: config.StudyConfig, scratch: str | Path | None = None) -> Self:
        """Return the objective of a study's file.

        Args:
            study: The study's settings.
            scratch: As the class takes it.

        Raises:
            UserError: The study is not one of fine-tuning.
        """
        if study.model is None or study.data is None or study.validation is None:
            raise UserError("fine-tuning needs model, data and validation")
        return cls(
            study.model,
            study.data,
            validation=study.validation,
            test=study.test,
            training=study.training,
            run=study.run,
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
        """Release what is loaded and remove temporary files. What is used again afterwards loads again."""
        self.engine.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings alone: another process loads for itself, once, however often it is handed the same ones.

        Without the storage's URL, which may hold a password.
        """
        # A base takes minutes to load and may fill a device, and is not sent: `resident` finds the process's own.
        settings = self.config.model_dump_json(exclude={"run": {"storage"}})
        learnt = {
            "searched": self._searched,
            "targets": self._targets,
            "expected": self.engine.materials.expected,
            "slots": self._slots or self._recorded_slots,
        }
        return resident, (type(self), settings, self.scratch, self._key), learnt

    def __setstate__(self, learnt: dict[str, Any]) -> None:
        """Take over what the study found out since the objective was made."""
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

    # ----- what a study asks before anything is loaded

    @property
    def name(self) -> str:
        """The class's name on record. LitGPT's studies have always been recorded under a name of their own."""
        return "LitGPT" if self.config.run.engine == "litgpt" else super().name

    @property
    def identity(self) -> dict[str, Any]:
        """The sections that decide what a trial scores; where it runs does not."""
        sections: dict[str, Any] = self.config.model_dump(
            mode="json",
            include={"model", "data", "training", "validation", "test"},
            exclude={"validation": {"trust_task_code"}},
        )
        return {**sections, **self.engine.identity}

    @property
    def stoppable(self) -> bool:
        """Whether trials may be stopped at rungs."""
        return self.engine.stoppable

    @property
    def even(self) -> bool:
        """Whether all trials take the same steps of the same size."""
        return not self._searched & UNEVEN

    @property
    def defaults(self) -> dict[str, Value]:
        """The field's defaults as a configuration; a setting that the user gave and does not search stays."""
        kept = self.training.model_fields_set - self._searched
        fields = config.Training.model_fields
        given = self.training.model_dump()
        return {name: given[name] if name in kept else fields[name].default for name in FIELD_DEFAULTS}

    @property
    def zero(self) -> dict[str, Value]:
        """The defaults with learning rate 0, which leaves the base as it is."""
        return {**self.defaults, "learning_rate": 0.0}

    def fixed(self, searched: Space) -> dict[str, Value]:
        """Return the hyperparameters of a space that have a value here already, which fixes them."""
        values = config.given(self.training, self.data)
        return {name: values[name] for name in searched.names if name in values}

    def vet(self, searched: Space) -> None:
        """Raise UserError for a setting that would have no effect in a study of this space."""
        unused.refuse(self.config, searched.names)

    def declare(self, searched: Space | Iterable[str]) -> None:
        """Note what is searched; raise UserError for what is no setting. Loads nothing."""
        names = searched.names if isinstance(searched, Space) else tuple(searched)
        check_names(names)
        self._searched = frozenset(names)
        parameter = searched.hyperparameters.get("targets") if isinstance(searched, Space) else None
        options = parameter.options if isinstance(parameter, Choice) else (self.training.targets,)
        self._targets = tuple(str(option) for option in options)

    def recall(self, loaded: Mapping[str, Any]) -> None:
        """Note the pack size that a resumed study began with, to go on with it."""
        if self._recorded_slots is None:
            self._recorded_slots = loaded.get("pack")

    def expect(self, contents: Contents) -> None:
        """Note what the study stands on; `prepare` raises UserError where something else is here."""
        self.engine.materials.expect(contents)

    # ----- what loads

    def count_slots(self) -> int:
        """Return how many trials are best trained at once: as configured, as on record, or measured now."""
        if self._slots is None:
            self._slots = self.engine.capacity(lambda: self.settings(self.defaults), self._recorded_slots)
        return self._slots

    def prepare(self) -> None:
        """Load the base model, tokenise the data and build the tasks' requests, once; raise UserError."""
        self.engine.materials.prepare()

    def check(self, searched: Space | Iterable[str] = ()) -> None:
        """Raise UserError for what could not work later: names and bounds of the space, model, data, targets, tasks.

        Loads all of these.
        """
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
        usual = [self.settings({}), self.settings(self.defaults)]
        self.prepare()
        from partune.finetune.targets import check_accepted

        materials = self.engine.materials
        base = materials.base(self.training.dtype)
        self.engine.check(self._targets, usual)
        for targets in self._targets:
            check_accepted(base.model, targets)
        for max_length, loss_on in lengths:
            materials.examples(base, max_length, loss_on)

    @property
    def contents(self) -> Contents:
        """The model's files, the tokenizer, the rows as they are trained on, and the items as they are scored."""
        return self.engine.materials.contents()

    @property
    def summary(self) -> dict[str, Any]:
        """What was loaded, for the record: counts of the data, items and metric, device and precision."""
        from partune.finetune.model import dropouts

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
            "data": examples.summary,
            # 2^31 stands for a model that reads texts of any length.
            **({} if base.positions == 2**31 else {"context": base.positions}),
            "adapted": {targets: coverage(base.model, targets) for targets in self._targets},
            "scoring": {**materials.scorer.summary, "chat_template": False},
            **({"dropout": off} if (off := dropouts(base.model.config)) else {}),
        }

    # ----- a configuration, to its settings, to an engine, to an observation

    def settings(self, configuration: Config) -> Settings:
        """Return how a configuration trains; raise UserError where it cannot."""
        settings = settings_of(self.config, configuration)
        self.engine.refuse_training(settings.training)
        return settings

    def seeds(self, trial: Trial, training: config.Training) -> tuple[int, int]:
        """Return the seed of initialisation and dropout, and that of the data's order.

        A run with fresh seeds has its own of both, whatever seed is configured: it would be a copy.

        Args:
            trial: Which is to be trained.
            training: Its settings.
        """
        if trial.order is not None:
            return trial.seed, trial.order
        return trial.seed if training.seed is None else training.seed, self.config.search.seed

    def assign(
        self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH, judge: Judge | None = None
    ) -> Assignment:
        """Return a trial's work, as an engine is given it.

        Args:
            trial: Its configuration and seed.
            adapter: Folder to save the adapter in; None keeps none.
            parts: Parts of the items to score; the search items always are.
            judge: Asked at each rung whether the trial goes on.

        Raises:
            UserError: The configuration cannot be trained.
        """
        settings = self.settings(trial.config)
        seed, order_seed = self.seeds(trial, settings.training)
        folder = None if adapter is None else Path(adapter)
        return Assignment(
            trial.number, settings, seed, order_seed, self._parts(parts), self.count_slots(), folder, judge
        )

    def evaluate(self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH) -> Observation:
        """Train a configuration and score it; what goes wrong in the trial alone is a failed observation.

        Args:
            trial: Its configuration and seed.
            adapter: Folder to save the adapter in; None keeps none.
            parts: Parts of the items to score, of "search", "verdict" and "test"; the search items always are.

        Raises:
            UserError: Every trial would fail so.
        """
        return observation_of(self.engine.evaluate(self.assign(trial, adapter, parts)), trial.fidelity)

    def evaluate_judged(
        self, trial: Trial, adapter: Path | None, judge: Judge, parts: Collection[str] = SEARCH
    ) -> Observation:
        """Train and score a configuration as `evaluate` does, unless the judge stops it at a rung.

        Args:
            trial: Its configuration and seed.
            adapter: Folder to save the adapter in; None keeps none.
            judge: Asked at each rung whether the trial goes on.
            parts: Parts of the items to score.
        """
        if not self.stoppable:
            return super().evaluate_judged(trial, adapter, judge)
        return observation_of(self.engine.evaluate(self.assign(trial, adapter, parts, judge)), trial.fidelity)

    def score_base(self, parts: Collection[str] = ALL) -> Observation:
        """Score the untouched base."""
        return observation_of(self.engine.score_base(self.training.dtype, self._parts(parts)))

    def score_zero(self, trial: Trial) -> Observation:
        """Train with learning rate 0 for a few steps, and score the search items: the base's, if nothing is wrong."""
        zero = dataclasses.replace(trial, config={**trial.config, **self.engine.zero_settings})
        return observation_of(self.engine.score_zero(self.assign(zero)), trial.fidelity)

    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        """Train the field's defaults, keep their adapter and score all parts.

        Args:
            trial: The defaults, with the study's seed.
            adapter: Folder to save the adapter in.
        """
        return self.evaluate(trial, adapter, ALL)

    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        """Train a trial with its own seed and order, keep its adapter, score search and verdict items.

        Args:
            trial: Its configuration, with fresh seeds.
            adapter: Folder to save the adapter in.
        """
        return self.evaluate(trial, adapter, JUDGED)

    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        """Score all parts of a trial by its kept adapter, or train it again where that is gone.

        Args:
            trial: The winner.
            adapter: Folder of its adapter.
        """
        if not adapter.is_dir():
            return self.evaluate(trial, adapter, ALL)
        training, _, _ = self.settings(trial.config)
        return observation_of(self.engine.score_kept(training, adapter, self._parts(ALL)))

    def score_adapter(self, path: str | Path, parts: Collection[str] = SEARCH, dtype: str | None = None) -> Observation:
        """Score a saved adapter.

        Args:
            path: Its folder.
            parts: Parts of the items to score; the search items always are.
            dtype: Precision of the base; None takes the study's.

        Raises:
            UserError: It is no adapter, or not one of this base.
        """
        return observation_of(self.engine.score_adapter(dtype or self.training.dtype, Path(path), self._parts(parts)))

    def reload(self, trial: Trial, adapter: Path, scored: Observation) -> Observation | None:
        """Load a kept adapter through PEFT, and let the harness score a handful of search items once more.

        The answers have to be those on record, within TOLERANCE, whatever engine and passes they came from.

        Args:
            trial: Whose adapter it is.
            adapter: Its folder.
            scored: What it was scored before, with per-item results.

        Returns:
            How many items were scored, or a failure with the reason; None where there is nothing that PEFT reads.
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
        """Return why the untouched base and learning rate 0 are not the same model, or None where they are.

        Args:
            base: What the base scored, with per-item results.
            zero: What learning rate 0 scored.
        """
        return difference(base, zero, self.engine.materials.precision(self.training.dtype))

    def interrupt(self) -> None:
        """End evaluations under way in other threads by an exception."""
        self.engine.interrupt()

    def _parts(self, parts: Collection[str]) -> frozenset[str]:
        return frozenset(parts) | SEARCH | ({ItemSet.TEST} if self.config.test.every_trial else frozenset())


def _make_engine(study: config.StudyConfig, scratch: Path | None) -> Engine:
    """Return the engine that a study's section `run` names; LitGPT alone leaves something in `scratch`."""
    if study.run.engine == "litgpt":
        from partune.finetune.litgpt.engine import LitGPTEngine

        return LitGPTEngine(study, scratch)
    if study.run.engine == "packed":
        from partune.finetune.packed.engine import PackedEngine

        return PackedEngine(study)
    from partune.finetune.peft import PeftEngine

    return PeftEngine(study)


_REVIVING = threading.Lock()


def resident(kind: type[FineTune], settings: str, scratch: Path | None, key: str) -> FineTune:
    """Return this process's objective of a study's settings; pickled objectives come back as this one.

    Args:
        kind: The class that was pickled.
        settings: The study's settings as JSON.
        scratch: Folder for what LitGPT leaves.
        key: The objective that was pickled. Another study may have the same settings, and other rows in the same file.
    """
    with _REVIVING:  # a cache's function runs twice where two threads ask at once, and would load the base twice
        return _revived(kind, settings, scratch, key)


@lru_cache(maxsize=1)  # a base may fill the device
def _revived(kind: type[FineTune], settings: str, scratch: Path | None, key: str) -> FineTune:
    objective = kind.of(config.StudyConfig.model_validate_json(settings), scratch)
    objective._key, objective.engine.materials.abroad = key, True
    return objective
