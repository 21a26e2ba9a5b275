"""A study's file: read, validated, merged with flags, and written.

A mistake becomes one line of a `UserError`, which names the place and, for an unknown key, the nearest known one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from partune.config.sections import AnySection, Data, Section, StudyConfig, Training
from partune.errors import MOST, UserError, shown, suggestion
from partune.runtime import paths, strict_yaml
from partune.runtime.urls import masked, public


def parse(value: Any) -> StudyConfig:
    """Return a study's configuration from its file's mapping; raise UserError with one line if it is wrong."""
    if not isinstance(value, dict):
        raise UserError(f"a study's file is a mapping of sections, got {type(value).__name__}")
    return validated(StudyConfig, value)


def validated(section: type[AnySection], value: Any, strict: bool = False) -> AnySection:
    """Return a section from its mapping.

    Args:
        section: The class of the section.
        value: The mapping.
        strict: Whether values must have their types already, as in Python. Otherwise numbers are read from text, as
            flags give it.

    Raises:
        UserError: If something is wrong, with one line.
    """
    try:
        return section.model_validate(value, strict=strict)
    except ValidationError as error:
        raise UserError(_one_line(error, section)) from None


def parts(value: Any) -> Any:
    """Return the entries of a text, or of several, that are separated by commas; anything else as it is."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return value
    return [part.strip() for text in texts for part in text.split(",")]


def merged(below: Mapping[str, Any], above: Mapping[str, Any], whole: type[Section] = StudyConfig) -> dict[str, Any]:
    """Return a file's mapping with another laid over it, section by section.

    Args:
        below: The mapping of a file, or of a preset.
        above: The mapping that wins, such as that of flags.
        whole: The definition of the file, which tells sections from other mappings: a space is replaced as a whole.
    """
    mapping = dict(below)
    for name, value in above.items():
        section = section_in(whole.model_fields[name].annotation) if name in whole.model_fields else None
        under, over = _expanded(mapping.get(name), section), _expanded(value, section)
        together = section is not None and isinstance(under, Mapping) and isinstance(over, Mapping)
        mapping[name] = {**under, **over} if together else value
    return mapping


def _expanded(value: Any, section: type[Section] | None) -> Any:
    """Return a section's mapping, also if a bare string stands for it."""
    shorthand = None if section is None else section.shorthand
    return {shorthand: value} if shorthand is not None and isinstance(value, (str, os.PathLike)) else value


def load(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, not validated yet, as flags may still complete it.

    Paths in a file are relative to the file: those that exist come back absolute.

    Raises:
        UserError: If the file cannot be read, or holds no mapping.
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
        raise UserError(f"{path}: a study's file is a mapping of sections, got {got}")
    return located(value, Path(path).absolute().parent)


def located(value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a study's mapping with every relative path that exists in a folder made absolute.

    Args:
        value: The mapping of a file or of flags, not validated yet.
        folder: The folder of the file; for flags the working folder.
    """

    def absolute(name: Any, admits: Callable[[Path], bool]) -> Any:
        """Return the absolute path of a name, or of each in a list, if `admits` accepts it; else the name as it is."""
        if _is_list(name):
            return [absolute(entry, admits) for entry in name]
        path_like = isinstance(name, str) and 0 < len(name) < 1000 and "{" not in name  # a chat template is text
        try:
            return str(folder / name) if path_like and admits(folder / name) else name
        except (OSError, ValueError):  # no file can have that name: the error about the value itself says more
            return name

    mapping = dict(value)
    # Models and data may be folders. Tasks and spaces may not: a folder called hellaswag must not hide the task.
    for section, key, admits in (
        ("model", "path", Path.exists),
        ("data", "path", Path.exists),
        ("data", "chat_template", Path.is_file),
        ("validation", "tasks", Path.is_file),
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
    return mapping


def dump(config: StudyConfig, ascii_only: bool = False) -> str:
    """Return the YAML text of a configuration, defaults included and passwords not; `parse` reads it back.

    Args:
        config: The configuration.
        ascii_only: Whether to write other characters as escapes.
    """
    plain = config.model_dump(mode="json")
    if config.run.storage is not None:
        plain["run"]["storage"] = public(config.run.storage)
    searched = config.space if isinstance(config.space, Mapping) else {}
    for section, kind in (("training", Training), ("data", Data)):
        fields = kind.model_fields
        for name in searched:  # written as null: a value, even the default, would fix what is searched
            if name in fields and plain[section] is not None and plain[section][name] == fields[name].default:
                plain[section][name] = None
    return strict_yaml.dump(plain, ascii_only)


def _one_line(error: ValidationError, whole: type[Section]) -> str:
    """Return the first mistake in one line: its place, what is wrong, and for an unknown key the nearest known one."""
    first = error.errors(include_url=False)[0]
    # The location has parts that are no keys, such as the name of a union's member.
    location = ".".join(str(part) for part in first["loc"] if str(part).isidentifier() or isinstance(part, int))
    if first["type"] == "extra_forbidden":
        *parents, key = first["loc"]
        return f'unknown key "{location}"{suggestion(str(key), _section(whole, parents).model_fields)}'
    message = first["msg"].removeprefix("Value error, ")
    if not location:
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
    """Return the class of the section at a path of keys."""
    for key in path:
        inner = section_in(section.model_fields[str(key)].annotation)
        assert inner is not None
        section = inner
    return section


def section_in(annotation: Any) -> type[Section] | None:
    """Return the class of the section that a field holds, or None if it holds something else."""
    return next((part for part in (annotation, *getattr(annotation, "__args__", ())) if _is_section(part)), None)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
