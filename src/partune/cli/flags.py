"""Flags of a definition's fields, and a file's mapping of flags; a parser that answers a mistake with one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from partune.errors import UserError, suggestion

if TYPE_CHECKING:
    from partune.config import Section


def add_sections(parser: argparse.ArgumentParser, whole: type[Section], without: Collection[str] = ()) -> None:
    """Every field of a file as a flag. without: those that have none, with their section and a dot before."""
    from partune.config import section_in

    top = parser.add_argument_group("study")
    for name, field in whole.model_fields.items():
        section = section_in(field.annotation)
        if section is None:
            if name != "version":
                add_flag(top, (name,), field)
            continue
        group = parser.add_argument_group(name, (section.__doc__ or "").splitlines()[0] if section.__doc__ else None)
        for inner, inner_field in section.model_fields.items():
            if inner_field.annotation != dict[str, Any] and f"{name}.{inner}" not in without:
                add_flag(group, (name, inner), inner_field)


def add_flag(group: Any, path: tuple[str, ...], field: Any, recorded: bool = False) -> None:
    """Add a field as a flag; its value stays text, for the definition itself to read.

    Args:
        group: Of a parser.
        path: The field's section and name.
        field: Of the definition.
        recorded: Whether what is not given is as on record, and not the field's default.
    """
    extra = field.json_schema_extra or {}
    flag = f"--{extra.get('flag', path[-1]).replace('_', '-')}"
    default = field.get_default()
    text = ",".join(map(str, default)) if isinstance(default, tuple) else default
    shown = "" if recorded or field.is_required() or default in (None, ()) else f" (default: {text})"
    about = {
        "dest": ".".join(path),
        "default": argparse.SUPPRESS,
        "help": f"{' '.join((field.description or '').split()).replace('%', '%%')}{shown}",
    }
    if field.annotation is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **about)
    elif "tuple" in str(field.annotation):
        metavar = "NAME" if "str" in str(field.annotation) else path[-1].upper()
        group.add_argument(flag, action="append", metavar=metavar, **about)
    else:
        group.add_argument(flag, metavar=_metavar(path[-1], field.annotation), **about)


def _metavar(name: str, annotation: Any) -> str:
    """The choices of a literal, else the field's name."""
    options = [str(each) for each in get_args(annotation) if isinstance(each, str)]
    return f"{{{','.join(options)}}}" if options and get_origin(annotation) is Literal else name.upper()


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as the mapping of a study's file."""
    mapping: dict[str, Any] = {}
    for dest, value in vars(arguments).items():
        if dest in ("file", "name", "runs", "live", "run", "what", "json", "quiet", "print_config"):
            continue
        *sections, key = dest.split(".")
        place = mapping
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return mapping


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of a flag that takes an integer from a range."""

    def read(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"between {least} and {most}"
            raise argparse.ArgumentTypeError(f"must be {limits}, got {value}")
        return value

    read.__name__ = "integer"  # as argparse calls what it cannot read
    return read


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, the nearest known flag in it, in place of the whole usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(f"unknown argument {unknown[0]}{self._near(unknown[0], found)}")
        return found

    def _near(self, argument: str, found: argparse.Namespace) -> str:
        commands = next(each for each in self._actions if isinstance(each, argparse._SubParsersAction))
        name = getattr(getattr(found, "run", None), "__name__", "")
        command = commands.choices.get(name, self)
        if name in ("resume", "join") and argument.split("=")[0] in _settings():
            return ": a study goes on with the settings that it began with"
        return suggestion(argument.split("=")[0], [flag for each in command._actions for flag in each.option_strings])

    def error(self, message: str) -> NoReturn:
        """With the nearest choice in the place of all of them, where a choice was none."""
        before, known, listed = message.partition(" (choose from ")
        if known:
            given = before.rpartition(": ")[2].strip("'")
            message = before + suggestion(given, [each.strip("'") for each in listed.removesuffix(")").split(", ")])
        raise UserError(message)


def _settings() -> Collection[str]:
    """Return the flags of a study's settings."""
    from partune.config import StudyConfig

    parser = argparse.ArgumentParser()
    add_sections(parser, StudyConfig)
    return parser._option_string_actions


class Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from partune import __version__

        print(f"partune {__version__}")
        parser.exit()
