"""Read, validate, merge and write the file of a study.

A mistake becomes a `UserError` of one line. The line names the setting and, for an unknown key, the most similar known
key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from partune.config.base import Section
from partune.config.sections import AnySection, Data, NamedBaseline, StudyConfig, Training
from partune.errors import MOST, UserError, shown, suggestion
from partune.runtime import paths, strict_yaml
from partune.runtime.urls import masked, public


def parse(value: Any) -> StudyConfig:
    """Return the configuration of a study from the mapping in its file; raise UserError if it is not valid."""
    if not isinstance(value, dict):
        raise UserError(f"a study's file must be a mapping of sections, got {type(value).__name__}")
    return validated(StudyConfig, value)


def validated(section: type[AnySection], value: Any, strict: bool = False) -> AnySection:
    """Return a section from its mapping.

    Args:
        section: The class of the section.
        value: The mapping.
        strict: Whether values must already have their types, as in Python. Otherwise, text is converted to numbers,
            because the values of flags are text.

    Raises:
        UserError: The mapping is not valid.
    """
    try:
        return section.model_validate(value, strict=strict)
    except ValidationError as error:
        raise UserError(_one_line(error, section)) from None


def parts(value: Any) -> Any:
    """Return the comma-separated entries of one or several texts; return anything else as it is."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return value
    return [part.strip() for text in texts for part in text.split(",")]


def merged(below: Mapping[str, Any], above: Mapping[str, Any], whole: type[Section] = StudyConfig) -> dict[str, Any]:
    """Return two mappings of a study's file as one, merged section by section.

    Args:
        below: The mapping of a file or a preset.
        above: The mapping whose values win, such as that of the flags.
        whole: The class that defines the file. Values that are not sections, such as a space, are replaced instead of
            merged.
    """
    mapping = dict(below)
    for name, value in above.items():
        section = section_in(whole.model_fields[name].annotation) if name in whole.model_fields else None
        under, over = _expanded(mapping.get(name), section), _expanded(value, section)
        are_sections = section is not None and isinstance(under, Mapping) and isinstance(over, Mapping)
        mapping[name] = {**under, **over} if are_sections else value
    return mapping


def _expanded(value: Any, section: type[Section] | None) -> Any:
    """Return the mapping that a bare string abbreviates; return anything else as it is."""
    shorthand = None if section is None else section.shorthand
    return {shorthand: value} if shorthand is not None and isinstance(value, (str, os.PathLike)) else value


def load(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file without validating it, because flags may still complete it.

    Paths in the file are relative to the file's folder. Those that exist are returned as absolute paths.

    Raises:
        UserError: The file cannot be read, or it contains no mapping.
    """
    path = paths.as_path(path)
    try:
        value = strict_yaml.read(path)
    except OSError as error:
        beside = sorted(file.name for file in Path(path).absolute().parent.glob("*.y*ml"))
        hint = suggestion(Path(path).name, beside) if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"cannot read {path}: {error.strerror}{hint}") from None
    if not isinstance(value, dict):
        got = "an empty file" if value is None else type(value).__name__
        raise UserError(f"{path}: a study's file must be a mapping of sections, got {got}")
    return located(value, Path(path).absolute().parent)


def located(value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a study's mapping with absolute paths in place of the relative paths that exist in a folder.

    Args:
        value: The mapping of a file or of flags, not validated yet.
        folder: The folder of the file, or the working folder for flags.
    """

    def absolute(name: Any, admits: Callable[[Path], bool]) -> Any:
        """Return the absolute path of a name, or of each name in a list, if `admits` accepts that path."""
        if _is_list(name):
            return [absolute(entry, admits) for entry in name]
        path_like = isinstance(name, str) and 0 < len(name) < 1000 and "{" not in name  # a chat template is text
        try:
            if path_like and not admits(folder / name) and "," in name:  # several data files
                parts = [part.strip() for part in name.split(",")]
                return ",".join(str(folder / part) if part and admits(folder / part) else part for part in parts)
            return str(folder / name) if path_like and admits(folder / name) else name
        except (OSError, ValueError):  # no file can have this name; validation will report the value
            return name

    mapping = dict(value)
    # Models and data may be folders, but tasks and spaces may not: a folder called hellaswag must not hide the task.
    for section, key, admits in (
        ("model", "path", Path.exists),
        ("data", "path", Path.exists),
        ("data", "chat_template", Path.is_file),
        ("validation", "tasks", Path.is_file),
        ("validation", "data", Path.exists),
        ("test", "tasks", Path.is_file),
        ("run", "litgpt", Path.is_file),
        ("run", "cluster", Path.is_file),
        ("run", "tls", Path.is_dir),
    ):
        part = mapping.get(section)
        if isinstance(part, Mapping) and key in part:
            mapping[section] = {**part, key: absolute(part[key], admits)}
        elif isinstance(part, str) and key == "path":
            mapping[section] = absolute(part, admits)
    if "space" in mapping:
        mapping["space"] = absolute(mapping["space"], Path.is_file)
    if "baseline" in mapping:
        given = mapping["baseline"]
        # A file that happens to have the name of a recipe must not hide the recipe.
        mapping["baseline"] = [
            absolute(name, Path.is_file) if isinstance(name, str) and name.endswith((".yaml", ".yml")) else name
            for name in (given if _is_list(given) else [given])
        ]
    return mapping


def dump(config: StudyConfig, ascii_only: bool = False) -> str:
    """Return the YAML text of a configuration with its defaults and without passwords; `parse` accepts its mapping.

    Args:
        config: The configuration.
        ascii_only: Whether to write characters outside ASCII as escapes.
    """
    plain = config.model_dump(mode="json")
    if config.run.storage is not None:
        plain["run"]["storage"] = public(config.run.storage)
    searched = config.space if isinstance(config.space, Mapping) else {}
    for section, kind in (("training", Training), ("data", Data)):
        fields = kind.model_fields
        for name in searched:  # written as null, because any value, even the default, would fix the hyperparameter
            if name in fields and plain[section] is not None and plain[section][name] == fields[name].default:
                plain[section][name] = None
    return strict_yaml.dump(plain, ascii_only)


def _one_line(error: ValidationError, outermost: type[Section]) -> str:
    """Return the first mistake in one line: the setting, the problem and, for an unknown key, the most similar key.

    error: The error of pydantic.
    outermost: The section that was validated.
    """
    first = error.errors(include_url=False)[0]
    # Some parts of the location are not keys, such as the name of a union's member.
    location = ".".join(str(part) for part in first["loc"] if str(part).isidentifier() or isinstance(part, int))
    if first["type"] == "extra_forbidden":
        *parents, key = first["loc"]
        return f'unknown key "{location}"{suggestion(str(key), _section(outermost, parents).model_fields)}'
    message = first["msg"].removeprefix("Value error, ")
    if not location or message.startswith(f"{location}."):  # a message may name a setting of the section itself
        return message
    if first["type"] == "missing":
        return f"{location} is missing"
    got = (
        ""
        if isinstance(first["input"], Mapping) and first["type"] == "value_error"
        else f", got {shown(first['input'], MOST)}"
    )
    return masked(f"{location}: {message[0].lower()}{message[1:]}{got}")


def _section(section: type[Section], path: list[int | str]) -> type[Section]:
    """Return the class of the section that a path of keys leads to.

    section: The section in which the path begins.
    path: The keys.
    """
    for key in path:
        if isinstance(key, int):  # the position in a list of sections
            continue
        inner = section_in(section.model_fields[key].annotation)
        section = NamedBaseline if inner is None else inner  # no other section can be in a list
    return section


def section_in(annotation: Any) -> type[Section] | None:
    """Return the class of the section in a field's annotation, or None if the field is not a section."""
    return next((part for part in (annotation, *getattr(annotation, "__args__", ())) if _is_section(part)), None)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
