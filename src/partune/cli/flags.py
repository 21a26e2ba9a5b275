"""Flags of a definition's fields, and the mapping of a file that the given flags make."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from partune.config import Section

CONFIG = "config."  # begins the `dest` of each flag that is a key of a definition, and of no other argument


def add_sections(parser: argparse.ArgumentParser, whole: type[Section], without: Collection[str] = ()) -> None:
    """Add a flag for each field of a whole file, a group per section.

    Args:
        parser: The parser of a command.
        whole: The definition of the file.
        without: Fields that get no flag, each as "section.field".
    """
    from partune.config import section_in

    study = parser.add_argument_group("study")
    for name, field in whole.model_fields.items():
        section = section_in(field.annotation)
        if section is None:
            if name != "version":  # of the file's format, which a command line does not have
                add_flag(study, (name,), field)
            continue
        group = parser.add_argument_group(name, first_line(section))
        for key, inner in section.model_fields.items():
            # A mapping of any shape does not fit a flag.
            if inner.annotation != dict[str, Any] and f"{name}.{key}" not in without:
                add_flag(group, (name, key), inner)


def add_fields(parser: argparse.ArgumentParser, section: type[Section]) -> None:
    """Add a flag for each field of a single section.

    Args:
        parser: The parser of a command.
        section: The definition of the command's options.
    """
    for name, field in section.model_fields.items():
        add_flag(parser, (name,), field)


def add_flag(group: Any, path: tuple[str, ...], field: FieldInfo, recorded: bool = False) -> None:
    """Add the flag of one field; its value stays text, for the definition itself to read.

    Args:
        group: A parser, or a group of its arguments.
        path: The names of the field's section, if it has one, and of the field.
        field: The field of the definition.
        recorded: Whether the study's record decides if the flag is not given, so that no default is shown.
    """
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    flag = f"--{str(extra.get('flag', path[-1])).replace('_', '-')}"
    options: dict[str, Any] = {
        "dest": CONFIG + ".".join(path),
        "default": argparse.SUPPRESS,  # what is not given must not override the file
        "help": _help(field, recorded).replace("%", "%%"),
    }
    element = _element(field.annotation)
    if field.annotation is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif element is not None:
        metavar = "NAME" if element is str else path[-1].upper()
        group.add_argument(flag, action="append", metavar=metavar, **options)
    else:
        group.add_argument(flag, metavar=_metavar(path[-1], field.annotation), **options)


def _help(field: FieldInfo, recorded: bool) -> str:
    """Return the field's description with its default."""
    text = " ".join((field.description or "").split())
    default = field.get_default()
    if recorded or field.is_required() or default in (None, ()):
        return text
    # A truth value has a flag for each side, and "True" is no word of a command line.
    words = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
    return f"{text} (default: {','.join(map(str, words)) if isinstance(words, tuple) else words})"


def _element(annotation: Any) -> Any:
    """Return the type of the elements if the annotation is a tuple of any length, else None."""
    if get_origin(annotation) is not tuple:
        return None
    element = get_args(annotation)[0]
    return get_args(element)[0] if get_origin(element) is Annotated else element


def _metavar(name: str, annotation: Any) -> str:
    """Return the choices if the annotation is a literal, which may be optional; otherwise the field's name."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = [part for part in parts if part is not NoneType]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return f"{{{','.join(map(str, get_args(kinds[0])))}}}"
    return name.upper()


def first_line(section: type[Section]) -> str | None:
    """Return the first line of a section's docstring, if it has one of its own."""
    return section.__doc__.splitlines()[0] if section.__doc__ else None


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the flags of a definition that were given, as the mapping of its file."""
    mapping: dict[str, Any] = {}
    for dest, value in vars(arguments).items():
        if dest.startswith(CONFIG):
            *sections, key = dest.removeprefix(CONFIG).split(".")
            section = mapping
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
    return mapping


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the type of a flag that takes an integer from a range.

    Args:
        least: The smallest integer that is accepted.
        most: The largest one; None accepts all from `least`.
    """

    def read(text: str) -> int:
        """Read an integer, and refuse one out of range."""
        value = int(text)
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"between {least} and {most}"
            raise argparse.ArgumentTypeError(f"must be {limits}, got {value}")
        return value

    read.__name__ = "integer"  # argparse names the type so, in a message about text that is none
    return read
