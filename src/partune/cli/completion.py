"""A shell's completion: commands, flags, and the values that are names or places."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

FILES = {
    "file",
    "model.path",
    "data.path",
    "data.chat_template",
    "validation.tasks",
    "test.tasks",
    "run.cluster",
    "protocol.upper",
}
FOLDERS = {"directory", "out", "folder", "runs", "run.tls", "protocol.out"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What bash, zsh or tcsh has to read to complete the parser's arguments."""
    import shtab

    from partune.optimizers import ALGORITHMS
    from partune.space import SPACES

    names = {"search.algorithm": ["auto", *ALGORITHMS], "space": [*SPACES]}
    for action in actions(parser):
        if action.dest in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.dest in names:
            action.choices = names[action.dest]
        elif action.choices is None and str(action.metavar).startswith("{"):
            action.choices = str(action.metavar).strip("{}").split(",")
    return str(shtab.complete(parser, shell))


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of the parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
