"""One typed definition of a study for the YAML file, the command line and Python.

Every section is a frozen pydantic model that refuses unknown keys. A mistake becomes one `UserError` line that names
the place and, for an unknown key, the nearest known one. `FLAG` in a field's metadata is its name on the command line
where the field's own name would be ambiguous.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from partune.config.sections import AnySection, Data, Section, StudyConfig, Training
from partune.errors import MOST, UserError, shown, suggestion
from partune.runtime import paths, strict_yaml
from partune.runtime.urls import masked, public


def parse(value: Any) -> StudyConfig:
    """A study's configuration from the file's mapping; raises UserError with one line."""
    if not isinstance(value, dict):
        raise UserError(f"a study's file is a mapping of sections, got {type(value).__name__}")
    return validated(StudyConfig, value)


def validated(section: type[AnySection], value: Any, strict: bool = False) -> AnySection:
    """Return a section from its mapping.

    Args:
        section: Which.
        value: The mapping.
        strict: Whether values have their types already, as in Python, and none is read from a text or a truth value.

    Raises:
        UserError: With one line.
    """
    try:
        return section.model_validate(value, strict=strict)
    except ValidationError as error:
        raise UserError(_one_line(error, section)) from None


def parts(value: Any) -> Any:
    """The entries of one text or several, with commas between."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return value
    return [part.strip() for text in texts for part in text.split(",")]


def merged(below: Mapping[str, Any], above: Mapping[str, Any], whole: type[Section] = StudyConfig) -> dict[str, Any]:
    """A file's mapping with another laid over it, section by section."""
    found = dict(below)
    for name, value in above.items():
        section = section_in(whole.model_fields[name].annotation) if name in whole.model_fields else None
        under, over = (_expanded(each, section) for each in (found.get(name), value))
        together = section is not None and isinstance(under, Mapping) and isinstance(over, Mapping)
        found[name] = {**under, **over} if together else value
    return found


def _expanded(value: Any, section: type[Section] | None) -> Any:
    """A section's mapping, where its shorthand stands for it."""
    shorthand = None if section is None else section.shorthand
    return {shorthand: value} if shorthand is not None and isinstance(value, (str, os.PathLike)) else value


def load(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, unvalidated (flags may still complete it); raises UserError.

    Paths in a file are relative to the file: those that exist there come back absolute.
    """
    path = paths.place(path)
    try:
        value = strict_yaml.read(path)
    except OSError as error:
        beside = sorted(each.name for each in Path(path).absolute().parent.glob("*.y*ml"))
        hint = suggestion(Path(path).name, beside) if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"cannot read {path}: {error.strerror}{hint}") from None
    if not isinstance(value, dict):
        got = "an empty file" if value is None else type(value).__name__
        raise UserError(f"{path}: a study's file is a mapping of sections, got {got}")
    return located(value, Path(path).absolute().parent)


def located(value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A study's mapping with every relative path that exists in `folder` made absolute.

    A model or data may be a folder; a folder of a task's or a space's name is none.
    """

    def place(name: Any, admits: Callable[[Path], bool]) -> Any:
        if _is_list(name):
            return [place(each, admits) for each in name]
        path_like = isinstance(name, str) and 0 < len(name) < 1000 and "{" not in name  # a chat template is text
        try:
            return str(folder / name) if path_like and admits(folder / name) else name
        except (OSError, ValueError):  # no file can have that name; what means it says so
            return name

    found = dict(value)
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
        part = found.get(section)
        if isinstance(part, Mapping) and key in part:
            found[section] = {**part, key: place(part[key], admits)}
        elif isinstance(part, str) and key == "path":
            found[section] = place(part, admits)
    if "space" in found:
        found["space"] = place(found["space"], Path.is_file)
    return found


def dump(config: StudyConfig, ascii_only: bool = False) -> str:
    """Return the YAML text of a configuration, defaults included; `parse` reads it back.

    What is searched is null in its section: a value would fix it.

    Without the password of a storage's URL.
    """
    plain = config.model_dump(mode="json")
    if config.run.storage is not None:
        plain["run"]["storage"] = public(config.run.storage)
    searched = config.space if isinstance(config.space, Mapping) else {}
    for section, kind in (("training", Training), ("data", Data)):
        fields = kind.model_fields
        for name in searched:  # given, it would be fixed
            if name in fields and plain[section] is not None and plain[section][name] == fields[name].default:
                plain[section][name] = None
    return strict_yaml.dump(plain, ascii_only)


def _one_line(error: ValidationError, whole: type[Section]) -> str:
    """The first mistake in one line, its place first; for an unknown key with the nearest known one."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"] if str(part).isidentifier() or isinstance(part, int))
    if first["type"] == "extra_forbidden":
        *parents, key = first["loc"]
        return f'unknown key "{place}"{suggestion(str(key), _section(whole, parents).model_fields)}'
    message = first["msg"].removeprefix("Value error, ")
    if not place:
        return message
    if first["type"] == "missing":
        return f"{place} is missing"
    got = (
        ""
        if isinstance(first["input"], Mapping) and first["type"] == "value_error"
        else f", got {shown(first['input'], MOST)}"
    )
    return masked(f"{place}: {message[0].lower()}{message[1:]}{got}")


def _section(section: type[Section], path: list[int | str]) -> type[Section]:
    """The section class at a path of keys from the top."""
    for key in path:
        inner = section_in(section.model_fields[str(key)].annotation)
        assert inner is not None
        section = inner
    return section


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field holds; None where it is none."""
    return next((part for part in (annotation, *getattr(annotation, "__args__", ())) if _is_section(part)), None)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
