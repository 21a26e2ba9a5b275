"""Make a study from the configuration in its file: its objective, its space and its search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partune import config
from partune.config import StudyConfig, vetting
from partune.errors import UserError
from partune.record.record import CONFIG, Record
from partune.space import SPACES, Space
from partune.study import Budget, Study, Watcher
from partune.study.settings import file_keywords
from partune.workers.base import Workers


def study(
    study_config: StudyConfig,
    directory: Path,
    resume: bool,
    workers: Workers | None = None,
    storage: str | None = None,
    join: bool = False,
    watcher: Watcher | None = None,
) -> Study:
    """Make the study that a file describes.

    Args:
        study_config: The configuration in the file.
        directory: The study's folder.
        resume: Whether to continue a study that exists.
        workers: The worker processes; None to evaluate in this process.
        storage: The URL of the database, including its password, which the file does not contain.
        join: Whether to take part in a study that another process leads.
        watcher: The watcher that is told of the study's progress.

    Raises:
        UserError: The settings are not valid together, or the directory contains another study.
    """
    objective = _objective(study_config, directory)
    study_config = with_space(study_config, resume)
    if not resume:
        vetting.vet(study_config, study_config.space or ())
    return Study(
        Space.parse(study_config.space or {}),
        objective,
        study_config.search.algorithm,
        study_config.search.seed,
        directory,
        **file_keywords(study_config),
        resume=resume,
        config=config.dump(study_config),
        watcher=watcher,
        workers=workers,
        storage=storage,
        join=join,
    )


def budget(study_config: StudyConfig) -> Budget:
    """Return what a study may spend: the number of trials is a limit by default, but not beside hours."""
    search = study_config.search
    in_hours = search.hours is not None or search.device_hours is not None
    trials = search.budget if "budget" in search.model_fields_set or not in_hours else None
    return Budget(trials, search.hours, search.device_hours)


def recorded(directory: Path, otherwise: str, storage: str | None) -> StudyConfig:
    """Return the configuration with which a study was begun.

    Args:
        directory: The study's folder.
        otherwise: The error's advice if the study was begun from Python and therefore has no configuration.
        storage: The URL of the record's database, if the user passed one.

    Raises:
        UserError: The study was begun from Python, or its file is damaged.
    """
    if not (directory / CONFIG).is_file():
        Record.open(directory, read_only=True, storage=storage)  # raises UserError if this is not a study
        raise UserError(f"{directory} was begun from Python: {otherwise}")
    try:
        mapping = config.load(directory / CONFIG)
        study_config = config.parse(mapping)
    except UserError as error:
        file = str(directory / CONFIG)
        raise UserError(str(error) if file in str(error) else f"{file} is damaged: {error}") from None
    header = Record.open(directory, read_only=True, storage=storage).header
    return config.parse(_with_recorded_defaults(mapping, header)) if "objective" in header else study_config


def _with_recorded_defaults(mapping: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's mapping with the defaults on record in place of nulls.

    The file has null for each searched hyperparameter. Baselines use its default, which another version of partune may
    have changed since the study began.

    mapping: The mapping of the study's file.
    header: The header of the study's record.
    """
    completed = dict(mapping)
    for name in ("training", "data"):
        section, recorded = mapping.get(name), header["objective"].get(name)
        if isinstance(section, Mapping) and isinstance(recorded, Mapping):
            completed[name] = {key: recorded.get(key) if value is None else value for key, value in section.items()}
    return completed


def _objective(study_config: StudyConfig, directory: Path) -> Any:
    if study_config.objective != "finetune":
        from partune.objectives.function import named

        return named(study_config.objective)
    from partune.objectives.finetune import FineTune

    return FineTune.of(study_config, scratch=directory / "litgpt")


def with_space(study_config: StudyConfig, resume: bool = False) -> StudyConfig:
    """Return the configuration with its space as a mapping, without the hyperparameters that the settings fix.

    Args:
        study_config: The configuration in the file. If it has no space, the objective's own space is used.
        resume: Whether the study exists. Then its space is the recorded one, and no further hyperparameter is fixed.

    Raises:
        UserError: The space is not valid, or there is none.
    """
    space = _space(study_config)
    values = {} if resume else _fixed(study_config, space)
    return study_config.model_copy(update={"space": (space.fixing(values) if values else space).describe()})


def fixed(study_config: StudyConfig) -> dict[str, Any]:
    """Return the hyperparameters of the space that the file or the flags fix, with their fixed values."""
    return _fixed(study_config, _space(study_config))


def beneath(preset: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset's mapping without the settings that would contradict the user's.

    The user did not choose the preset's settings, so they are removed without a message.

    Args:
        preset: The mapping of a file that comes with partune.
        given: The user's mapping, which will be merged over the preset.
    """
    form = given.get("space")
    names = () if form is None else Space.parse(_space_form(form)).names
    if given.get("run", {}).get("engine", "packed") != "packed":
        preset = preset | {"run": {key: value for key, value in preset.get("run", {}).items() if key != "pack"}}
    if given.get("search", {}).keys() & {"hours", "device_hours"}:
        preset = preset | {"search": {key: value for key, value in preset.get("search", {}).items() if key != "budget"}}
    return preset | {
        section: {key: value for key, value in preset[section].items() if key not in names}
        for section in ("training", "data")
        if isinstance(preset.get(section), dict)
    }


def _fixed(study_config: StudyConfig, space: Space) -> dict[str, Any]:
    if study_config.objective != "finetune":
        return {}
    values = config.given(study_config.training, study_config.data)
    return {name: values[name] for name in space.names if name in values}


def _space(study_config: StudyConfig) -> Space:
    from partune.objectives.function import named

    space: Space | None
    if study_config.space is not None:
        space = Space.parse(_space_form(study_config.space))
    elif study_config.objective == "finetune":
        space = SPACES["lora"]
    else:
        space = getattr(named(study_config.objective), "space", None)
    if space is None:
        raise UserError(f"objective {study_config.objective} needs a space: give --space or a section in the file")
    return space


def _space_form(form: Any) -> Any:
    """Return the mapping in the YAML file that defines a space; return anything else as it is."""
    if isinstance(form, str) and form.endswith((".yaml", ".yml")):
        return config.load(form)
    return form
