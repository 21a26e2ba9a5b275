"""Combine a study's settings with a configuration's values into the settings of one training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from partune import config
from partune.errors import UserError, suggestion
from partune.finetune.engines import Settings
from partune.space import Choice, Float, Hyperparameter, Int
from partune.trial import Config, Value

FIELD_DEFAULTS, DATA_SETTINGS = config.DEFAULTS, config.DATA_SETTINGS
UNEVEN = frozenset({"steps", "epochs", "batch_size", *DATA_SETTINGS})  # if one is searched, trials differ in duration
AnyBaseline = str | Path | Mapping[str, Any] | config.NamedBaseline
SETTINGS = (*config.Training.model_fields, *DATA_SETTINGS)


def study_of(
    model: str | Path | config.Model | Mapping[str, Any],
    data: str | Path | config.Data | Mapping[str, Any],
    task: str | Path | Sequence[str] | None,
    test: str | Path | Sequence[str] | config.Test | Mapping[str, Any] | None,
    seed: int,
    baseline: AnyBaseline | Sequence[AnyBaseline] | None = None,
    **sections: config.Section | Mapping[str, Any] | None,
) -> config.StudyConfig:
    """Build the settings of a study from the arguments of `FineTune`.

    Args:
        model: Section `model`, a mapping of its keys, or the model's path or id.
        data: Section `data`, a mapping of its keys, or the data's path or id.
        task: The validation task or tasks; None if section `validation` names them.
        test: Section `test`, a mapping of its keys, or the test tasks.
        seed: The seed of the study.
        baseline: The baselines, as in a study's file: names of recipes, YAML files, or mappings; by default, the
            field's defaults.
        sections: Sections `validation`, `training` and `run`, or mappings of their keys.

    Raises:
        UserError: A section is invalid.
    """
    plain = {name: dict(_plain(section) or {}) for name, section in sections.items()}
    if task is not None:
        plain.setdefault("validation", {})["tasks"] = _listed(task)
    return config.parse(
        {
            "objective": "finetune",
            "model": _plain(model),
            "data": _plain(data),
            "baseline": _baselines(baseline),
            "test": _plain(test) if isinstance(test, (config.Test, Mapping)) else {"tasks": _listed(test or ())},
            **plain,
            "search": {"seed": seed},
        }
    )


def check_names(names: Iterable[str]) -> None:
    """Raise UserError for the first of a space's hyperparameters whose name is not a training setting."""
    for name in names:
        if name not in SETTINGS:
            raise UserError(f'the space has "{name}", which is not a training setting{suggestion(name, SETTINGS)}')


def settings_of(study: config.StudyConfig, configuration: Config) -> Settings:
    """Return the settings with which a configuration is trained.

    Args:
        study: The settings that all trials of the study share.
        configuration: The trial's values of training and data settings.

    Raises:
        UserError: A name is not a training setting, or its value is invalid.
    """
    for name in configuration:
        if name not in SETTINGS:
            raise UserError(f'"{name}" is not a training setting{suggestion(name, SETTINGS)}')
    training = {name: value for name, value in configuration.items() if name not in DATA_SETTINGS}
    data = {name: value for name, value in configuration.items() if name in DATA_SETTINGS}
    plain = study.model_dump(exclude={"training", "data"})
    configured = cast(config.Data, study.data).model_dump()
    # Parsing checks searched values by the same rules as the values in a study's file.
    parsed = config.parse(plain | {"training": study.training.model_dump() | training, "data": configured | data})
    parsed_data = cast(config.Data, parsed.data)
    return Settings(parsed.training, parsed_data.max_length, parsed_data.loss_on)


def default_baseline(training: config.Training, searched: Collection[str]) -> dict[str, Value]:
    """Return the field's defaults as a configuration; settings that the user has fixed keep the user's values.

    Args:
        training: The study's section `training`.
        searched: The names of the study's hyperparameters.
    """
    fixed = training.model_fields_set - set(searched)
    usual = config.RECIPES[config.USUAL].training
    return {name: getattr(training, name) if name in fixed else usual[name] for name in FIELD_DEFAULTS}


def baseline_of(recipe: config.NamedBaseline) -> dict[str, Value]:
    """Return a baseline that the user named as a configuration. Its values count even if the study fixes others."""
    return {name: value for name, value in recipe.training.model_dump(exclude_unset=True).items() if value is not None}


def baselines_of(study: config.StudyConfig, searched: Collection[str]) -> dict[str, dict[str, Value]]:
    """Return the configurations of a study's baselines by the name in messages, in the order of the verdict.

    Args:
        study: The settings of the study.
        searched: The names of the study's hyperparameters.
    """
    if not study.baseline:
        return {"the field's defaults": default_baseline(study.training, searched)}
    return {recipe.name: baseline_of(recipe) for recipe in study.baseline}


@contextmanager
def about_baseline(name: str | None) -> Iterator[None]:
    """Name the user's baseline in the message of a UserError that is raised within the context.

    Args:
        name: The name of the baseline; None for the default one, whose messages stay as they are.
    """
    try:
        yield
    except UserError as error:
        raise error if name is None else UserError(f"baseline {name}: {error}") from None


def extremes(parameter: Hyperparameter | None) -> Sequence[Value]:
    """Return a few values of a hyperparameter. If these are valid settings, so are all its values."""
    if isinstance(parameter, Choice):
        return parameter.options
    # Both bounds of a Float may be whole numbers. A value between them shows whether the setting accepts fractions.
    return (parameter.low, parameter.high, parameter.decode(0.381966)) if isinstance(parameter, (Float, Int)) else ()


def _baselines(given: AnyBaseline | Sequence[AnyBaseline] | None) -> list[Any]:
    listed = [given] if given is None or isinstance(given, (str, Path, Mapping, config.NamedBaseline)) else [*given]
    return [_plain(baseline) for baseline in listed if baseline is not None]


def _plain(section: Any) -> Any:
    """Return a section as a mapping of the keys that were set; return a path as text and other values as they are."""
    if isinstance(section, config.Section):
        return section.model_dump(exclude_unset=True)
    return str(section) if isinstance(section, Path) else section


def _listed(names: str | Path | Sequence[str]) -> list[str]:
    return [str(names)] if isinstance(names, (str, Path)) else [str(name) for name in names]
