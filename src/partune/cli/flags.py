"""Make flags from the definition of a settings file, and turn parsed flags into the data that such a file holds."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from partune.errors import shown

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from partune.config import Section

CONFIG = "config."  # how the `dest` of a flag begins if the flag stands for a key of a file


def add_sections(parser: argparse.ArgumentParser, definition: type[Section], without: Collection[str] = ()) -> None:
    """Add a flag for each field of a file, with one group per section.

    Args:
        parser: The parser of a command.
        definition: The definition of the file.
        without: The fields that get no flag, each as "section.field".
    """
    from partune.config import section_in

    study = parser.add_argument_group("study")
    for name, field in definition.model_fields.items():
        section = section_in(field.annotation)
        if section is None:
            if name != "version":  # the version of the file's format has no flag
                add_flag(study, (name,), field)
            continue
        group = parser.add_argument_group(name, first_line(section))
        for key, inner in section.model_fields.items():
            # A mapping with any keys does not fit into a flag.
            if inner.annotation != dict[str, Any] and f"{name}.{key}" not in without:
                add_flag(group, (name, key), inner)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where a new study is kept."""
    parser.add_argument("--name", help="Name the study. Its directory is RUNS/NAME.")
    parser.add_argument("--runs", default="runs", help="Keep studies in this folder. (default: %(default)s)")


def add_fields(parser: argparse.ArgumentParser, section: type[Section]) -> None:
    """Add a flag for each field of a single section.

    Args:
        parser: The parser of a command.
        section: The definition of the command's options.
    """
    for name, field in section.model_fields.items():
        add_flag(parser, (name,), field)


def add_flag(group: Any, path: tuple[str, ...], field: FieldInfo, recorded: bool = False) -> None:
    """Add the flag of one field. Its value stays a text, which the definition parses later.

    Args:
        group: A parser, or a group of its arguments.
        path: The name of the field, after the name of its section if it has one.
        field: The field of the definition.
        recorded: Whether the value on record applies if the flag is not set. The help then shows no default.
    """
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    flag = flag_of(path[-1], field)
    options: dict[str, Any] = {
        "dest": CONFIG + ".".join(path),
        "default": argparse.SUPPRESS,  # a flag that is not set must not override the file
        "help": _help(field, recorded).replace("%", "%%"),
    }
    if extra.get("escapes"):
        options["type"] = unescaped
    element = _element(field.annotation)
    if field.annotation is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif element is not None:
        metavar = "NAME" if element is str else path[-1].upper()
        group.add_argument(flag, action="append", metavar=metavar, **options)
    else:
        group.add_argument(flag, metavar=_metavar(path[-1], field.annotation), **options)


def flag_of(name: str, field: FieldInfo | None) -> str:
    """Return the flag of a field.

    Args:
        name: The name of the field.
        field: The field; None if its definition does not rename the flag.
    """
    extra = field.json_schema_extra if field is not None else None
    renamed = extra.get("flag", name) if isinstance(extra, dict) else name
    return f"--{str(renamed).replace('_', '-')}"


def _help(field: FieldInfo, recorded: bool) -> str:
    """Return the description of a field, followed by its default."""
    text = " ".join((field.description or "").split())
    default = field.get_default()
    if recorded or field.is_required() or default in (None, ()):
        return text
    # A boolean has the flags --x and --no-x, so "True" would not be a value that a user can type.
    words = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
    return f"{text} (default: {','.join(map(str, words)) if isinstance(words, tuple) else words})"


def _element(annotation: Any) -> Any:
    """Return the type of the elements if an annotation is a tuple, or None otherwise."""
    if get_origin(annotation) is not tuple:
        return None
    element = get_args(annotation)[0]
    return get_args(element)[0] if get_origin(element) is Annotated else element


def _metavar(name: str, annotation: Any) -> str:
    """Return the choices if an annotation is a literal or an optional literal, or the field's name otherwise."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = [part for part in parts if part is not NoneType]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return f"{{{','.join(map(str, get_args(kinds[0])))}}}"
    return name.upper()


def unescaped(text: str) -> str:
    r"""Replace the escapes \n, \t and \\, which users type in a shell; any other backslash stays."""
    return re.sub(r"\\([nt\\])", lambda escape: {"n": "\n", "t": "\t"}.get(escape[1], escape[1]), text)


def first_line(section: type[Section]) -> str | None:
    """Return the first line of a section's docstring, or None if it has no docstring."""
    return section.__doc__.splitlines()[0] if section.__doc__ else None


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the flags that were set on the command line, nested like the data of a file."""
    mapping: dict[str, Any] = {}
    for dest, value in vars(arguments).items():
        if dest.startswith(CONFIG):
            *sections, key = dest.removeprefix(CONFIG).split(".")
            section = mapping
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
    return mapping


def as_typed(message: str, arguments: argparse.Namespace) -> str:
    """Return a message in which each setting that was typed as a flag has the name of its flag.

    Messages name settings as in a study's file: `validation.split`, `baseline.0`, or the name alone at the beginning if
    the section was checked by itself.

    Args:
        message: The message.
        arguments: The parsed arguments.
    """
    for dest in vars(arguments):
        if dest.startswith(CONFIG):
            path = dest.removeprefix(CONFIG)
            *sections, name = path.split(".")
            flag = flag_of(name, _field(path))
            entry = r"(\.\d+)?"  # the position in a list
            if sections:  # not as part of a path of a file, such as a/validation.data.csv
                message = re.sub(rf"(?<![\w./~-]){re.escape(path)}{entry}(?!\.?\w)", flag, message)
            alone = sections[-1] if name == "path" else name
            message = re.sub(rf"^{re.escape(alone)}{entry}(?=: | would )", flag, message)
    return message


def _field(path: str) -> FieldInfo | None:
    """Return the field of a study's file that a path such as "validation.split" leads to, or None."""
    from partune.config import StudyConfig, section_in

    section: type[Section] | None = StudyConfig
    field = None
    for name in path.split("."):
        field = section.model_fields.get(name) if section is not None else None
        section = section_in(field.annotation) if field is not None else None
    return field


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type for flags that accept integers in a range.

    Args:
        least: The smallest accepted integer.
        most: The largest accepted integer, or None for no limit.
    """

    def read(text: str) -> int:
        """Parse an integer, and refuse one outside the range."""
        value = int(text)
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"between {least} and {most}"
            raise argparse.ArgumentTypeError(f"must be {limits}, got {value}")
        return value

    read.__name__ = "integer"  # argparse shows this name in the message about a text that is not an integer
    return read


def real(text: str) -> float:
    """Parse a number, for flags; whoever uses it checks its range."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {shown(text)}") from None
