"""Completion for shells: commands, flags, and those values that are names, files or folders."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from partune.cli.flags import CONFIG
from partune.cli.parser import Parser

# Arguments by their `dest`.
FILES = {
    "file",
    *(
        f"{CONFIG}{key}"
        for key in (
            "model.path",
            "data.path",
            "data.chat_template",
            "validation.tasks",
            "test.tasks",
            "run.cluster",
            "protocol.upper",
        )
    ),
}
FOLDERS = {"directory", "out", "folder", "runs", *(f"{CONFIG}{key}" for key in ("out", "run.tls", "protocol.out"))}


def script(parser: Parser, shell: str) -> str:
    """Return what a shell has to read to complete the arguments of a command line.

    Args:
        parser: The parser of the command line. Its commands get all their flags.
        shell: bash, zsh or tcsh.
    """
    import shtab

    from partune.optimizers import ALGORITHMS
    from partune.space import SPACES

    names = {f"{CONFIG}search.algorithm": ["auto", *ALGORITHMS], f"{CONFIG}space": [*SPACES]}
    for action in actions(parser):
        if action.dest in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.dest in names:
            action.choices = names[action.dest]
        elif action.choices is None and str(action.metavar).startswith("{"):
            # Flags of a definition leave the check of their value to it, so argparse has their choices as text only.
            action.choices = str(action.metavar).strip("{}").split(",")
    return str(shtab.complete(parser, shell))


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of all its commands, which are complete then."""
    if isinstance(parser, Parser):
        parser.complete()
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
