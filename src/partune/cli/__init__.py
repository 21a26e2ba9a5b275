"""The command line.

parser     every command with its texts and flags
flags      flags of the definition of a study's file (`config.StudyConfig`), and back
commands   what each does
studies    what those share that begin, continue and show studies
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from partune.cli.parser import build_parser
from partune.cli.studies import INTERRUPTED
from partune.errors import UserError
from partune.runtime.terminal import OutputError, guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 (failed, or the output could not be written), 2 (bad input, one line), 130 (interrupted).
    """
    try:
        with guarded():
            return _run(sys.argv[1:] if argv is None else list(argv))
    except OutputError as error:
        if not error.silent:
            print(f"partune: error: standard output cannot be written: {error}", file=sys.stderr)
        return 1


def _run(arguments: Sequence[str]) -> int:
    try:
        parser = build_parser(arguments)
        namespace = parser.parse_args(arguments)
        if not hasattr(namespace, "run"):
            parser.print_help()
            return 0
        status: int = namespace.run(namespace)
    except UserError as error:
        from partune.runtime.urls import masked

        print(f"partune: error: {' '.join(masked(str(error)).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before a study began, or after it ended
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    return status
