"""What a configuration means for a training: the study's settings with the configuration's values in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from partune import config
from partune.errors import UserError, suggestion
from partune.finetune.engines import Settings
from partune.space import Choice, Float, Hyperparameter, Int
from partune.trial import Config, Value

FIELD_DEFAULTS, DATA_SETTINGS = config.DEFAULTS, config.DATA_SETTINGS
UNEVEN = frozenset({"steps", "epochs", "batch_size", *DATA_SETTINGS})  # searched, trials end at different times
SETTINGS = (*config.Training.model_fields, *DATA_SETTINGS)


def study_of(
    model: str | Path | config.Model | Mapping[str, Any],
    data: str | Path | config.Data | Mapping[str, Any],
    task: str | Path | Sequence[str] | None,
    test: str | Path | Sequence[str] | config.Test | Mapping[str, Any] | None,
    seed: int,
    **sections: config.Section | Mapping[str, Any] | None,
) -> config.StudyConfig:
    """Return the study's settings that `FineTune`'s arguments mean.

    Args:
        model: Section, mapping of its keys, or the model's path or id.
        data: Section, mapping of its keys, or the data's path or id.
        task: Validation task or tasks; None where section `validation` has them.
        test: Section, mapping of its keys, or test tasks.
        seed: Seed of the study.
        sections: Sections `validation`, `training` and `run`, or mappings of their keys.

    Raises:
        UserError: A section is wrong.
    """
    plain = {name: dict(_plain(section) or {}) for name, section in sections.items()}
    if task is not None:
        plain.setdefault("validation", {})["tasks"] = _listed(task)
    return config.parse(
        {
            "objective": "finetune",
            "model": _plain(model),
            "data": _plain(data),
            "test": _plain(test) if isinstance(test, (config.Test, Mapping)) else {"tasks": _listed(test or ())},
            **plain,
            "validation": plain.get("validation") or None,  # an empty section would be one without tasks
            "search": {"seed": seed},
        }
    )


def check_names(names: Iterable[str]) -> None:
    """Raise UserError for the first hyperparameter of a space that is no training setting."""
    for name in names:
        if name not in SETTINGS:
            raise UserError(f'the space has "{name}", which is no training setting{suggestion(name, SETTINGS)}')


def settings_of(study: config.StudyConfig, configuration: Config) -> Settings:
    """Return how a configuration trains.

    Args:
        study: The settings that all trials of a study have.
        configuration: A trial's own values, of training and of data settings.

    Raises:
        UserError: A name or a value is no setting.
    """
    for name in configuration:
        if name not in SETTINGS:
            raise UserError(f'"{name}" is no training setting{suggestion(name, SETTINGS)}')
    training = {name: value for name, value in configuration.items() if name not in DATA_SETTINGS}
    data = {name: value for name, value in configuration.items() if name in DATA_SETTINGS}
    plain = study.model_dump(exclude={"training", "data"})
    given = cast(config.Data, study.data).model_dump()
    # Parsed as a file's are, so that a searched value meets the same rules as one that is given.
    whole = config.parse(plain | {"training": study.training.model_dump() | training, "data": given | data})
    read = cast(config.Data, whole.data)
    return Settings(whole.training, read.max_length, read.loss_on)


def extremes(parameter: Hyperparameter | None) -> Sequence[Value]:
    """Return the values of a hyperparameter that have to be settings, for all between to be."""
    if isinstance(parameter, Choice):
        return parameter.options
    # One value from within tells a real from an integer: the ends of a real may be whole numbers.
    return (parameter.low, parameter.high, parameter.decode(0.381966)) if isinstance(parameter, (Float, Int)) else ()


def _plain(section: Any) -> Any:
    """Return a section as the mapping or text that it was made from; only what was set."""
    if isinstance(section, config.Section):
        return section.model_dump(exclude_unset=True)
    return str(section) if isinstance(section, Path) else section


def _listed(names: str | Path | Sequence[str]) -> list[str]:
    return [str(names)] if isinstance(names, (str, Path)) else [str(name) for name in names]
