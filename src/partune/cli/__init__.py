"""Run the commands of the command line.

parser      defines every command with its flags and help texts
flags       makes flags from the definition of a study's file (`config.StudyConfig`), and reads them back
commands    has a function for each command
studies     begins, continues and shows studies
progress    shows a person how a running study proceeds
doctor      checks this machine, and whether partune works on it
completion  completes commands in shells
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from partune.cli.flags import as_typed
from partune.cli.parser import build_parser
from partune.cli.studies import INTERRUPTED
from partune.errors import UserError
from partune.runtime.plugins import modules_of_current_folder
from partune.runtime.terminal import OutputError, guarded_streams, output_for_data


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments of the command line, or None for those of this process.

    Returns:
        The exit status: 0, 1 (failed, or the output could not be written), 2 (bad input; the error is printed in one
        line), 130 (interrupted).
    """
    if os.name != "posix":  # processes, signals and file locks are used as POSIX defines them
        print("partune: error: partune needs a POSIX system, such as Linux; on Windows, run it in WSL", file=sys.stderr)
        return 2
    try:
        with guarded_streams(), modules_of_current_folder():
            return _run(sys.argv[1:] if argv is None else list(argv))
    except OutputError as error:
        if not error.silent:
            print(f"partune: error: standard output cannot be written: {error}", file=sys.stderr)
        return 1


def _run(arguments: Sequence[str]) -> int:
    namespace = argparse.Namespace()
    try:
        parser = build_parser()
        parser.parse_args(arguments, namespace)
        if namespace.command is None:
            parser.print_help()
            return 0
        from partune.cli import commands

        with output_for_data() if getattr(namespace, "json", False) else nullcontext():
            status: int = getattr(commands, namespace.command)(namespace)
    except UserError as error:
        from partune.runtime.urls import masked

        message = " ".join(masked(str(error)).splitlines())
        print(f"partune: error: {as_typed(message, namespace)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # raised here only before a study began or after it ended
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    return status
