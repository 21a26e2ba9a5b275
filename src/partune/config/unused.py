"""Find settings that would have no effect.

They are refused when a study begins, because a user who sets them expects an effect. This module knows which engine or
objective uses which setting; the definition of the sections does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from partune.config import Data, NamedBaseline, Run, Search, Section, StudyConfig, Training, Validation
from partune.errors import UserError

# The settings of `run` that have an effect with any objective.
ELSEWHERE = ("workers", "scheduler", "tls", "cluster", "time_limit", "storage", "track")


class Unused(NamedTuple):
    """A setting without effect.

    Attributes:
        setting: The section and name of the setting, with its value if that helps.
        reason: Why the setting has no effect.
    """

    setting: str
    reason: str


class Loaded(NamedTuple):
    """Facts about a study's model and data that decide whether a setting has an effect.

    Attributes:
        steps: The number of optimiser steps of a training with the study's settings.
        warmup: The number of warm-up steps of this training.
        rows: What the rows are trained as: alpaca, chat, completion or text.
        on_cpu: Whether the base model is on the CPU.
    """

    steps: int
    warmup: int
    rows: str
    on_cpu: bool


def refuse(study: StudyConfig, searched: Collection[str]) -> None:
    """Refuse a study if a setting differs from its default but has no effect.

    Args:
        study: The settings of a study that is about to begin.
        searched: The names of the study's hyperparameters.

    Raises:
        UserError: There is such a setting. The message names the first one.
    """
    is_function = study.objective != "finetune"
    first = next(_unused_by_function(study) if is_function else _unused_by_finetuning(study, searched), None)
    if first is None and study.run.tls is not None and study.run.scheduler is None:
        first = Unused("run.tls", "it is for a running Dask scheduler (run.scheduler)")
    if first is not None:
        raise UserError(f"{first.setting} would have no effect: {first.reason}; leave it out")


def notes(study: StudyConfig, searched: Collection[str], loaded: Loaded) -> list[str]:
    """Return notes about settings that, with the loaded model and data, have no effect or an unexpected effect.

    Args:
        study: The settings of the study.
        searched: The names of the study's hyperparameters.
        loaded: The facts about the model and data.
    """
    training, run = study.training, study.run
    lines = []
    if training.steps is not None and training.epochs != _default(Training, "epochs") and "steps" not in searched:
        lines.append(f"training.steps {training.steps} is used instead of training.epochs {training.epochs:g}.")
    if loaded.warmup >= loaded.steps and not {"steps", "epochs", "batch_size", "warmup_steps"} & set(searched):
        every = f"all {loaded.steps} steps are warm-up" if loaded.steps > 1 else "the only step is warm-up"
        lines.append(f"training.warmup_steps {loaded.warmup}: {every}, so the learning rate never falls.")
    if not loaded.on_cpu and run.threads is not None:
        lines.append(f"run.threads {run.threads} has no effect: the base model is not on the CPU.")
    if loaded.on_cpu and run.devices_per_worker > 1:
        lines.append(f"run.devices_per_worker {run.devices_per_worker} has no effect: the base model is on the CPU.")
    if study.data is not None and study.data.chat_template is not None and loaded.rows != "chat":
        lines.append(f"data.chat_template has no effect: the rows are {loaded.rows} rows.")
    if study.data is not None and study.data.loss_on == "all" and loaded.rows == "text":
        lines.append("data.loss_on all has no effect: all tokens of text rows are trained on.")
    return lines


def _unused_by_function(study: StudyConfig) -> Iterator[Unused]:
    reason = f"objective {study.objective} trains no model"
    # The settings of `search` have an effect with any objective, except the two that are about the verdict.
    for name in ("seeds", "ship"):
        if getattr(study.search, name) != _default(Search, name):
            yield Unused(f"search.{name}", f"{reason}, so there is no verdict on a winner")
    for name in ("model", "data", "validation"):
        if getattr(study, name) is not None:
            yield Unused(name, reason)
    if study.baseline:
        yield Unused("baseline", reason)
    for name, section in (("training", study.training), ("test", study.test), ("run", study.run)):
        for key in _changed(section):
            if not (name == "run" and key in ELSEWHERE):
                yield Unused(f"{name}.{key}", reason)


def _unused_by_finetuning(study: StudyConfig, searched: Collection[str]) -> Iterator[Unused]:
    training, run, test = study.training, study.run, study.test
    # If one of two settings is searched, some trials may have a value with which the other setting has an effect.
    if training.optimizer == "adamw" and "optimizer" not in searched:
        rivals = [baseline.training.optimizer for baseline in study.baseline]
        if training.momentum != _default(Training, "momentum") and "sgd" not in rivals:
            yield Unused("training.momentum", "only sgd has a momentum, and training.optimizer is adamw")
        if "momentum" in searched:
            yield Unused("momentum in the space", "only sgd has a momentum, and training.optimizer is adamw")
    if "epochs" in searched and training.steps is not None and "steps" not in searched:
        yield Unused("epochs in the space", f"training.steps {training.steps} is used instead of epochs")
    micro = training.micro_batch_size
    if micro is not None and micro > training.batch_size and not {"batch_size", "micro_batch_size"} & set(searched):
        yield Unused(f"training.micro_batch_size {micro}", f"training.batch_size is {training.batch_size}")
    for recipe in study.baseline:
        yield from _unused_by_baseline(recipe, training)
    if study.validation is not None:
        yield from _unused_by_validation(study.validation, bool(test.tasks))
    if not test.tasks:  # a user who limits the test tasks expects that some are scored
        for key in _changed(test):
            yield Unused(f"test.{key}", "there are no test tasks (--test-task)")
    if run.engine != "packed":
        if run.pack not in ("auto", 1):  # 1 is what these engines do in any case
            yield Unused("run.pack", f"engine {run.engine} runs one trial at a time")
        for name in ("stop", "compile"):
            if getattr(run, name) != _default(Run, name):
                yield Unused(f"run.{name}", f"it needs run.engine packed, got {run.engine}")
    if run.engine != "litgpt" and run.litgpt != _default(Run, "litgpt"):
        yield Unused("run.litgpt", f"run.engine is {run.engine}")
    batch = study.validation.batch_size if study.validation is not None else None
    if run.engine == "packed" and batch not in (None, _default(Validation, "batch_size")):
        yield Unused("validation.batch_size", "engine packed finds its own batch size for scoring")
    # Only an id of the Hub has a revision or a split. A path that does not exist here is such an id.
    if study.model is not None and study.model.revision is not None and Path(study.model.path).expanduser().is_dir():
        yield Unused("model.revision", f"{study.model.path} is a folder")
    if study.data is not None and (files := [name for name in study.data.paths if Path(name).expanduser().is_file()]):
        for name in ("split", "config"):
            if getattr(study.data, name) != _default(Data, name):
                yield Unused(f"data.{name}", f"{files[0]} is a file")


def _unused_by_baseline(recipe: NamedBaseline, training: Training) -> Iterator[Unused]:
    sets = recipe.training.model_fields_set
    together = training.model_copy(update={name: getattr(recipe.training, name) for name in sets})
    if "momentum" in sets and together.optimizer == "adamw":
        yield Unused(f"momentum of the baseline {recipe.name}", "only sgd has a momentum, and its optimizer is adamw")
    if "epochs" in sets and together.steps is not None:
        yield Unused(f"epochs of the baseline {recipe.name}", f"steps {together.steps} is used instead of epochs")
    micro = together.micro_batch_size
    if "micro_batch_size" in sets and micro is not None and micro > together.batch_size:
        yield Unused(f"micro_batch_size of the baseline {recipe.name}", f"its batch_size is {together.batch_size}")


def _unused_by_validation(validation: Validation, tested: bool) -> Iterator[Unused]:
    changed = _changed(validation)
    if validation.select == "best" and validation.points < 2:
        yield Unused(
            "validation.select best", "it chooses among the points of --eval-points, and there are fewer than 2"
        )
    if validation.tasks:
        for key in ("split", "data"):
            if key in changed:
                yield Unused(f"validation.{key}", "a task scores the trials (--task), so there are no validation rows")
        return
    if "split" in changed and "data" in changed:
        yield Unused("validation.split", f"the validation rows are those of {validation.data}")
    if not validation.rows_generate:
        for key in ("max_new_tokens", "stop", "temperature"):
            if key in changed:
                yield Unused(f"validation.{key}", "it is for generated answers (`--metric exact_match`, for example)")
    if "confirm_run_unsafe_code" in changed and not tested:
        yield Unused("validation.confirm_run_unsafe_code", "there are no tasks (--task, --test-task)")
    if "fewshot" in changed:
        yield Unused("validation.fewshot", "there is no task (--task)")
    if "trust_task_code" in changed and not tested:
        yield Unused("validation.trust_task_code", "there are no tasks (--task, --test-task)")


def _changed(section: Section) -> list[str]:
    """Return the names of a section's settings that differ from the defaults."""
    fields = type(section).model_fields
    return [
        name for name, field in fields.items() if getattr(section, name) != field.get_default(call_default_factory=True)
    ]


def _default(section: type[Section], name: str) -> object:
    return section.model_fields[name].default
