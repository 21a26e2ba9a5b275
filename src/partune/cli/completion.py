"""Write completion scripts for shells: commands, flags, and values that are names, files or folders."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from partune.cli.flags import CONFIG
from partune.cli.parser import Parser

# The `dest` of each argument that is a file, or a folder.
FILES = {
    "file",
    "first",
    "second",
    "a",
    "b",
    "data",
    "write",
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
FOLDERS = {
    "directory",
    "like",
    "out",
    "folder",
    "runs",
    *(f"{CONFIG}{key}" for key in ("out", "run.tls", "protocol.out")),
}


def script(parser: Parser, shell: str) -> str:
    """Return the script with which a shell completes the arguments of partune's commands.

    Args:
        parser: The parser of the command line. All flags of its commands are added to it.
        shell: The name of the shell: bash, zsh or tcsh.
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
            # The values of these flags are checked by the definition of a study's file. argparse does not check them,
            # so it has their choices only as a text such as {a,b}.
            action.choices = str(action.metavar).strip("{}").split(",")
    return str(shtab.complete(parser, shell))


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of all its commands, after adding missing ones."""
    if isinstance(parser, Parser):
        parser.complete()
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
